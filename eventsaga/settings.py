"""Which knobs are there? Each with its unit and default; all may come from the environment."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from typing import Any, Final, Self

from eventsaga.errors import SettingsError

_PREFIX: Final = "EVENTSAGA_"
IDENTIFIER: Final = re.compile(r"(?!pg_)[a-z_][a-z0-9_]{0,49}")
"""What a schema or a table may be called here: quotes are all that it needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How an orchestrator behaves. Each field is also ``EVENTSAGA_<FIELD>``, in seconds.

    Attributes:
        schema: PostgreSQL schema of all tables.
        max_concurrency: Sagas that one worker holds in memory at once.
        heartbeat: Between two renewals of the worker's lease.
        lease: A worker that is silent for so long is taken for dead. At least three
            heartbeats, so that one lost renewal does not cost the lease.
        lease_margin: A worker starts no effect when less than this is left of its lease.
        poll: Longest time between two looks for sagas that are due or orphaned.
        watch: Between two looks for what a person should know of: see `Alert`.
        stuck_after: Without progress for so long, a saga is such, unless its definition says
            otherwise.
        release_after: A saga that has only to wait for longer than this leaves memory.
        drain_timeout: On shutdown, running attempts may take this long to end.
        trust_keys: Whether sagas go on by themselves after the database may have lost commits,
            if none of their steps has a `key_ttl`: every participant remembers keys for ever.
        poison_claims: A saga taken over so often without progress is parked.
        recovery_rate: Sagas of dead workers that one worker takes over in a second at most:
            after a wide outage, participants get their requests back bit by bit.
        append_batch: Sagas in one append at most.
        append_writers: Connections that append. With two, one batch is built while the
            other is in flight.
        role: PostgreSQL role that every connection takes on, such as eventsaga_worker; "" for
            that of the user who logs in. Not behind a transaction pooler.
        codec: What seals payloads, as module:name of a `PayloadCodec` or of a function that
            returns one; "" for nothing.
        statement_timeout: An append or a query that takes longer is given up, and its
            outcome is read back.
        pool_size: Connections for everything but appends and transactional steps.
        transactions: Transactional steps that run at once; each holds a connection.
        thread_pool: Threads for steps that are plain functions.
        pooler: Whether a transaction pooler (PgBouncer) stands before the database: no
            prepared statements are kept.

    Raises:
        SettingsError: If a value cannot work.
    """

    schema: str = "eventsaga"
    role: str = ""
    codec: str = ""
    max_concurrency: int = 1000
    heartbeat: timedelta = timedelta(seconds=2)
    lease: timedelta = timedelta(seconds=10)
    lease_margin: timedelta = timedelta(seconds=1)
    poll: timedelta = timedelta(seconds=1)
    watch: timedelta = timedelta(seconds=30)
    stuck_after: timedelta = timedelta(minutes=5)
    release_after: timedelta = timedelta(seconds=5)
    drain_timeout: timedelta = timedelta(seconds=20)
    poison_claims: int = 5
    recovery_rate: int = 500
    trust_keys: bool = False
    append_batch: int = 200
    append_writers: int = 2
    statement_timeout: timedelta = timedelta(seconds=15)
    pool_size: int = 4
    transactions: int = 10
    thread_pool: int = 32
    pooler: bool = False

    def __post_init__(self) -> None:
        if not IDENTIFIER.fullmatch(self.schema):
            raise SettingsError(
                f"schema {self.schema!r} must be lower-case letters, digits and '_' (at most 50), "
                "and not begin with 'pg_'"
            )
        if self.role and not IDENTIFIER.fullmatch(self.role):
            raise SettingsError(f"role {self.role!r} must be lower-case letters, digits and '_'")
        if self.lease < 3 * self.heartbeat:
            raise SettingsError("lease must be at least three heartbeats")
        if self.lease_margin >= self.lease - self.heartbeat:
            raise SettingsError("lease_margin leaves no time to work between two heartbeats")
        for field in fields(self):
            value = getattr(self, field.name)
            zero: Any = timedelta(0) if isinstance(value, timedelta) else 0
            if not isinstance(value, str | bool) and value <= zero:
                raise SettingsError(f"{field.name} must be positive, not {value}")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ, **overrides: Any) -> Self:
        """Return the settings that ``EVENTSAGA_*`` variables ask for.

        Args:
            environ: Where to look.
            **overrides: Fields that are set here stand above the environment.

        Raises:
            SettingsError: If a variable has no value that fits its field.
        """
        settings = cls()
        found: dict[str, Any] = {}
        for field in fields(cls):
            text = environ.get(_PREFIX + field.name.upper())
            if text:
                found[field.name] = _parse(field.name, text, getattr(settings, field.name))
        return replace(settings, **(found | overrides))


def _parse(name: str, text: str, default: object) -> object:
    try:
        if isinstance(default, bool):
            return {"1": True, "true": True, "0": False, "false": False}[text.lower()]
        if isinstance(default, timedelta):
            return timedelta(seconds=float(text))
        return int(text) if isinstance(default, int) else text
    except (KeyError, ValueError, OverflowError) as error:
        kind = "seconds" if isinstance(default, timedelta) else type(default).__name__
        raise SettingsError(f"{_PREFIX}{name.upper()}={text!r} is not {kind}") from error

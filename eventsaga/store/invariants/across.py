"""What can no saga's own rows tell? Who is whose, and who goes on with it: 5, 15 and 16."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple, TypeGuard
from uuid import UUID

from eventsaga.store.examine import LIVENESS, EventRecord, Violation
from eventsaga.store.invariants.catalogue import EXCLUSIVE_GRANT, START_DEDUP
from eventsaga.wire.payload import load

_STARTED: Final = "SagaStarted"

StartKey = tuple[str, str]
"""Name of the saga, and the key."""


class Keyed(NamedTuple):
    """A saga that was started with a key."""

    saga_id: UUID
    start_key: StartKey


class Due(NamedTuple):
    """A saga that has not settled, and who should go on with it.

    Attributes:
        saga_id: The saga.
        owner: The worker that has it; None if none has.
        wake_at: When it is due, if nobody has it; None if never.
        lease_until: Until when its owner may go on; None if there is no such worker.
    """

    saga_id: UUID
    owner: UUID | None
    wake_at: datetime | None
    lease_until: datetime | None


class Grant(NamedTuple):
    """A worker might write to a saga, from one instant until before another."""

    saga_id: UUID
    worker_id: UUID
    begin: datetime
    end: datetime


def start_key_of(records: Sequence[EventRecord]) -> StartKey | None:
    """Return the key that a saga says it was started with; None if it says nothing."""
    first = records[0] if records else None
    if first is None or first.type != _STARTED or first.data is None or '"key"' not in first.data:
        return None
    try:
        data = load(first.data)
        name, key, tenant = data["saga_name"], data.get("key"), data.get("tenant")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None  # reported as what it is: unreadable
    if not _is_text(name) or not _is_text(key):
        return None
    return name, f"{tenant}\x1f{key}" if _is_text(tenant) else key


def _is_text(value: object) -> TypeGuard[str]:
    """Whether PostgreSQL could hold it; what it cannot was never a key."""
    if not isinstance(value, str) or "\0" in value:
        return False
    return value.encode(errors="replace").decode() == value


def judge_starts(
    sagas: Iterable[Keyed], sagas_by_key: Mapping[StartKey, UUID]
) -> Iterator[Violation]:
    """Yield the sagas whose start key does not stand for them (5)."""
    for saga_id, start_key in sagas:
        found, (name, key) = sagas_by_key.get(start_key), start_key
        if found is None:
            message = f"its start key {key!r} is not kept: a second start of {name!r} would run"
            yield Violation(saga_id, 1, START_DEDUP, message)
        elif found != saga_id:
            message = f"its start key {key!r} stands for saga {found}"
            yield Violation(saga_id, 1, START_DEDUP, message)


def judge_keys(lost: Iterable[Keyed]) -> Iterator[Violation]:
    """Yield the start keys, all in *lost*, that stand for a saga which was never started (5)."""
    for saga_id, (name, key) in lost:
        message = f"start key {key!r} of {name!r} stands for it, and there is no such saga"
        yield Violation(saga_id, None, START_DEDUP, message)


def judge_due(
    sagas: Iterable[Due], now: datetime, grace: timedelta | None = None
) -> Iterator[Violation]:
    """Yield the sagas that nobody goes on with (16).

    Args:
        sagas: Those that have not settled, or some of them.
        now: The database's clock.
        grace: How late somebody may be; None if nobody need be there now.
    """
    for saga_id, owner, wake_at, lease_until in sagas:
        if owner is not None and lease_until is None:
            message = f"it belongs to worker {owner}, which does not exist: it is never taken over"
            yield Violation(saga_id, None, LIVENESS, message)
            continue
        since = wake_at if owner is None else lease_until
        if grace is not None and since is not None and now - since > grace:
            what = "it is due" if owner is None else f"the lease of its worker {owner} has ended"
            yield Violation(saga_id, None, LIVENESS, f"{what} since {since}")


def judge_grants(grants: Iterable[Grant]) -> Iterator[Violation]:
    """Yield where two workers had a saga at the same time (15).

    Tables keep no past grants: whoever tests leases records them, by the database's clock.
    """
    by_saga: defaultdict[UUID, list[Grant]] = defaultdict(list)
    for grant in grants:
        by_saga[grant.saga_id].append(grant)
    for saga_id, given in by_saga.items():
        given.sort(key=lambda grant: grant.begin)
        holder: Grant | None = None
        for grant in given:
            if holder is not None and _overlap(holder, grant):
                message = (
                    f"granted to {grant.worker_id} at {grant.begin}, while "
                    f"{holder.worker_id} had it until {holder.end}"
                )
                yield Violation(saga_id, None, EXCLUSIVE_GRANT, message)
            if holder is None or grant.end > holder.end:
                holder = grant


def _overlap(holder: Grant, later: Grant) -> bool:
    return holder.worker_id != later.worker_id and later.begin < holder.end

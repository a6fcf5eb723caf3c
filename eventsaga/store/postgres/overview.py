"""How is it going? Rates, what is in flight, what waits, who works: one look, in few queries."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from eventsaga.store.ports import DefinitionKey
from eventsaga.store.postgres.sql import qualify
from eventsaga.store.postgres.store import PostgresStore
from eventsaga.store.postgres.watch import DOUBTS

# Ids grow with time, so the youngest are at the end of the key; events lie in order of time.
RATES: Final = f"""
SELECT (SELECT count(*) FROM eventsaga.sagas
         WHERE saga_id > (lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint - 60000), 12, '0')
                          || repeat('0', 20))::uuid
           AND created_at > now() - interval '1 min') AS started,
       (SELECT count(*) FROM eventsaga.events
         WHERE occurred_at > now() - interval '1 min'
           AND type IN ('SagaCompleted', 'SagaCompensated', 'SagaFailed')) AS ended,
       (SELECT count(*) FROM eventsaga.events
         WHERE occurred_at > now() - interval '1 min' AND type = 'StepFailed') AS failed,
       (SELECT count(*) FROM {DOUBTS}
         WHERE s.status NOT IN ('COMPLETED', 'COMPENSATED', 'FAILED')) AS in_doubt,
       now() AS at
"""  # noqa: S608 - parts of our own

UNFINISHED: Final = """
SELECT status, count(*) AS sagas, min(saga_id::text)::uuid AS oldest
  FROM eventsaga.sagas
 WHERE status NOT IN ('COMPLETED', 'COMPENSATED', 'FAILED')
 GROUP BY status
"""

OLDEST: Final = "SELECT saga_id, name, created_at FROM eventsaga.sagas WHERE saga_id = $1"

WORKERS: Final = """
SELECT worker_id, host, pid, started_at, heartbeat_at,
       lease_until - clock_timestamp() AS lease_left,
       (SELECT count(*) FROM eventsaga.sagas s WHERE s.owner = w.worker_id) AS sagas
  FROM eventsaga.workers w
 ORDER BY host, pid
"""

# By minute, each from its beginning; the last one has not ended yet.
THROUGHPUT: Final = """
SELECT minute, sum(started)::bigint AS started, sum(ended)::bigint AS ended
  FROM (SELECT date_trunc('minute', created_at) AS minute, count(*) AS started, 0 AS ended
          FROM eventsaga.sagas
         WHERE saga_id > (lpad(to_hex((extract(epoch FROM $1::timestamptz) * 1000)::bigint),
                               12, '0') || repeat('0', 20))::uuid
           AND created_at >= $1::timestamptz
         GROUP BY 1
         UNION ALL
        SELECT date_trunc('minute', occurred_at), 0, count(*)
          FROM eventsaga.events
         WHERE occurred_at >= $1::timestamptz
           AND type IN ('SagaCompleted', 'SagaCompensated', 'SagaFailed')
         GROUP BY 1) m
 GROUP BY minute
"""

IN_FLIGHT: Final = """
SELECT d.name, d.version, d.fingerprint, d.first_seen_at,
       coalesce(s.sagas, 0) AS unfinished, coalesce(s.parked, 0) AS parked,
       concat_ws(':', d.name, d.version, d.fingerprint) IN (
           SELECT unnest(w.definitions) FROM eventsaga.workers w
            WHERE w.lease_until > statement_timestamp()) AS has_worker
  FROM eventsaga.definitions d
  LEFT JOIN (SELECT name, version, fingerprint, count(*) AS sagas,
                    count(*) FILTER (WHERE status = 'PARKED') AS parked
               FROM eventsaga.sagas
              WHERE status NOT IN ('COMPLETED', 'COMPENSATED', 'FAILED')
              GROUP BY name, version, fingerprint) s USING (name, version, fingerprint)
 ORDER BY d.name, d.version DESC, d.first_seen_at DESC
"""

STANDING: Final = """
SELECT saga_id, last_seq FROM eventsaga.sagas WHERE saga_id = ANY ($1::uuid[])
"""

STATUSES: Final = ("PENDING", "RUNNING", "COMPENSATING", "PARKED")
"""Those of sagas that have not ended, in the order in which a person reads them."""

_MINUTE: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRow:
    """A worker, and how long it may still append.

    Attributes:
        sagas: How many it holds.
        lease_left: Negative if its lease has ended, and its sagas are taken over.
    """

    worker_id: UUID
    host: str
    pid: int
    sagas: int
    lease_left: timedelta
    started_at: datetime
    heartbeat_at: datetime

    @property
    def lives(self) -> bool:
        """Whether its lease had not ended when it was looked at."""
        return self.lease_left > timedelta()


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """What one look has found.

    Attributes:
        at: When, by the database's clock.
        started: Sagas in the last minute.
        ended: Sagas in the last minute.
        failed: Attempts of steps in the last minute.
        in_doubt: Effects that may have happened, and nobody knows, of sagas that go on.
        by_status: How many have not ended, by where they stand.
        oldest: Of those that have not ended: its id, name and time of start.
        workers: All that were not swept yet, those whose lease has ended among them.
    """

    at: datetime
    started: int
    ended: int
    failed: int
    in_doubt: int
    by_status: dict[str, int]
    oldest: dict[str, Any] | None = None
    workers: list[WorkerRow] = field(default_factory=list[WorkerRow])

    @property
    def active(self) -> int:
        """How many have not ended, and wait for nobody."""
        return sum(count for status, count in self.by_status.items() if status != "PARKED")


@dataclass(frozen=True, slots=True, kw_only=True)
class Minute:
    """What began and what ended within one minute.

    Attributes:
        at: Its beginning.
    """

    at: datetime
    started: int
    ended: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InFlight:
    """A definition that a process has brought, and its sagas that have not ended.

    Attributes:
        has_worker: Whether a living worker would run them.
    """

    name: str
    version: int
    fingerprint: str
    first_seen_at: datetime
    unfinished: int
    parked: int
    has_worker: bool

    @property
    def key(self) -> DefinitionKey:
        """What a worker must have to run them."""
        return self.name, self.version, self.fingerprint


async def overview(store: PostgresStore) -> Overview:
    """Return how it is going."""
    schema = store.settings.schema
    async with store.connection() as connection:
        found = await connection.fetchrow(qualify(RATES, schema))
        assert found is not None
        rows = await connection.fetch(qualify(UNFINISHED, schema))
        first = min((row["oldest"] for row in rows), default=None)
        old = None
        if first is not None:
            old = await connection.fetchrow(qualify(OLDEST, schema), first)
        workers = await connection.fetch(qualify(WORKERS, schema))
    return Overview(
        **dict(found),
        by_status={row["status"]: row["sagas"] for row in rows},
        oldest=None if old is None else dict(old),
        workers=[WorkerRow(**dict(row)) for row in workers],
    )


async def in_flight(store: PostgresStore) -> list[InFlight]:
    """Return all definitions by name, the newest version first."""
    async with store.connection() as connection:
        rows = await connection.fetch(qualify(IN_FLIGHT, store.settings.schema))
    return [InFlight(**dict(row)) for row in rows]


async def standing(store: PostgresStore, saga_ids: list[UUID]) -> dict[UUID, int]:
    """Return the number of events of each saga that there is."""
    async with store.connection() as connection:
        rows = await connection.fetch(qualify(STANDING, store.settings.schema), saga_ids)
    return {row["saga_id"]: row["last_seq"] for row in rows}


class Throughput:
    """Counts by minute; what has ended is counted once and kept.

    Args:
        minutes: So many, the present one included.
    """

    def __init__(self, minutes: int = 60) -> None:
        self._minutes = minutes
        self._kept: dict[datetime, Minute] = {}

    async def look(self, store: PostgresStore, now: datetime) -> list[Minute]:
        """Return each minute until *now*, oldest first.

        Args:
            store: An open store.
            now: The database's clock.
        """
        last = now.replace(second=0, microsecond=0)
        wanted = [last - _MINUTE * back for back in reversed(range(self._minutes))]
        # An event may be stored a while after it has happened.
        settled = last - 2 * _MINUTE
        since = next((at for at in wanted if at not in self._kept or at > settled), last)
        async with store.connection() as connection:
            rows = await connection.fetch(qualify(THROUGHPUT, store.settings.schema), since)
        found = {row["minute"]: row for row in rows}
        for at in wanted:
            if at >= since:
                row = found.get(at)
                self._kept[at] = Minute(
                    at=at,
                    started=0 if row is None else row["started"],
                    ended=0 if row is None else row["ended"],
                )
        self._kept = {at: self._kept[at] for at in wanted}
        return list(self._kept.values())

"""What waits, for how long, and for whom? Counted for gauges, and named for alerts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

from eventsaga.store.postgres.sql import qualify
from eventsaga.store.postgres.store import PostgresStore

# A saga that nobody owns and that is not due, sleeps or waits for a signal: that is no standstill.
_STUCK: Final = """
s.status IN ('PENDING', 'RUNNING', 'COMPENSATING')
  AND CASE WHEN s.owner IS NULL THEN s.wake_at ELSE s.updated_at END
      < statement_timestamp() - coalesce(l.allowed, $3::interval)
"""

_LIMITS: Final = """
LEFT JOIN unnest($1::text[], $2::interval[]) AS l(name, allowed) ON l.name = s.name
"""

_ENDED: Final = "('COMPLETED', 'COMPENSATED', 'FAILED')"

STANDING: Final = f"""
SELECT s.name, s.status, count(*) AS sagas, count(*) FILTER (WHERE {_STUCK}) AS stuck,
       extract(epoch FROM statement_timestamp() - min(s.created_at))::float8 AS oldest
  FROM eventsaga.sagas s {_LIMITS}
 WHERE s.status NOT IN {_ENDED}
 GROUP BY s.name, s.status
"""  # noqa: S608 - parts of our own

# From those that have not ended to their doubts, which OFFSET 0 makes sure of: those of all
# others are many more in time.
DOUBTS: Final = """
eventsaga.sagas s
  CROSS JOIN LATERAL (SELECT * FROM eventsaga.in_doubt i WHERE i.saga_id = s.saga_id OFFSET 0) d
"""

IN_DOUBT: Final = f"""
SELECT s.name, count(*) AS steps FROM {DOUBTS} WHERE s.status NOT IN {_ENDED} GROUP BY s.name
"""  # noqa: S608 - as above

WORKERS: Final = """
SELECT host, pid, extract(epoch FROM lease_left)::float8 AS lease_left
  FROM eventsaga.workers_live
"""

# Each kind has room of its own, for the oldest: a flood of one must not hide the others.
CASES: Final = f"""
(SELECT 'stuck' AS kind, s.saga_id, s.name, s.current_steps[1] AS step,
        CASE WHEN s.owner IS NULL THEN s.wake_at ELSE s.updated_at END AS since,
        'no progress as ' || s.status
            || CASE WHEN s.owner IS NULL THEN ', and no worker takes it' ELSE '' END AS message
   FROM eventsaga.sagas s {_LIMITS}
  WHERE s.status NOT IN {_ENDED} AND s.name = ANY ($1::text[]) AND {_STUCK}
  ORDER BY since LIMIT $4)
UNION ALL
(SELECT 'parked', s.saga_id, s.name, s.error->>'step_name', s.updated_at AS since,
        coalesce(s.error->>'message', '')
   FROM eventsaga.sagas s
  WHERE s.status = 'PARKED' AND s.name = ANY ($1::text[])
  ORDER BY since LIMIT $4)
UNION ALL
(SELECT 'in_doubt', s.saga_id, s.name, d.step, d.since AS since, coalesce(d.message, '')
   FROM {DOUBTS} {_LIMITS}
  WHERE s.status NOT IN {_ENDED} AND s.name = ANY ($1::text[])
    AND d.since < statement_timestamp() - coalesce(l.allowed, $3::interval)
  ORDER BY since LIMIT $4)
"""  # noqa: S608 - as above

# The worker that has lived longest of those that bring a name; every name has one, or nobody.
LEADERS: Final = """
SELECT DISTINCT ON (name) name, worker_id
  FROM (SELECT split_part(unnest(w.definitions), ':', 1) AS name, w.worker_id, w.started_at
          FROM eventsaga.workers w
         WHERE w.lease_until > statement_timestamp()) brought
 ORDER BY name, started_at, worker_id
"""

NEXT_SAGAS: Final = """
SELECT saga_id, last_seq AS events
  FROM eventsaga.sagas
 WHERE saga_id > $1::uuid
 ORDER BY saga_id
 LIMIT $2
"""


class Standing(NamedTuple):
    """The sagas of one name and status that have not ended.

    Attributes:
        name: Their definition.
        status: Where they stand.
        sagas: How many.
        stuck: How many of them have made no progress for longer than they may.
        oldest: Seconds since the first of them was started.
    """

    name: str
    status: str
    sagas: int
    stuck: int
    oldest: float


class LiveWorker(NamedTuple):
    """A worker whose lease has not ended; *lease_left* is in seconds."""

    host: str
    pid: int
    lease_left: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """What the database says at one moment.

    Attributes:
        standing: Sagas that have not ended.
        in_doubt: By saga name, steps of them whose effect may have happened.
        workers: All that live.
    """

    standing: Sequence[Standing]
    in_doubt: Mapping[str, int]
    workers: Sequence[LiveWorker]


class Case(NamedTuple):
    """Something that a person should know of.

    Attributes:
        kind: ``stuck``, ``parked`` or ``in_doubt``.
        saga_id: The saga.
        name: Its definition.
        step: The step concerned, if one is.
        since: Since when.
        message: What is known.
    """

    kind: str
    saga_id: UUID
    name: str
    step: str | None
    since: datetime
    message: str


class Limits(NamedTuple):
    """How long sagas may stand still.

    Attributes:
        by_name: Of these.
        default: Of all others.
    """

    by_name: Mapping[str, timedelta]
    default: timedelta

    @property
    def arguments(self) -> tuple[list[str], list[timedelta], timedelta]:
        """What the statements take as their first three."""
        return list(self.by_name), list(self.by_name.values()), self.default


async def measure(store: PostgresStore, limits: Limits) -> Measures:
    """Return what the database says now.

    Raises:
        DatabaseUnavailableError: If it cannot be reached.
    """
    standing, in_doubt, workers = (
        qualify(sql, store.settings.schema) for sql in (STANDING, IN_DOUBT, WORKERS)
    )
    async with store.connection() as connection:
        rows = await connection.fetch(standing, *limits.arguments)
        doubts = await connection.fetch(in_doubt)
        live = await connection.fetch(workers)
    return Measures(
        standing=[Standing(*row) for row in rows],
        in_doubt={row["name"]: row["steps"] for row in doubts},
        workers=[LiveWorker(*row) for row in live],
    )


async def cases(store: PostgresStore, limits: Limits, most: int) -> list[Case]:
    """Return at most *most* sagas of each kind that a person should know of.

    Only those whose names *limits* has.

    Raises:
        DatabaseUnavailableError: If the database cannot be reached.
    """
    async with store.connection() as connection:
        statement = qualify(CASES, store.settings.schema)
        return [Case(*row) for row in await connection.fetch(statement, *limits.arguments, most)]


async def leaders(store: PostgresStore) -> dict[str, UUID]:
    """Return who watches over the sagas of each name: the same for whoever asks.

    Raises:
        DatabaseUnavailableError: If the database cannot be reached.
    """
    async with store.connection() as connection:
        rows = await connection.fetch(qualify(LEADERS, store.settings.schema))
        return {row["name"]: row["worker_id"] for row in rows}


async def sagas_after(store: PostgresStore, saga_id: UUID, most: int) -> list[tuple[UUID, int]]:
    """Return the sagas that follow *saga_id*, at most *most*, each with its number of events.

    Raises:
        DatabaseUnavailableError: If the database cannot be reached.
    """
    async with store.connection() as connection:
        statement = qualify(NEXT_SAGAS, store.settings.schema)
        rows = await connection.fetch(statement, saga_id, most)
        return [(row["saga_id"], row["events"]) for row in rows]

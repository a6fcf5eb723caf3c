"""Who takes an unowned saga? Whoever locks its row first; the others skip it.

A claim is one short commit and never held open during work. Three kinds of sagas are
taken: those that are due, those that somebody wrote to while they slept, and those whose
worker's lease has ended. A worker takes only what it has the definition of.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Final
from uuid import UUID

from eventsaga.errors import CorruptHistoryError, EventSagaError
from eventsaga.store.ports import NOBODY, Claimed, DefinitionKey, GivenUp, StoredEvent, Suspicion
from eventsaga.store.postgres.connect import Connection
from eventsaga.store.postgres.read import stored_event
from eventsaga.store.postgres.rows import columns

# `claims` is raised by the claim itself: a saga that kills every process that runs it
# is counted although nobody lives to say so.
CLAIM: Final = """
WITH mine AS MATERIALIZED (
    SELECT d.name, d.version, d.fingerprint, d.priority, d.most,
           -- What is older, and goes forward, waits until the incarnation is accepted.
           CASE WHEN d.is_live THEN '-infinity'
                ELSE (SELECT eventsaga.held_before()) END AS held_before
      FROM unnest($2::text[], $3::int[], $4::text[], $6::int[], $7::int[], $8::bool[])
           AS d(name, version, fingerprint, priority, most, is_live)
     -- Who has no lease is given nothing, least of all what was its own.
     WHERE EXISTS (SELECT FROM eventsaga.workers w
                    WHERE w.worker_id = $1::uuid AND w.lease_until > clock_timestamp())
), names AS MATERIALIZED (
    SELECT DISTINCT m.name, m.priority,
           CASE WHEN m.most IS NULL THEN $5::bigint
                ELSE greatest(0, least($5::bigint, m.most - (
                         SELECT count(*)
                           FROM eventsaga.workers w
                           JOIN eventsaga.sagas s ON s.owner = w.worker_id
                          WHERE s.name = m.name AND w.lease_until > clock_timestamp())))
                END AS room
      FROM mine m
), due AS (
    -- The oldest of each name first, then the next of each: a flood of one starves no other.
    -- By an instant that is the same for all rows: the index then ends at what is not due.
    SELECT d.saga_id, d.owner, d.name
      FROM (SELECT n.name, n.priority, l.saga_id, l.owner, l.wake_at,
                   row_number() OVER (PARTITION BY n.name ORDER BY l.wake_at) AS turn
              FROM names n
             CROSS JOIN LATERAL (
                   SELECT s.saga_id, s.owner, s.wake_at
                     FROM eventsaga.sagas s
                    WHERE s.name = n.name
                      AND s.owner IS NULL AND s.wake_at <= statement_timestamp()
                      AND (s.version, s.fingerprint) IN (
                              SELECT m.version, m.fingerprint FROM mine m
                               WHERE m.name = n.name AND (s.created_at >= m.held_before
                                  OR s.status NOT IN ('PENDING', 'RUNNING')))
                    ORDER BY s.wake_at
                    LIMIT n.room
                      FOR UPDATE SKIP LOCKED) l) d
     ORDER BY d.priority DESC, d.turn, d.wake_at
     LIMIT $5
), letters AS MATERIALIZED (
    SELECT DISTINCT i.saga_id FROM eventsaga.inbox i WHERE i.answered_at IS NULL
), written_to AS (
    -- Settled ones too: that is how a person reaches a saga that is parked. Each name by
    -- itself: what waits for room must not hide the mail of the others. Row by row, so that
    -- no plan begins with the sagas, most of which nobody writes to.
    SELECT l.saga_id, l.owner, n.name, l.is_settled
      FROM (SELECT DISTINCT name, room FROM names) n
     CROSS JOIN LATERAL (
           SELECT s.saga_id, s.owner, s.is_settled
             FROM letters i
            CROSS JOIN LATERAL (
                  SELECT s.saga_id, s.owner, o.is_settled
                    FROM eventsaga.sagas s
                   CROSS JOIN LATERAL (
                         SELECT s.status IN ('COMPLETED', 'COMPENSATED', 'FAILED', 'PARKED')
                         ) o(is_settled)
                   WHERE s.saga_id = i.saga_id AND s.name = n.name AND s.owner IS NULL
                     AND (n.room > 0 OR o.is_settled)
                     AND (s.version, s.fingerprint) IN (
                             SELECT m.version, m.fingerprint FROM mine m
                              WHERE m.name = n.name AND (s.created_at >= m.held_before
                                 OR s.status NOT IN ('PENDING', 'RUNNING')))
                     FOR UPDATE OF s SKIP LOCKED) s
            LIMIT $5) l
), orphaned AS (
    SELECT s.saga_id, s.owner
      FROM eventsaga.workers w
      JOIN eventsaga.sagas s ON s.owner = w.worker_id
     WHERE w.lease_until <= clock_timestamp() AND s.claims IS DISTINCT FROM $9::int
       AND (s.name, s.version, s.fingerprint) IN (
               SELECT m.name, m.version, m.fingerprint FROM mine m
                WHERE s.created_at >= m.held_before OR s.status NOT IN ('PENDING', 'RUNNING'))
     LIMIT $5
       -- A heartbeat in flight holds the worker's row: then its lease is not judged now.
       FOR UPDATE OF s SKIP LOCKED
       FOR SHARE OF w SKIP LOCKED
), suspect AS (
    -- The last time before it is parked it runs beside no other of its kind: whoever was
    -- only taken over together with a saga that kills its worker must not be parked with it.
    SELECT s.saga_id, s.owner
      FROM eventsaga.workers w
      JOIN eventsaga.sagas s ON s.owner = w.worker_id
     WHERE w.lease_until <= clock_timestamp() AND s.claims = $9::int AND NOT $10::bool
       AND (s.name, s.version, s.fingerprint) IN (
               SELECT m.name, m.version, m.fingerprint FROM mine m
                WHERE s.created_at >= m.held_before OR s.status NOT IN ('PENDING', 'RUNNING'))
     ORDER BY s.saga_id
     LIMIT least(1, $5)
       FOR UPDATE OF s SKIP LOCKED
       FOR SHARE OF w SKIP LOCKED
), waking AS (
    -- Both ways to wake up share the room of their name; somebody waits for an answer.
    SELECT w.saga_id, w.owner
      FROM (SELECT u.saga_id, u.owner, u.is_settled, n.room,
                   row_number() OVER (PARTITION BY u.name, u.is_settled ORDER BY u.rank) AS turn
              FROM (SELECT saga_id, owner, name, is_settled, 1 AS rank FROM written_to
                     UNION ALL
                    SELECT saga_id, owner, name, false, 2 FROM due
                     WHERE saga_id NOT IN (SELECT saga_id FROM written_to)) u
              JOIN (SELECT DISTINCT name, room FROM names) n USING (name)) w
     WHERE w.is_settled OR w.turn <= w.room
), chosen AS (
    SELECT saga_id, owner FROM suspect
     UNION
    SELECT saga_id, owner FROM orphaned
     UNION
    SELECT saga_id, owner FROM waking
     LIMIT $5
)
UPDATE eventsaga.sagas s
   SET owner = $1::uuid, wake_at = NULL, claims = s.claims + 1
  FROM chosen c
 WHERE s.saga_id = c.saga_id
RETURNING s.saga_id, s.claims, c.owner AS previous_owner
"""

# Two claims that count at once would both find room: the second waits for the first, and
# counts in a statement of its own, whose snapshot sees what the first one took.
LOCK_NAMES: Final = """
WITH wanted AS (
    SELECT 'running/' || name AS key FROM unnest($1::text[]) AS w(name)
), known AS (
    INSERT INTO eventsaga.limits (key) SELECT key FROM wanted ORDER BY key
    ON CONFLICT (key) DO UPDATE SET free_at = limits.free_at
    RETURNING key
)
SELECT count(*) FROM known
"""

OWNED: Final = """
SELECT saga_id, claims, NULL::uuid AS previous_owner
  FROM eventsaga.sagas s
 WHERE owner = $1::uuid AND NOT saga_id = ANY ($2::uuid[])
   AND (status NOT IN ('PENDING', 'RUNNING') OR created_at >= (SELECT eventsaga.held_before())
        OR (name, version, fingerprint) IN (
               SELECT * FROM unnest($3::text[], $4::int[], $5::text[])))
"""

HISTORIES: Final = """
SELECT saga_id, seq, type, schema_version, data, occurred_at, recorded_at, worker_id, hash
  FROM eventsaga.events
 WHERE saga_id = ANY ($1::uuid[])
 ORDER BY saga_id, seq
"""


async def claim(  # noqa: PLR0917 - two statements and what they are given
    connection: Connection,
    statement: str,
    lock_names: str,
    worker_id: UUID,
    definitions: Sequence[DefinitionKey],
    limit: int,
    priorities: Mapping[str, int],
    max_running: Mapping[str, int],
    live: Collection[DefinitionKey] = (),
    suspicion: Suspicion = NOBODY,
) -> list[Any]:
    """Make *worker_id* the owner of at most *limit* sagas and return their rows."""
    names, versions, fingerprints = parts(definitions)
    arguments = (
        worker_id,
        names,
        versions,
        fingerprints,
        limit,
        [priorities.get(str(name), 0) for name in names],
        [max_running.get(str(name)) for name in names],
        [definition in live for definition in definitions],
        suspicion.claims,
        suspicion.is_busy,
    )
    if not max_running:
        return await connection.fetch(statement, *arguments)
    async with connection.transaction():
        await connection.execute(lock_names, sorted(max_running))
        return await connection.fetch(statement, *arguments)


def parts(definitions: Collection[DefinitionKey]) -> list[list[Any]]:
    """Return the names, the versions and the fingerprints of *definitions*."""
    return [[definition[part] for definition in definitions] for part in range(3)]


# By the database's clock: the caller's may not agree with it. Whoever gives a saga up has
# outlived it, so the claim that this ends is not one of those that a poison saga leaves.
# A statement that comes late must not take away a saga that has gone on since.
GIVE_UP: Final = """
UPDATE eventsaga.sagas s
   SET owner = NULL,
       wake_at = g.wake_at,
       claims = greatest(s.claims - 1, 0)
  FROM unnest($2::uuid[], $3::timestamptz[], $4::int[]) AS g(saga_id, wake_at, seq)
 WHERE s.saga_id = g.saga_id AND s.owner = $1::uuid AND s.last_seq = coalesce(g.seq, s.last_seq)
"""


async def load(connection: Connection, statement: str, rows: Sequence[Any]) -> list[Claimed]:
    """Return the claimed *rows* with their histories."""
    if not rows:
        return []
    events = await connection.fetch(statement, [row["saga_id"] for row in rows])
    histories = {
        saga_id: list(group) for saga_id, group in groupby(events, key=itemgetter("saga_id"))
    }
    return [_claimed(row, histories.get(row["saga_id"], [])) for row in rows]


def _claimed(row: Any, events: Sequence[Any]) -> Claimed:
    history: tuple[StoredEvent, ...] = ()
    unreadable: EventSagaError | None = None
    try:
        history = tuple(stored_event(event, strict=True) for event in events)
        if not history:
            unreadable = CorruptHistoryError(row["saga_id"], 1, "the saga has no events")
    except EventSagaError as error:
        # One saga that cannot be read must not keep the others from being taken.
        unreadable = error
    return Claimed(
        saga_id=row["saga_id"],
        claims=row["claims"],
        previous_owner=row["previous_owner"],
        history=history,
        unreadable=unreadable,
    )


async def give_up(
    connection: Connection,
    statement: str,
    worker_id: UUID,
    sagas: Sequence[GivenUp],
) -> None:
    """Leave *sagas* to anybody."""
    await connection.execute(statement, worker_id, *columns(sagas, len(GivenUp._fields)))

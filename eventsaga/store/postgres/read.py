"""What can be looked up? Sagas by id and by filter, and whole histories."""

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from eventsaga.core.state import Status
from eventsaga.errors import CorruptHistoryError
from eventsaga.store.ports import DefinitionKey, SagaFilter, SagaRow, StoredEvent, Stranded
from eventsaga.store.postgres.connect import Connection
from eventsaga.wire.codec import decode
from eventsaga.wire.payload import load
from eventsaga.wire.sealing import opened

GET: Final = """
SELECT saga_id, name, version, fingerprint, status, current_steps, context, error,
       correlation_id, last_seq, created_at, updated_at, owner, wake_at, parent_id, parent_step
  FROM eventsaga.sagas
 WHERE saga_id = $1::uuid
"""

# Ids grow with time, so paging by id is paging by age and needs no further index.
LIST: Final = """
SELECT saga_id, name, version, fingerprint, status, current_steps, context, error,
       correlation_id, last_seq, created_at, updated_at, owner, wake_at, parent_id, parent_step
  FROM eventsaga.sagas
 WHERE ($1::text[] IS NULL OR status = ANY ($1::text[]))
   AND ($2::text IS NULL OR name = $2::text)
   AND ($3::text IS NULL OR correlation_id = $3::text)
   AND ($4::uuid IS NULL OR saga_id < $4::uuid)
   AND ($6::text IS NULL OR $6::text = ANY (current_steps) OR error->>'step_name' = $6::text)
   AND ($7::text IS NULL OR tenant = $7::text)
   AND ($8::timestamptz IS NULL OR created_at < $8::timestamptz)
   AND ($9::timestamptz IS NULL OR created_at >= $9::timestamptz)
   AND NOT EXISTS (SELECT FROM unnest($10::text[], $11::text[]) AS w(path, value)
                    WHERE context #>> string_to_array(w.path, '.') IS DISTINCT FROM w.value)
   AND ($12::text IS NULL
        OR strpos(lower(concat_ws(' ', saga_id, name, correlation_id, error, context)),
                  lower($12::text)) > 0)
 ORDER BY saga_id DESC
 LIMIT $5
"""

# The same, of which the index of those that have not ended knows.
LIST_OPEN: Final = LIST.replace(
    " ORDER BY", "   AND status NOT IN ('COMPLETED', 'COMPENSATED', 'FAILED')\n ORDER BY"
)

FIND: Final = """
SELECT saga_id FROM eventsaga.sagas
 WHERE saga_id >= $1::uuid AND saga_id <= $2::uuid
 ORDER BY saga_id
 LIMIT $3
"""

# Events whose saga has no row; asked only when no row fits.
FIND_EVENTS: Final = """
SELECT DISTINCT saga_id FROM eventsaga.events
 WHERE saga_id >= $1::uuid AND saga_id <= $2::uuid
 ORDER BY saga_id
 LIMIT $3
"""

HISTORY: Final = """
SELECT saga_id, seq, type, schema_version, data, occurred_at, recorded_at, worker_id, hash
  FROM eventsaga.events
 WHERE saga_id = $1::uuid
 ORDER BY seq
"""

CHILDREN: Final = """
SELECT saga_id, name, version, fingerprint, status, current_steps, context, error,
       correlation_id, last_seq, created_at, updated_at, owner, wake_at, parent_id, parent_step
  FROM eventsaga.sagas
 WHERE parent_id = $1::uuid
 ORDER BY created_at, saga_id
"""

# By status alone: one that still owes a hook has settled all the same.
SETTLED: Final = """
SELECT saga_id FROM eventsaga.sagas
 WHERE saga_id = ANY ($1::uuid[])
   AND status IN ('COMPLETED', 'COMPENSATED', 'FAILED', 'PARKED')
"""

# Unfinished sagas whose shape nobody here has, although somebody has their name and version.
CONFLICTING: Final = """
SELECT s.name, s.version, s.fingerprint, count(*) AS sagas
  FROM eventsaga.sagas s
  JOIN (SELECT DISTINCT d.name, d.version
          FROM unnest($1::text[], $2::int[]) AS d(name, version)) m USING (name, version)
 WHERE (s.name, s.version, s.fingerprint) NOT IN (
           SELECT d.name, d.version, d.fingerprint
             FROM unnest($1::text[], $2::int[], $3::text[]) AS d(name, version, fingerprint))
   AND s.status NOT IN ('COMPLETED', 'COMPENSATED', 'FAILED')
 GROUP BY s.name, s.version, s.fingerprint
"""

GRAPH: Final = """
SELECT graph FROM eventsaga.definitions
 WHERE name = $1::text AND version = $2::int AND fingerprint = $3::text
"""

# A few seconds of grace: a saga that is just due is waiting for the next poll only.
STRANDED: Final = """
WITH waiting AS (
    SELECT s.name, s.version, s.fingerprint, s.wake_at AS since
      FROM eventsaga.sagas s
     WHERE s.owner IS NULL AND s.wake_at < statement_timestamp() - interval '5 s'
     UNION ALL
    SELECT s.name, s.version, s.fingerprint, w.lease_until
      FROM eventsaga.workers w
      JOIN eventsaga.sagas s ON s.owner = w.worker_id
     WHERE w.lease_until < statement_timestamp() - interval '5 s'
), brought AS (
    SELECT unnest(w.definitions) AS definition
      FROM eventsaga.workers w
     WHERE w.lease_until > statement_timestamp()
)
SELECT name, version, fingerprint, count(*) AS sagas, min(since) AS since
  FROM waiting
 WHERE concat_ws(':', name, version, fingerprint) NOT IN (SELECT definition FROM brought)
 GROUP BY name, version, fingerprint
 ORDER BY since
"""


def saga_row(row: Any) -> SagaRow:
    """Return a row of ``sagas`` as data.

    Raises:
        CorruptHistoryError: If it holds what no eventsaga writes.
    """
    try:
        return _saga_row(row)
    except ValueError as error:
        reason = f"its row cannot be read: {error}"
        raise CorruptHistoryError(row["saga_id"], row["last_seq"], reason) from error


def _saga_row(row: Any) -> SagaRow:
    return SagaRow(
        saga_id=row["saga_id"],
        name=row["name"],
        version=row["version"],
        fingerprint=row["fingerprint"],
        status=Status(row["status"]),
        current_steps=tuple(row["current_steps"]),
        context=load(opened(row["context"], row["saga_id"])),
        error=None if row["error"] is None else load(opened(row["error"], row["saga_id"])),
        correlation_id=row["correlation_id"],
        last_seq=row["last_seq"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        owner=row["owner"],
        wake_at=row["wake_at"],
        parent_id=row["parent_id"],
        parent_step=row["parent_step"],
    )


def stored_event(row: Any, *, strict: bool = False) -> StoredEvent:
    """Return a row of ``events`` as data.

    Args:
        row: As the statements have it.
        strict: Whether nothing may be sealed in the end.

    Raises:
        UnknownEventError: If a newer eventsaga wrote it.
        CorruptHistoryError: If its data is not what its name stands for.
    """
    try:
        data = row["data"] and opened(row["data"], row["saga_id"], strict=strict)
        event = decode(row["type"], row["schema_version"], row["occurred_at"], data)
    except ValueError as error:
        raise CorruptHistoryError(row["saga_id"], row["seq"], str(error)) from error
    return StoredEvent(
        saga_id=row["saga_id"],
        seq=row["seq"],
        event=event,
        recorded_at=row["recorded_at"],
        worker_id=row["worker_id"],
        hash=row["hash"],
    )


async def get(connection: Connection, statement: str, saga_id: UUID) -> SagaRow | None:
    """Return the row of *saga_id*; None if there is none."""
    row = await connection.fetchrow(statement, saga_id)
    return None if row is None else saga_row(row)


async def find(  # noqa: PLR0917 - two statements and a range
    connection: Connection, by_row: str, by_events: str, first: UUID, last: UUID, limit: int
) -> list[UUID]:
    """Return at most *limit* ids of a range that stand for a saga, or for what is left of one."""
    rows = await connection.fetch(by_row, first, last, limit)
    if not rows:
        rows = await connection.fetch(by_events, first, last, limit)
    return [row["saga_id"] for row in rows]


async def list_sagas(
    connection: Connection, statement: str, wanted: SagaFilter, before: UUID | None, limit: int
) -> list[SagaRow]:
    """Return at most *limit* rows, youngest first, that pass *wanted*."""
    rows = await connection.fetch(
        statement,
        None if wanted.statuses is None else [status.value for status in wanted.statuses],
        wanted.name,
        wanted.correlation_id,
        before,
        limit,
        wanted.step,
        wanted.tenant,
        wanted.created_before,
        wanted.created_after,
        list(wanted.where),
        list(wanted.where.values()),
        wanted.text,
    )
    return [saga_row(row) for row in rows]


async def history(connection: Connection, statement: str, saga_id: UUID) -> tuple[StoredEvent, ...]:
    """Return all events of *saga_id* in order; () if there is no such saga."""
    return tuple(stored_event(row) for row in await connection.fetch(statement, saga_id))


async def stranded(connection: Connection, statement: str) -> list[Stranded]:
    """Return what waits for a definition that no living worker has."""
    return [Stranded(**dict(row)) for row in await connection.fetch(statement)]


async def conflicting(
    connection: Connection, statement: str, definitions: Sequence[DefinitionKey]
) -> list[tuple[DefinitionKey, int]]:
    """Return shapes of unfinished sagas that *definitions* have another shape for."""
    names, versions, fingerprints = (
        [definition[part] for definition in definitions] for part in range(3)
    )
    return [
        ((row["name"], row["version"], row["fingerprint"]), row["sagas"])
        for row in await connection.fetch(statement, names, versions, fingerprints)
    ]


async def graph(
    connection: Connection, statement: str, definition: DefinitionKey
) -> dict[str, Any] | None:
    """Return the shape that was recorded for *definition*; None if there is none."""
    text = await connection.fetchval(statement, *definition)
    return None if text is None else load(text)

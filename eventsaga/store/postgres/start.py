"""How does a saga begin to exist? Key, row and first events in one statement.

The unique key decides between processes that start the same thing at once: the second
waits for the first to commit, finds the key taken, and is told whose it is.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple, TypeGuard
from uuid import UUID

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from eventsaga.core.state import State
from eventsaga.errors import KeyConflictError
from eventsaga.store.ports import Refused, Start, Started, StartResult
from eventsaga.store.postgres.connect import Connection
from eventsaga.store.postgres.rows import STEP_SEPARATOR, EventRow, columns, event_rows
from eventsaga.store.projection import current_steps, error_text
from eventsaga.wire.chain import GENESIS
from eventsaga.wire.payload import dump
from eventsaga.wire.sealing import sealed, sealed_context, subject_of

# Keys are inserted in order: two batches that share keys cannot wait for each other.
# JSON goes in as text: the caller's connection may have a codec of its own for json.
START: Final = """
WITH bounded AS MATERIALIZED (
    SELECT set_config('lock_timeout', coalesce($25::text, current_setting('lock_timeout')), true)
), given AS (
    SELECT g.*
      FROM bounded,
           unnest($1::uuid[], $2::text[], $3::int[], $4::text[], $5::text[], $6::text[],
                  $7::text[], $8::text[], $9::int[], $10::bytea[], $11::timestamptz[],
                  $12::timestamptz[], $13::bool[], $14::text[], $15::bytea[], $26::uuid[],
                  $27::text[], $28::text[], $29::text[], $30::text[])
           AS g(saga_id, name, version, fingerprint, status, current_steps, context,
                correlation_id, last_seq, last_hash, created_at, updated_at, owned, key, digest,
                parent_id, parent_step, error, tenant, start_key)
), keyed AS (
    INSERT INTO eventsaga.start_keys (saga_name, key, saga_id, input_digest)
    SELECT name, start_key, saga_id, digest FROM given WHERE key IS NOT NULL
     ORDER BY name, start_key
    ON CONFLICT DO NOTHING
    RETURNING saga_id
), started AS (
    INSERT INTO eventsaga.sagas
           (saga_id, name, version, fingerprint, status, current_steps, context,
            correlation_id, last_seq, last_hash, created_at, updated_at, owner, wake_at,
            parent_id, parent_step, error, tenant)
    SELECT g.saga_id, g.name, g.version, g.fingerprint, g.status,
           string_to_array(g.current_steps, ','), g.context::json, g.correlation_id, g.last_seq,
           g.last_hash, g.created_at, g.updated_at,
           CASE WHEN g.owned THEN $16::uuid END,
           CASE WHEN g.owned THEN NULL ELSE clock_timestamp() END,
           g.parent_id, g.parent_step, g.error::json, g.tenant
      FROM given g
     WHERE g.key IS NULL OR EXISTS (SELECT FROM keyed k WHERE k.saga_id = g.saga_id)
    ON CONFLICT (saga_id) DO NOTHING
    RETURNING saga_id
), inserted AS (
    INSERT INTO eventsaga.events
           (saga_id, seq, type, schema_version, data, occurred_at, salt, hash, worker_id)
    SELECT e.saga_id, e.seq, e.type, e.schema_version, e.data::json, e.occurred_at, e.salt,
           e.hash, $16::uuid
      FROM unnest($17::uuid[], $18::int[], $19::text[], $20::smallint[], $21::text[],
                  $22::timestamptz[], $23::bytea[], $24::bytea[])
           AS e(saga_id, seq, type, schema_version, data, occurred_at, salt, hash)
      JOIN started USING (saga_id)
)
SELECT saga_id FROM started
"""

# Asked in a statement of its own, whose snapshot sees the winner's commit.
READ_BACK: Final = """
SELECT g.saga_id,
       CASE WHEN s.saga_id IS NULL THEN e.hash = g.hash
            ELSE e.hash IS NOT DISTINCT FROM g.hash END AS is_stored,
       k.saga_id AS key_saga_id,
       k.input_digest
  FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[]) AS g(saga_id, name, key, hash)
  LEFT JOIN eventsaga.start_keys k ON k.saga_name = g.name AND k.key = g.key
  LEFT JOIN eventsaga.events e ON e.saga_id = g.saga_id AND e.seq = 1
  LEFT JOIN eventsaga.sagas s ON s.saga_id = g.saga_id
"""


class _SagaRow(NamedTuple):
    """A saga's first row; the order is that of the statement."""

    saga_id: UUID
    name: str
    version: int
    fingerprint: str
    status: str
    current_steps: str
    context: str
    correlation_id: str
    last_seq: int
    last_hash: bytes
    created_at: datetime
    updated_at: datetime
    owned: bool
    key: str | None
    digest: bytes


class EncodedStart(NamedTuple):
    """A start as rows, ready to be sent, again if need be."""

    start: Start
    saga: _SagaRow
    events: list[EventRow]

    @property
    def saga_id(self) -> UUID:
        """The id that the saga gets if its key is free."""
        return self.saga.saga_id

    def started(self) -> Started:
        """Return the answer to a start that created its saga."""
        return Started(self.saga_id, created=True, last_hash=self.saga.last_hash)


def encode_start(start: Start) -> EncodedStart:
    """Return *start* as rows."""
    state = start.state
    subject = subject_of(state.context)
    rows = event_rows(
        state.saga_id, start.events, after_seq=0, previous_hash=GENESIS, subject=subject
    )
    saga = _SagaRow(
        state.saga_id,
        state.saga_name,
        state.version,
        state.fingerprint,
        state.status.value,
        STEP_SEPARATOR.join(current_steps(state)),
        sealed_context(dump(state.shown_context), state.saga_id, subject),
        state.correlation_id,
        state.seq,
        rows[-1].hash,
        state.created_at,
        state.updated_at,
        start.owned,
        state.key,
        start.digest,
    )
    return EncodedStart(start, saga, rows)


def start_arguments(
    batch: Sequence[EncodedStart], worker_id: UUID | None, lock_timeout: str | None
) -> list[Any]:
    """Return what `START` takes for *batch*.

    Args:
        batch: Starts, with the same key or not.
        worker_id: The owner of those that are owned.
        lock_timeout: Longest wait for a key that another transaction has just taken; None
            to leave it to the transaction that is open.
    """
    return [
        *columns((encoded.saga for encoded in batch), len(_SagaRow._fields)),
        worker_id,
        *columns((row for encoded in batch for row in encoded.events), len(EventRow._fields)),
        lock_timeout,
        [encoded.start.state.parent_id for encoded in batch],
        [encoded.start.state.parent_step for encoded in batch],
        [_error(encoded.start.state) for encoded in batch],
        [encoded.start.state.tenant for encoded in batch],
        [encoded.start.state.start_key for encoded in batch],
    ]


def _error(state: State) -> str | None:
    error = error_text(state)
    return error and sealed(error, state.saga_id, subject_of(state.context))


def read_back_arguments(batch: Sequence[EncodedStart]) -> list[Any]:
    """Return what `READ_BACK` takes for *batch*."""
    return [
        [encoded.saga_id for encoded in batch],
        [encoded.saga.name for encoded in batch],
        [encoded.start.state.start_key for encoded in batch],
        [encoded.events[0].hash for encoded in batch],
    ]


def answer(encoded: EncodedStart, row: Any) -> StartResult | None:
    """Return what `READ_BACK` says of a start; None if it did not happen yet.

    Args:
        encoded: The start that was not confirmed.
        row: Its row of the answer.
    """
    if row["is_stored"]:
        return encoded.started()
    if row["is_stored"] is False:
        # A child, whose id follows from its parent: somebody started it before us.
        return Started(encoded.saga_id, created=False)
    owner: UUID | None = row["key_saga_id"]
    if owner is None:
        return None
    known: bytes = row["input_digest"]
    # One that was started in SQL has a digest of another length: its text is not comparable.
    if len(known) == len(encoded.saga.digest) and known != encoded.saga.digest:
        return Refused(KeyConflictError(encoded.saga.name, encoded.saga.key or "", owner))
    return Started(owner, created=False)


async def start_within(
    connection: object, statement: str, read_back: str, start: Start
) -> StartResult:
    """Create a saga inside the transaction that is open on *connection*.

    Args:
        connection: An `AsyncSession`, an `AsyncConnection`, or one of asyncpg.
        statement: `START`, for the store's schema.
        read_back: `READ_BACK`, for the store's schema.
        start: Unowned.

    Raises:
        TypeError: If *connection* is none of these.
    """
    encoded = encode_start(start)
    if await fetch_within(connection, statement, start_arguments([encoded], None, None)):
        return encoded.started()
    (row,) = await fetch_within(connection, read_back, read_back_arguments([encoded]))
    result = answer(encoded, row)
    # The key's owner is not visible to the caller's snapshot (REPEATABLE READ).
    return result or Refused(
        KeyConflictError(encoded.saga.name, start.state.key or "", start.state.saga_id)
    )


def _is_asyncpg(connection: object) -> TypeGuard[Connection]:
    return isinstance(connection, asyncpg.Connection | PoolConnectionProxy)


async def fetch_within(
    connection: object, statement: str, arguments: Sequence[Any]
) -> Sequence[Any]:
    """Return the rows of *statement*, sent inside the caller's transaction.

    Raises:
        TypeError: If *connection* is none of those that a caller may have.
    """
    if isinstance(connection, AsyncSession):
        connection = await connection.connection()
    if isinstance(connection, AsyncConnection):
        # Through SQLAlchemy, which opens its transaction with the first statement.
        result = await connection.exec_driver_sql(statement, tuple(arguments))
        return result.mappings().all()
    if _is_asyncpg(connection):
        rows: Sequence[Any] = await connection.fetch(statement, *arguments)
        return rows
    kind = type(connection).__name__
    raise TypeError(
        f"connection must be an AsyncSession, an AsyncConnection or asyncpg's, not {kind}"
    )

"""How do events get into the table? One guarded statement, many sagas at a time.

The UPDATE is the fence: it touches a row only if the saga stands where the decision was
made and still belongs to this worker. Only sagas that it returns get their events, so a
worker that lost a saga writes nothing, however late its statement arrives.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from eventsaga.store.ports import Append
from eventsaga.store.postgres.connect import Connection
from eventsaga.store.postgres.mail import post_arguments
from eventsaga.store.postgres.rows import (
    STEP_SEPARATOR,
    EventRow,
    columns,
    event_rows,
    warn_if_large,
)
from eventsaga.store.projection import current_steps, error_text
from eventsaga.wire.payload import dump
from eventsaga.wire.sealing import sealed, sealed_context, subject_of

# lock_timeout is set inside the statement: it ends with it, so that no state is left on a
# connection that a pooler may give to somebody else. JSON goes in as text: the user's engine,
# for a transactional step, may have a codec of its own for json.
# A transaction that wrote before it appends, which is a transactional step's, has an id that is
# older than what its saga recorded meanwhile: its events take the id before them instead, so
# that the feed, which is read by transaction, has every saga in order.
APPEND: Final = """
WITH bounded AS MATERIALIZED (
    SELECT set_config('lock_timeout', $24::text, true),
           pg_current_xact_id_if_assigned() IS NOT NULL AS is_late
), moved AS (
    SELECT m.*, bounded.is_late
      FROM bounded,
           unnest($1::uuid[], $2::int[], $3::int[], $4::bytea[], $5::text[], $6::text[],
                  $7::text[], $8::text[], $9::timestamptz[], $10::bool[], $11::timestamptz[],
                  $12::bool[])
           AS m(saga_id, expected, last_seq, last_hash, status, current_steps,
                context, error, updated_at, release, wake_at, progress)
), advanced AS (
    UPDATE eventsaga.sagas s
       SET last_seq = m.last_seq,
           last_hash = m.last_hash,
           status = m.status,
           current_steps = string_to_array(m.current_steps, ','),
           context = coalesce(m.context::json, s.context),
           error = CASE WHEN m.error IS NULL THEN s.error
                        ELSE nullif(m.error, '')::json END,
           updated_at = m.updated_at,
           owner = CASE WHEN m.release THEN NULL ELSE s.owner END,
           wake_at = CASE WHEN m.release THEN m.wake_at ELSE s.wake_at END,
           claims = CASE WHEN m.progress THEN 0 ELSE s.claims END
      FROM moved m
     WHERE s.saga_id = m.saga_id AND s.last_seq = m.expected AND s.owner = $13::uuid
 RETURNING s.saga_id, m.expected, m.is_late
), answered AS (
    UPDATE eventsaga.inbox i
       SET answered_at = clock_timestamp()
      FROM unnest($14::uuid[], $15::uuid[]) AS a(saga_id, id), advanced
     WHERE i.saga_id = a.saga_id AND i.id = a.id AND a.saga_id = advanced.saga_id
       AND i.answered_at IS NULL
), told AS (
    INSERT INTO eventsaga.inbox (saga_id, id, kind, data, actor)
    SELECT o.saga_id, o.id, o.kind, o.data::json, o.actor
      FROM unnest($25::uuid[], $26::uuid[], $27::uuid[], $28::text[], $29::text[], $30::text[])
           AS o(sender, saga_id, id, kind, data, actor)
      JOIN advanced ON advanced.saga_id = o.sender
      JOIN eventsaga.sagas s ON s.saga_id = o.saga_id
    ON CONFLICT DO NOTHING
), inserted AS (
    INSERT INTO eventsaga.events
           (saga_id, seq, type, schema_version, data, occurred_at, salt, hash, worker_id, txid)
    SELECT e.saga_id, e.seq, e.type, e.schema_version, e.data::json, e.occurred_at, e.salt,
           e.hash, $13::uuid,
           CASE WHEN advanced.is_late
                THEN greatest(pg_current_xact_id(),
                              (SELECT p.txid FROM eventsaga.events p
                                WHERE p.saga_id = e.saga_id AND p.seq = advanced.expected))
                ELSE pg_current_xact_id() END
      FROM unnest($16::uuid[], $17::int[], $18::text[], $19::smallint[], $20::text[],
                  $21::timestamptz[], $22::bytea[], $23::bytea[])
           AS e(saga_id, seq, type, schema_version, data, occurred_at, salt, hash)
      JOIN advanced USING (saga_id)
)
SELECT saga_id FROM advanced
"""

# Our own events are recognised by their hash, which holds random salt.
READ_BACK: Final = """
SELECT g.saga_id,
       e.hash IS NOT NULL AS is_stored,
       s.last_seq = g.expected AND s.owner = $4::uuid AS is_open
  FROM unnest($1::uuid[], $2::int[], $3::bytea[]) AS g(saga_id, expected, hash)
  JOIN eventsaga.sagas s USING (saga_id)
  LEFT JOIN eventsaga.events e
    ON e.saga_id = g.saga_id AND e.seq = g.expected + 1 AND e.hash = g.hash
"""


class _SagaRow(NamedTuple):
    """What an append makes of a saga's row; the order is that of the statement."""

    saga_id: UUID
    expected: int
    last_seq: int
    last_hash: bytes
    status: str
    current_steps: str
    context: str | None
    error: str | None
    updated_at: datetime
    release: bool
    wake_at: datetime | None
    progress: bool


class EncodedAppend(NamedTuple):
    """An append as rows, ready to be sent, again if need be."""

    append: Append
    saga: _SagaRow
    events: list[EventRow]

    @property
    def saga_id(self) -> UUID:
        """The saga; in one statement at a time."""
        return self.saga.saga_id


def encode_append(append: Append) -> EncodedAppend:
    """Return *append* as rows."""
    state = append.state
    subject = subject_of(state.context)
    rows = event_rows(
        state.saga_id,
        append.events,
        after_seq=append.expected,
        previous_hash=append.previous_hash,
        subject=subject,
    )
    # Written when the status changes only: in between it is in the events.
    changed = state.shown_seq > append.expected
    context = dump(state.shown_context) if changed else None
    error = error_text(state) if changed or state.turn or state.status.is_settled else None
    if error is not None:
        error = sealed(error, state.saga_id, subject)
    if context is not None:
        context = sealed_context(context, state.saga_id, subject)
        warn_if_large(state.saga_id, "context", len(context))
    saga = _SagaRow(
        state.saga_id,
        append.expected,
        state.seq,
        rows[-1].hash,
        state.status.value,
        STEP_SEPARATOR.join(current_steps(state)),
        context,
        (error or "") if changed else error,
        state.updated_at,
        append.release,
        append.wake_at,
        append.progress,
    )
    return EncodedAppend(append, saga, rows)


def append_arguments(
    batch: Sequence[EncodedAppend], worker_id: UUID, lock_timeout: str
) -> list[Any]:
    """Return what `APPEND` takes for *batch*.

    Args:
        batch: Each saga at most once.
        worker_id: The owner that all rows must have.
        lock_timeout: Longest wait for a row that another transaction holds, as
            PostgreSQL spells it.
    """
    asked = [
        (encoded.saga_id, message_id) for encoded in batch for message_id in encoded.append.inbox
    ]
    told = [
        (encoded.saga_id, *post_arguments(message))
        for encoded in batch
        for message in encoded.append.outbox
    ]
    return [
        *columns((encoded.saga for encoded in batch), len(_SagaRow._fields)),
        worker_id,
        *columns(asked, 2),
        *columns((row for encoded in batch for row in encoded.events), len(EventRow._fields)),
        lock_timeout,
        *columns(told, 6),
    ]


async def append_all(
    connection: Connection,
    statement: str,
    batch: Sequence[EncodedAppend],
    worker_id: UUID,
    lock_timeout: str,
) -> set[UUID]:
    """Append *batch* in one statement and return the sagas that took their events.

    A saga that is not returned is fenced, unless the same rows were sent before and are
    there already: `read_back` tells.

    Args:
        connection: Outside a transaction; the statement commits by itself.
        statement: `APPEND`, for the store's schema.
        batch: Each saga at most once.
        worker_id: The owner that all rows must have.
        lock_timeout: Longest wait for a row that another transaction holds, as
            PostgreSQL spells it.
    """
    arguments = append_arguments(batch, worker_id, lock_timeout)
    rows = await connection.fetch(statement, *arguments)
    return {row["saga_id"] for row in rows}


async def read_back(
    connection: Connection, statement: str, batch: Sequence[EncodedAppend], worker_id: UUID
) -> tuple[set[UUID], set[UUID]]:
    """Return which of *batch* are stored, and which can still be appended.

    What is in neither set is fenced.
    """
    rows = await connection.fetch(
        statement,
        [encoded.saga_id for encoded in batch],
        [encoded.append.expected for encoded in batch],
        [encoded.events[0].hash for encoded in batch],
        worker_id,
    )
    stored = {row["saga_id"] for row in rows if row["is_stored"]}
    return stored, {row["saga_id"] for row in rows if row["is_open"]} - stored

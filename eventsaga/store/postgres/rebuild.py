"""How is a row of ``sagas`` made right again? Folded anew from its events, online.

First all sagas are looked at without a lock; only a row that is wrong is locked, looked at
again, and written, in a short transaction of its own at READ COMMITTED. Beside workers:

- An append that committed before the lock is seen: the events are read by a statement
  after the one that locked, with a snapshot of its own.
- An append in flight holds the row; the lock waits until it has committed or rolled back.
- An append that comes later waits for the lock, for a moment, and is sent again if that is
  not enough. Its guard, owner and last number, is judged on the repaired row.
- A claim skips a locked row and finds it at the next poll.
- A missing row cannot be locked. But without it nobody can append, and of two that create
  it at once the second finds it and looks again. The workers' appends to a saga without a
  row are fenced, so the new row belongs to nobody and is due at once.

The owner, the instant and the claims of a saga that goes on are left alone: they are the
workers' business. Only where they contradict the history are they touched: one that is not settled
has one of the two; and where the last number was wrong the saga is given up, because that
number has fenced its owner, or will: it is taken over as from a dead worker. (A settled one
that owes nothing is given up again by whoever takes it.)
"""

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Final
from uuid import UUID

import asyncpg

from eventsaga.errors import DatabaseUnavailableError
from eventsaga.store.examine import (
    EventRecord,
    History,
    SagaRecord,
    differing_columns,
    read_history,
)
from eventsaga.store.postgres.connect import Connection
from eventsaga.store.postgres.scan import Progress, Statements, read_events, read_rows, scan
from eventsaga.store.postgres.sql import qualify
from eventsaga.store.postgres.store import PostgresStore
from eventsaga.wire.payload import load
from eventsaga.wire.sealing import sealed, sealed_context, subject_of

LOCK: Final = """
WITH bounded AS MATERIALIZED (
    SELECT set_config('lock_timeout', '5s', true)
)
SELECT FROM eventsaga.sagas s, bounded WHERE s.saga_id = $1::uuid FOR UPDATE OF s
"""

REPAIR: Final = """
UPDATE eventsaga.sagas
   SET name = $2::text,
       version = $3::int,
       fingerprint = $4::text,
       status = $5::text,
       current_steps = $6::text[],
       context = $7::json,
       error = $8::json,
       correlation_id = $9::text,
       last_seq = $10::int,
       last_hash = $11::bytea,
       created_at = $12::timestamptz,
       updated_at = $13::timestamptz,
       owner = CASE WHEN last_seq <> $10::int THEN NULL ELSE owner END,
       wake_at = CASE WHEN last_seq <> $10::int OR (owner IS NULL AND NOT $14::bool)
                      THEN coalesce(wake_at, clock_timestamp())
                      ELSE wake_at END,
       parent_id = $15::uuid,
       parent_step = $16::text,
       tenant = $17::text
 WHERE saga_id = $1::uuid
"""

CREATE: Final = """
INSERT INTO eventsaga.sagas
       (saga_id, name, version, fingerprint, status, current_steps, context, error,
        correlation_id, last_seq, last_hash, created_at, updated_at, parent_id, parent_step,
        tenant, wake_at)
VALUES ($1::uuid, $2::text, $3::int, $4::text, $5::text, $6::text[], $7::json, $8::json,
        $9::text, $10::int, $11::bytea, $12::timestamptz, $13::timestamptz,
        $15::uuid, $16::text, $17::text, CASE WHEN $14::bool THEN NULL ELSE clock_timestamp() END)
ON CONFLICT (saga_id) DO NOTHING
RETURNING saga_id
"""


@dataclass(frozen=True, slots=True)
class Repair:
    """A row that is wrong, and what became of it.

    Attributes:
        saga_id: The saga.
        columns: The columns that differed; all of them if there was no row.
        refused: Why the row was left as it is; None if it was written, or would have
            been in a dry run.
    """

    saga_id: UUID
    columns: tuple[str, ...]
    refused: str | None = None


async def rebuild(
    store: PostgresStore,
    saga_ids: Iterable[UUID] | None = None,
    *,
    dry_run: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> AsyncGenerator[Repair]:
    """Write the rows that are not what their events say, and yield them.

    A history that is itself broken is not trusted: its row is left alone and yielded with
    the reason. So is a row that knows of later events than there are, because it is the
    only witness that the end of the history was cut off.

    Args:
        store: An open store.
        saga_ids: Only these; None for all.
        dry_run: Whether to write nothing.
        force: Whether to take such a history as it is, if it can be folded at all.
        progress: Called now and then with the sagas done and all that there are.

    Raises:
        DatabaseUnavailableError: If the database cannot be reached any more; what was
            yielded before is done.
    """
    look = partial(_judge, force=force)
    judged = scan(store, look, saga_ids=saga_ids, progress=progress)
    async with aclosing(judged):
        async for repair in judged:
            if dry_run or repair.refused is not None:
                yield repair
            elif (done := await _repaired(store, repair.saga_id, force=force)) is not None:
                yield done


async def _repaired(store: PostgresStore, saga_id: UUID, *, force: bool) -> Repair | None:
    """Return what was done about a row; None if it is right by now."""
    try:
        while True:
            async with (
                store.connection() as connection,
                connection.transaction(isolation="read_committed"),
            ):
                repair, is_done = await _repair(connection, store, saga_id, force=force)
            if is_done:
                return repair
    except DatabaseUnavailableError as error:
        if isinstance(error.__cause__, asyncpg.LockNotAvailableError):
            return Repair(saga_id, (), "another transaction holds its row: try again later")
        raise


async def _repair(
    connection: Connection, store: PostgresStore, saga_id: UUID, *, force: bool
) -> tuple[Repair | None, bool]:
    """Look again under a lock and write what is wrong; also return whether that was all."""
    statements = Statements.of(store)
    await connection.fetch(qualify(LOCK, store.settings.schema), saga_id)
    rows = await read_rows(connection, statements, saga_id, saga_id)
    row = rows[0] if rows else None
    events = await read_events(connection, statements, saga_id)
    (repair,) = _judge(saga_id, row, events, force=force) or (None,)
    if repair is None or repair.refused is not None:
        return repair, True
    arguments = row_arguments(saga_id, read_history(saga_id, events))
    if row is not None:
        await connection.execute(qualify(REPAIR, store.settings.schema), *arguments)
        return repair, True
    created = await connection.fetch(qualify(CREATE, store.settings.schema), *arguments)
    # Somebody else created it just now: it has to be locked before it is judged.
    return repair, bool(created)


def _judge(
    saga_id: UUID, row: SagaRecord | None, events: Sequence[EventRecord], *, force: bool
) -> Sequence[Repair]:
    """Return what has to be done about a row; () if it is right."""
    if not events:
        missing = "there is no such saga" if row is None else "it has no events to be rebuilt from"
        return (Repair(saga_id, (), missing),)
    history = read_history(saga_id, events)
    columns = _wrong_columns(row, history)
    if history.projection is not None and not columns:
        return ()
    reason = _distrust(row, events, history)
    if reason is not None and (history.projection is None or not force):
        return (Repair(saga_id, columns, reason),)
    return (Repair(saga_id, columns),)


def _wrong_columns(row: SagaRecord | None, history: History) -> tuple[str, ...]:
    if row is None:
        return SagaRecord._fields[1:-1]
    if history.projection is None:
        return ()  # nobody can say
    columns = differing_columns(row, history.projection)
    if row.last_hash != history.last_hash:
        columns += ("last_hash",)
    if not history.projection.status.is_settled and not row.is_held:
        columns += ("wake_at",)
    return columns


def _distrust(
    row: SagaRecord | None, events: Sequence[EventRecord], history: History
) -> str | None:
    """Return why *history* must not be taken as the truth; None if it may."""
    if history.violations:
        first, *others = history.violations
        more = f" (and {len(others)} more)" if others else ""
        where = "" if first.seq is None else f"event {first.seq}: "
        return f"its history is broken: {where}{first.message}{more}"
    if row is None or row.last_seq <= events[-1].seq or row.last_hash == history.last_hash:
        return None
    return (
        f"the row knows of {row.last_seq} events, there are {events[-1].seq}: "
        "the end of the history may have been cut off"
    )


def row_arguments(saga_id: UUID, history: History) -> list[object]:
    """Return what `REPAIR` and `CREATE` take; *history* can be folded."""
    row = history.projection
    assert row is not None
    # What could not be opened stays as it is.
    subject = subject_of(load(row.context))
    return [
        saga_id,
        row.name,
        row.version,
        row.fingerprint,
        row.status.value,
        list(row.current_steps),
        sealed_context(row.context, saga_id, subject),
        row.error and sealed(row.error, saga_id, subject),
        row.correlation_id,
        row.last_seq,
        history.last_hash,
        row.created_at,
        row.updated_at,
        row.status.is_settled,
        row.parent_id,
        row.parent_step,
        row.tenant,
    ]

"""How do sagas that ended leave the tables? Copied first, then removed, batch by batch.

At every instant each event is in the tables, or in the archive, or in both: a batch is in the
archive and on the disk before the transaction that removes it begins, and that transaction
looks at every saga again, under a lock. `eventsaga.remove_archived` is the only way past the
trigger that keeps events.

Left alone is what has not ended, what is owed something (a hook, an answer), what was changed,
what a consumer of the feed has not read, and the children of a parent that is still here: it
may be undone, and they with it. Parents leave first, so children follow in the next round.
"""

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol
from uuid import UUID

import asyncpg

from eventsaga import failpoints
from eventsaga.errors import ArchiveError, DatabaseUnavailableError
from eventsaga.settings import IDENTIFIER
from eventsaga.store.archive.file import ArchiveFile
from eventsaga.store.archive.lines import Archived, StartKey
from eventsaga.store.examine import EventRecord, SagaRecord, Violation, examine
from eventsaga.store.invariants import start_key_of
from eventsaga.store.postgres.connect import Connection
from eventsaga.store.postgres.sql import qualify
from eventsaga.store.postgres.store import PostgresStore

_PAGE: Final = 200
_MOST_EVENTS: Final = 5000
_FIRST: Final = UUID(int=0)
_COUNTING_SECONDS: Final = 600.0
_NO_SUCH_TABLE: Final = (
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.InvalidColumnReferenceError,  # without the primary key
)

PAGE: Final = """
SELECT s.saga_id, s.name, s.version, s.fingerprint, s.status, s.current_steps, s.context, s.error,
       s.correlation_id, s.last_seq, s.last_hash,
       CASE WHEN s.created_at BETWEEN '0001-01-02' AND '9999-12-30' THEN s.created_at END,
       CASE WHEN s.updated_at BETWEEN '0001-01-02' AND '9999-12-30' THEN s.updated_at END,
       s.parent_id, s.parent_step, s.tenant, s.owner, s.wake_at, false AS is_held
  FROM eventsaga.sagas s
 WHERE s.saga_id > $1::uuid
   AND s.status IN ('COMPLETED', 'COMPENSATED', 'FAILED')
   AND s.updated_at < statement_timestamp() - $2::interval
   AND s.owner IS NULL AND s.wake_at IS NULL
   AND NOT EXISTS (SELECT FROM eventsaga.inbox i
                    WHERE i.saga_id = s.saga_id AND i.answered_at IS NULL)
   AND NOT EXISTS (SELECT FROM eventsaga.sagas p WHERE p.saga_id = s.parent_id)
   AND NOT EXISTS (SELECT FROM eventsaga.sagas c
                    WHERE c.parent_id = s.saga_id
                      AND c.status NOT IN ('COMPLETED', 'COMPENSATED', 'FAILED'))
   AND ($3::bool OR NOT EXISTS (
           SELECT FROM eventsaga.feeds f, eventsaga.events e
            WHERE e.saga_id = s.saga_id AND e.seq = s.last_seq
              AND (f.txid, f.saga_id, f.seq) < (e.txid, e.saga_id, e.seq)))
 ORDER BY s.saga_id
 LIMIT $4
"""

EVENTS: Final = """
SELECT saga_id, seq, type, schema_version, data::text AS data,
       CASE WHEN occurred_at BETWEEN '0001-01-02' AND '9999-12-30' THEN occurred_at END,
       CASE WHEN recorded_at BETWEEN '0001-01-02' AND '9999-12-30' THEN recorded_at END,
       worker_id, salt, hash, digest
  FROM eventsaga.events
 WHERE saga_id = ANY ($1::uuid[])
 ORDER BY saga_id, seq
"""

KEYS: Final = """
SELECT k.saga_id, k.saga_name, k.key, k.input_digest
  FROM unnest($1::text[], $2::text[]) AS g(saga_name, key)
  JOIN eventsaga.start_keys k USING (saga_name, key)
"""

REMOVE: Final = """
SELECT saga_id FROM eventsaga.remove_archived($1::uuid[], $2::bytea[]) AS saga_id
"""

# What is there already is the same: a saga that was brought back and archived again.
MOVE: Final = """
INSERT INTO eventsaga.archived_events
       (saga_id, seq, type, schema_version, data, occurred_at, recorded_at, worker_id, salt, hash,
        digest)
SELECT saga_id, seq, type, schema_version, data, occurred_at, recorded_at, worker_id, salt, hash,
       digest
  FROM eventsaga.events
 WHERE saga_id = ANY ($1::uuid[])
ON CONFLICT (saga_id, seq) DO NOTHING
"""

# By the consumer that has read least.
UNREAD: Final = """
SELECT f.consumer, count(*) AS sagas
  FROM eventsaga.sagas s
  JOIN eventsaga.events e ON e.saga_id = s.saga_id AND e.seq = s.last_seq
  JOIN eventsaga.feeds f ON (f.txid, f.saga_id, f.seq) < (e.txid, e.saga_id, e.seq)
 WHERE s.status IN ('COMPLETED', 'COMPENSATED', 'FAILED')
   AND s.updated_at < statement_timestamp() - $1::interval
 GROUP BY f.consumer
 ORDER BY f.consumer
"""


class Destination(Protocol):
    """Where sagas go."""

    async def resume(self, store: PostgresStore) -> "Outcome | None":
        """Finish what a process began that died; None if there is nothing."""
        ...

    async def move(self, store: PostgresStore, sagas: Sequence[Archived]) -> set[UUID]:
        """Keep *sagas*, remove them from the tables, and return those that are gone."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a batch.

    Attributes:
        sagas: How many were archived.
        events: How many events they have.
        refused: Sagas that are left alone because their history is broken, each with why.
    """

    sagas: int
    events: int
    refused: Sequence[Violation] = ()


class IntoFile:
    """Sagas go to a file; see `ArchiveFile`."""

    def __init__(self, file: ArchiveFile) -> None:
        self._file = file

    async def move(self, store: PostgresStore, sagas: Sequence[Archived]) -> set[UUID]:
        """Write *sagas*, and remove them when they are on the disk."""
        await self._file.add(sagas)
        return await _remove(store, [(saga.saga_id, saga.head.head) for saga in sagas])

    async def resume(self, store: PostgresStore) -> Outcome | None:
        """Remove what was written last, by a process that may have died before it did."""
        heads = {head.saga_id: head for head in self._file.last}
        gone = await _remove(store, [(head.saga_id, head.head) for head in heads.values()])
        return Outcome(len(gone), sum(heads[each].events for each in gone)) if gone else None


class IntoTable:
    """Sagas go to a table of the same database, in the transaction that removes them.

    Args:
        table: ``name`` in the store's schema, or ``schema.name``; with the columns of
            ``archived_events``.
        schema: The store's.

    Raises:
        ArchiveError: If *table* is no plain identifier.
    """

    def __init__(self, table: str, schema: str) -> None:
        parts = table.split(".")
        if len(parts) > 2 or not all(map(IDENTIFIER.fullmatch, parts)):  # noqa: PLR2004 - two parts
            raise ArchiveError(table, "a table is named name or schema.name, in lower case")
        *before, name = parts
        within = before[0] if before else schema
        self.table = f"{within}.{name}"
        move = qualify(MOVE, schema)
        ours = qualify("eventsaga.archived_events", schema)
        self._move = move.replace(ours, f'"{within}"."{name}"')

    async def resume(self, store: PostgresStore) -> None:
        """Do nothing: a transaction leaves nothing half done."""
        del store

    async def move(self, store: PostgresStore, sagas: Sequence[Archived]) -> set[UUID]:
        """Copy and remove *sagas* in one transaction, those that may still be removed."""
        heads: dict[UUID, bytes] = {saga.saga_id: saga.head.head for saga in sagas}
        try:
            return await self._move_all(store, heads)
        except DatabaseUnavailableError as error:
            if isinstance(error.__cause__, _NO_SUCH_TABLE):
                reason = "there is no such table, with the columns of archived_events"
                raise ArchiveError(self.table, reason) from error
            raise

    async def _move_all(self, store: PostgresStore, heads: dict[UUID, bytes]) -> set[UUID]:
        while heads:
            async with store.connection() as connection:
                transaction = connection.transaction(isolation="read_committed")
                await transaction.start()
                await connection.execute(self._move, list(heads))
                removed = await _removed(connection, store, list(heads.items()))
                if len(removed) == len(heads):
                    await transaction.commit()
                    return removed
                # Some have gone on: their copies go, too.
                await transaction.rollback()
            heads = dict[UUID, bytes]((each, heads[each]) for each in removed)
        return set()


async def archive(
    store: PostgresStore,
    destination: Destination,
    *,
    older_than: timedelta,
    ignore_feeds: bool = False,
) -> AsyncGenerator[Outcome]:
    """Move sagas that have ended, and yield what became of each batch.

    Args:
        store: An open store.
        destination: Where they go.
        older_than: Sagas whose last event is older.
        ignore_feeds: Whether to archive also what a consumer of the feed has not read, and
            will not see then.

    Raises:
        ArchiveError: If it cannot be written; nothing of that batch is removed.
        DatabaseUnavailableError: If the database cannot be reached any more.
    """
    refused: set[UUID] = set()
    resumed = await destination.resume(store)
    if resumed is not None:
        yield resumed
    while True:
        moved = 0
        pages = _pages(store, older_than, refused, ignore_feeds=ignore_feeds)
        async with aclosing(pages):
            async for rows in pages:
                outcome = await _moved(store, destination, rows)
                refused |= {violation.saga_id for violation in outcome.refused}
                moved += outcome.sagas
                yield outcome
        # Children of what has gone.
        if not moved:
            return


async def held_for(store: PostgresStore, older_than: timedelta) -> dict[str, int]:
    """Return how many sagas wait for each consumer of the feed that has not read them."""
    async with store.connection() as connection:
        statement = qualify(UNREAD, store.settings.schema)
        rows = await connection.fetch(statement, older_than, timeout=_COUNTING_SECONDS)
    return {row["consumer"]: row["sagas"] for row in rows}


async def _pages(
    store: PostgresStore, older_than: timedelta, refused: set[UUID], *, ignore_feeds: bool
) -> AsyncGenerator[list[SagaRecord]]:
    statement, after = qualify(PAGE, store.settings.schema), _FIRST
    while True:
        async with store.connection() as connection:
            found = await connection.fetch(statement, after, older_than, ignore_feeds, _PAGE)
        for rows in _batches([SagaRecord(*row) for row in found]):
            wanted = [row for row in rows if row.saga_id not in refused]
            if wanted:
                yield wanted
        if len(found) < _PAGE:
            return
        after = found[-1]["saga_id"]


def _batches(rows: Sequence[SagaRecord]) -> Iterator[list[SagaRecord]]:
    """Yield sagas that have, together, no more events than fit; at least one."""
    batch, events = list[SagaRecord](), 0
    for row in rows:
        if batch and events + row.last_seq > _MOST_EVENTS:
            yield batch
            batch, events = [], 0
        batch.append(row)
        events += row.last_seq
    if batch:
        yield batch


async def _moved(
    store: PostgresStore, destination: Destination, rows: Sequence[SagaRecord]
) -> Outcome:
    histories = await _histories(store, [row.saga_id for row in rows])
    refused: list[Violation] = []
    sound: list[list[EventRecord]] = []
    for row in rows:
        events = histories.get(row.saga_id, [])
        # A broken history is evidence, and stays where it is.
        found = examine(row.saga_id, row, events) or _unwritable(events)
        refused += found[:1]
        if not found:
            sound.append(events)
    if not sound:
        return Outcome(0, 0, refused)
    keys = await _start_keys(store, sound)
    sagas = [Archived(events, keys.get(events[0].saga_id)) for events in sound]
    gone = await destination.move(store, sagas)
    count = sum(len(saga.records) for saga in sagas if saga.saga_id in gone)
    return Outcome(len(gone), count, refused)


def _unwritable(events: Sequence[EventRecord]) -> list[Violation]:
    """Return what no line can hold; nothing of ours writes such a text."""
    return [
        Violation(event.saga_id, event.seq, 19, "its data has a line break")
        for event in events
        if event.data is not None and ("\n" in event.data or "\r" in event.data)
    ]


async def _histories(
    store: PostgresStore, saga_ids: Sequence[UUID]
) -> dict[UUID, list[EventRecord]]:
    statement = qualify(EVENTS, store.settings.schema)
    async with store.connection() as connection:
        rows = await connection.fetch(statement, list(saga_ids))
    histories: dict[UUID, list[EventRecord]] = {}
    for row in rows:
        histories.setdefault(row["saga_id"], []).append(EventRecord(*row))
    return histories


async def _start_keys(
    store: PostgresStore, histories: Sequence[Sequence[EventRecord]]
) -> dict[UUID, StartKey]:
    wanted = [key for events in histories if (key := start_key_of(events)) is not None]
    if not wanted:
        return {}
    statement = qualify(KEYS, store.settings.schema)
    async with store.connection() as connection:
        rows = await connection.fetch(statement, *map(list, zip(*wanted, strict=True)))
    return {row[0]: StartKey(*row[1:]) for row in map(tuple, rows)}


async def _remove(store: PostgresStore, heads: Sequence[tuple[UUID, bytes]]) -> set[UUID]:
    """Remove sagas that still stand at their heads, and return them."""
    if failpoints.armed:
        await failpoints.reach("before_archive_remove")
    async with store.connection() as connection:
        removed = await _removed(connection, store, heads)
    if failpoints.armed:
        await failpoints.reach("after_archive_remove")
    return removed


async def _removed(
    connection: Connection, store: PostgresStore, heads: Sequence[tuple[UUID, bytes]]
) -> set[UUID]:
    statement = qualify(REMOVE, store.settings.schema)
    ids, hashes = [head[0] for head in heads], [head[1] for head in heads]
    return {row["saga_id"] for row in await connection.fetch(statement, ids, hashes)}

"""How is everything looked through, while workers go on? Page by page, each from one snapshot.

A page holds the rows of a range of sagas and streams their events, so memory is bounded
and no transaction is open for long. Sagas that are started after the first page have ids
behind the range, as ids grow with time: a scan ends however fast new ones come.
"""

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Any, Final, NamedTuple, TypeVar
from uuid import UUID

from eventsaga.store.examine import EventRecord, SagaRecord
from eventsaga.store.postgres.connect import Connection
from eventsaga.store.postgres.sql import qualify
from eventsaga.store.postgres.store import PostgresStore

Found = TypeVar("Found")

Look = Callable[[UUID, SagaRecord | None, Sequence[EventRecord]], Sequence[Found]]
"""Takes a saga, its row and its events, and returns what is noteworthy about it."""

Progress = Callable[[int, int], None]
"""Takes the number of sagas that are done and of those that there are."""

_PAGE: Final = 200
_FETCH: Final = 500
_FIRST: Final = UUID(int=0)
_COUNTING_SECONDS: Final = 600.0  # a count reads a whole index

EXTENT: Final = """
SELECT (SELECT count(*) FROM eventsaga.sagas) AS sagas,
       greatest((SELECT saga_id FROM eventsaga.sagas ORDER BY saga_id DESC LIMIT 1),
                (SELECT saga_id FROM eventsaga.events ORDER BY saga_id DESC LIMIT 1)) AS last
"""

# Somebody may have written an instant that the driver cannot read; it becomes NULL here.
SAGAS_IN_RANGE: Final = """
SELECT saga_id, name, version, fingerprint, status, current_steps, context, error,
       correlation_id, last_seq, last_hash,
       CASE WHEN created_at BETWEEN '0001-01-02' AND '9999-12-30' THEN created_at END,
       CASE WHEN updated_at BETWEEN '0001-01-02' AND '9999-12-30' THEN updated_at END,
       parent_id, parent_step, tenant, owner,
       CASE WHEN wake_at BETWEEN '0001-01-02' AND '9999-12-30' THEN wake_at END,
       owner IS NOT NULL OR wake_at IS NOT NULL AS is_held
  FROM eventsaga.sagas
 WHERE saga_id >= $1::uuid AND saga_id <= $2::uuid
 ORDER BY saga_id
 LIMIT $3
"""

EVENTS_IN_RANGE: Final = """
SELECT saga_id, seq, type, schema_version, data,
       CASE WHEN occurred_at BETWEEN '0001-01-02' AND '9999-12-30' THEN occurred_at END,
       CASE WHEN recorded_at BETWEEN '0001-01-02' AND '9999-12-30' THEN recorded_at END,
       worker_id, salt, hash, digest
  FROM eventsaga.events
 WHERE saga_id >= $1::uuid AND saga_id <= $2::uuid
 ORDER BY saga_id, seq
"""


class Statements(NamedTuple):
    """What a scan asks, for the store's schema."""

    extent: str
    sagas: str
    events: str

    @classmethod
    def of(cls, store: PostgresStore) -> "Statements":
        """Return the statements for *store*."""
        schema = store.settings.schema
        return cls(*(qualify(sql, schema) for sql in (EXTENT, SAGAS_IN_RANGE, EVENTS_IN_RANGE)))


async def scan(
    store: PostgresStore,
    look: Look[Found],
    *,
    saga_ids: Iterable[UUID] | None = None,
    progress: Progress | None = None,
) -> AsyncGenerator[Found]:
    """Show every saga to *look* and yield what it finds; no transaction is open meanwhile.

    A saga without a row, or without events, is shown too.

    Args:
        store: An open store.
        look: Sees each saga with all its events, as they were at one instant.
        saga_ids: Only these, whether they exist or not; None for all.
        progress: Called after each page.

    Raises:
        DatabaseUnavailableError: If the database cannot be reached any more.
    """
    report = progress or _ignored
    pages = (
        _all_pages(store, look, report)
        if saga_ids is None
        else _pages_of(store, look, tuple(dict.fromkeys(saga_ids)), report)
    )
    async with aclosing(pages):
        async for page in pages:
            for found in page.found:
                yield found


class _Page(NamedTuple):
    """What was seen of a range.

    Attributes:
        found: What was noteworthy.
        sagas: How many were shown.
        end: The last id that is done with.
    """

    found: list[Any]
    sagas: int
    end: UUID


async def _all_pages(
    store: PostgresStore, look: Look[Any], report: Progress
) -> AsyncGenerator[_Page]:
    statements = Statements.of(store)
    async with store.connection() as connection:
        extent = await connection.fetchrow(statements.extent, timeout=_COUNTING_SECONDS)
    assert extent is not None
    total, last = extent
    report(0, total)
    done, first = 0, _FIRST
    while last is not None and first <= last:
        page = await _read_page(store, statements, first, last, look)
        done += page.sagas
        report(done, max(done, total))
        yield page
        if page.end == last:
            return
        first = UUID(int=page.end.int + 1)


async def _pages_of(
    store: PostgresStore, look: Look[Any], saga_ids: Sequence[UUID], report: Progress
) -> AsyncGenerator[_Page]:
    statements = Statements.of(store)
    report(0, len(saga_ids))
    for done, saga_id in enumerate(saga_ids, 1):
        page = await _read_page(store, statements, saga_id, saga_id, look)
        if not page.sagas:
            page.found.extend(look(saga_id, None, ()))
        report(done, len(saga_ids))
        yield page


async def _read_page(
    store: PostgresStore, statements: Statements, first: UUID, last: UUID, look: Look[Any]
) -> _Page:
    """Show the next sagas from *first* on to *look*, from one snapshot."""
    async with (
        store.connection() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        rows = await read_rows(connection, statements, first, last, _PAGE)
        # With a full page there may be more behind its last saga.
        end = rows[-1].saga_id if len(rows) == _PAGE else last
        found, count = list[Any](), 0
        histories = _histories(connection, statements.events, first, end)
        async with aclosing(histories), aclosing(_joined(rows, histories)) as sagas:
            async for saga_id, row, events in sagas:
                found += look(saga_id, row, events)
                count += 1
                if count == _PAGE:
                    # Events without rows may fill a page as well.
                    end = saga_id
                    break
        return _Page(found, count, end)


async def read_rows(
    connection: Connection, statements: Statements, first: UUID, last: UUID, limit: int = 1
) -> list[SagaRecord]:
    """Return at most *limit* rows of a range, by id."""
    rows = await connection.fetch(statements.sagas, first, last, limit)
    return [SagaRecord(*row) for row in rows]


async def read_events(
    connection: Connection, statements: Statements, saga_id: UUID
) -> list[EventRecord]:
    """Return all events of a saga by number, as they are stored."""
    rows = await connection.fetch(statements.events, saga_id, saga_id)
    return [EventRecord(*row) for row in rows]


async def _histories(
    connection: Connection, statement: str, first: UUID, last: UUID
) -> AsyncGenerator[list[EventRecord]]:
    """Yield the events of each saga of a range, one saga in memory at a time."""
    cursor = await connection.cursor(statement, first, last)
    events: list[EventRecord] = []
    while rows := await cursor.fetch(_FETCH):
        for row in rows:
            event = EventRecord(*row)
            if events and events[0].saga_id != event.saga_id:
                yield events
                events = []
            events.append(event)
    if events:
        yield events


async def _joined(
    rows: Iterable[SagaRecord], histories: AsyncIterator[list[EventRecord]]
) -> AsyncGenerator[tuple[UUID, SagaRecord | None, list[EventRecord]]]:
    """Yield each saga that has a row, or events, or both; all come ordered by id."""
    waiting = deque(rows)
    async for events in histories:
        saga_id = events[0].saga_id
        while waiting and waiting[0].saga_id < saga_id:
            row = waiting.popleft()
            yield row.saga_id, row, []
        has_row = bool(waiting) and waiting[0].saga_id == saga_id
        yield saga_id, waiting.popleft() if has_row else None, events
    for row in waiting:
        yield row.saga_id, row, []


def _ignored(_done: int, _total: int) -> None:
    """Stand in where nobody watches."""

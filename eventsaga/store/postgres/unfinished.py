"""What is under way? The histories of all sagas that have not ended, a few at a time.

Each batch is read by one statement, so whoever reads slowly holds no transaction open, and
a batch has a bounded number of events, or is one saga.
"""

from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, Final
from uuid import UUID

from eventsaga.core.state import Status
from eventsaga.store.examine import EventRecord
from eventsaga.store.postgres.scan import Progress
from eventsaga.store.postgres.sql import qualify
from eventsaga.store.postgres.store import PostgresStore

_PAGE: Final = 1000
_MOST_EVENTS: Final = 5000
_FIRST: Final = UUID(int=0)
_COUNTING_SECONDS: Final = 600.0  # a count reads the whole table
_STATUSES: Final = [status.value for status in Status if not status.is_terminal]

COUNT: Final = """
SELECT count(*) FROM eventsaga.sagas WHERE status = ANY ($1::text[])
"""

# Ids grow with time: sagas that are started meanwhile come last.
PAGE: Final = """
SELECT saga_id, last_seq FROM eventsaga.sagas
 WHERE status = ANY ($1::text[]) AND saga_id >= $2::uuid
 ORDER BY saga_id
 LIMIT $3
"""

EVENTS: Final = """
SELECT saga_id, seq, type, schema_version, data,
       CASE WHEN occurred_at BETWEEN '0001-01-02' AND '9999-12-30' THEN occurred_at END,
       CASE WHEN recorded_at BETWEEN '0001-01-02' AND '9999-12-30' THEN recorded_at END,
       worker_id, salt, hash
  FROM eventsaga.events
 WHERE saga_id = ANY ($1::uuid[])
 ORDER BY saga_id, seq
"""


async def unfinished(
    store: PostgresStore, progress: Progress | None = None
) -> AsyncGenerator[list[EventRecord]]:
    """Yield the events of each saga that has not ended, oldest saga first.

    One that ends meanwhile may be among them.

    Args:
        store: An open store.
        progress: Called after each batch.
    """
    schema = store.settings.schema
    count, page, events = (qualify(sql, schema) for sql in (COUNT, PAGE, EVENTS))
    async with store.connection() as connection:
        total = await connection.fetchval(count, _STATUSES, timeout=_COUNTING_SECONDS)
    done, first = 0, _FIRST
    while True:
        async with store.connection() as connection:
            rows = await connection.fetch(page, _STATUSES, first, _PAGE)
        for ids in _batches(rows):
            async with store.connection() as connection:
                found = await connection.fetch(events, ids)
            for history in _by_saga(found):
                yield history
            done += len(ids)
            if progress is not None:
                progress(done, max(done, total))
        if len(rows) < _PAGE:
            return
        first = UUID(int=rows[-1]["saga_id"].int + 1)


def _batches(rows: Iterable[Any]) -> Iterator[list[UUID]]:
    """Yield ids of sagas that have, together, no more events than fit; at least one."""
    batch, events = list[UUID](), 0
    for row in rows:
        if batch and events + row["last_seq"] > _MOST_EVENTS:
            yield batch
            batch, events = [], 0
        batch.append(row["saga_id"])
        events += row["last_seq"]
    if batch:
        yield batch


def _by_saga(rows: Sequence[Any]) -> Iterator[list[EventRecord]]:
    records = (EventRecord(*row) for row in rows)
    for _, history in groupby(records, key=lambda record: record.saga_id):
        yield list(history)

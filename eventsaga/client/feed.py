"""Who is told what happened, in order and without gaps? A consumer that reads the feed."""

import asyncio
import re
from collections.abc import AsyncGenerator, Iterator
from datetime import timedelta
from typing import Final, Self
from uuid import uuid4

from eventsaga.errors import CorruptHistoryError, DatabaseUnavailableError, FeedTakenError
from eventsaga.observe.log import logger
from eventsaga.store.examine import EventRecord
from eventsaga.store.ports import StoredEvent
from eventsaga.store.postgres import feed as feeding
from eventsaga.store.postgres.feed import Taken
from eventsaga.store.postgres.store import PostgresStore
from eventsaga.wire.codec import decode
from eventsaga.wire.sealing import opened

CONSUMER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,99}")
"""What a consumer may be called."""

LIMIT: Final = 500
LEASE: Final = timedelta(seconds=30)

_log = logger("client")


class Batch:
    """Events that a consumer has taken, and not committed yet. Iterates over the events.

    Attributes:
        records: The events as they are stored; for those who pass them on and read nothing.
    """

    def __init__(self, feed: "Feed", taken: Taken, connection: object = None) -> None:
        self.records = taken.records
        self._feed = feed
        self._taken = taken
        self._connection = connection
        self._is_committed = False

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[StoredEvent]:
        return map(_event, self.records)

    @property
    def is_committed(self) -> bool:
        """Whether it was committed; if not, its events come again."""
        return self._is_committed

    async def commit(self) -> None:
        """Note that these events were dealt with: the next batch is what follows.

        With a connection, that is part of the caller's transaction, and undone with it.

        Raises:
            FeedTakenError: If somebody else has taken these events meanwhile, because the
                lease has ended; they are delivered there again.
            DatabaseUnavailableError: If the database cannot be reached; the events come again
                unless it was the answer that was lost.
        """
        feed = self._feed
        if self._connection is None:
            await feed.advance(self._taken)
        else:
            await feeding.advance_within(feed.store, self._connection, feed.consumer, self._taken)
        self._is_committed = True


class Feed:
    """Every committed event once, those of a saga in order; see `Orchestrator.feed`.

    Use it with ``async with``: on leaving, others may read for the consumer at once.

    Args:
        store: An open store.
        consumer: Who reads: letters, digits and ``_ . : -``, at most 100.
        limit: Events in a batch at most.
        lease: How long a batch may take before another process may take it, too.

    Raises:
        ValueError: If *consumer* is no name, or *limit* or *lease* not positive.
    """

    def __init__(
        self, store: PostgresStore, consumer: str, *, limit: int = LIMIT, lease: timedelta = LEASE
    ) -> None:
        if CONSUMER.fullmatch(consumer) is None:
            raise ValueError(
                f"a consumer's name is letters, digits and '_.:-' (at most 100), not {consumer!r}"
            )
        if limit < 1 or lease <= timedelta(0):
            raise ValueError("limit and lease must be positive")
        self.store = store
        self.consumer = consumer
        self._limit = limit
        self._lease = lease
        self._reader = uuid4()
        self._poll = store.settings.poll.total_seconds()

    async def __aenter__(self) -> Self:
        await feeding.register(self.store, self.consumer)
        return self

    async def __aexit__(self, *_error: object) -> None:
        try:
            await feeding.release(self.store, self.consumer, self._reader)
        except DatabaseUnavailableError as error:
            # It ends by itself then, with the lease.
            _log.warning("feed_not_released", consumer=self.consumer, error=repr(error))

    async def __aiter__(self) -> AsyncGenerator[Batch]:
        """Yield batch after batch, and wait for more; ends never.

        While another process reads for this consumer, or the database is away, it waits. A
        batch that was not committed comes again.

        Raises:
            FeedNumberingError: If the database was restored into another system.
        """
        while True:
            batch = await self._next()
            if batch:
                yield batch
            if batch is None or not batch.is_committed:
                await asyncio.sleep(self._poll)

    async def take(self, connection: object = None) -> Batch:
        """Return the next batch; an empty one if there is nothing new.

        Until it is committed, the same events are taken again.

        Args:
            connection: The caller's `AsyncSession`, `AsyncConnection` or asyncpg connection,
                with a transaction that is open: what is done about the events and the commit
                of the batch are one then, and nobody else can take until that has ended. Keep
                it short: nobody's feed gets past a transaction that writes.

        Raises:
            FeedTakenError: If another process reads for this consumer.
            FeedNumberingError: If the database was restored into another system.
            DatabaseUnavailableError: If the database cannot be reached.
            TypeError: If *connection* is none of these.
        """
        if connection is None:
            taken = await feeding.take(
                self.store, self.consumer, self._reader, self._limit, self._lease
            )
        else:
            taken = await feeding.take_within(
                self.store, connection, self.consumer, self._reader, self._limit
            )
        return Batch(self, taken, connection)

    async def advance(self, taken: Taken) -> None:
        """Note that *taken* was dealt with; what `Batch.commit` does."""
        await feeding.advance(self.store, self.consumer, self._reader, taken)

    async def _next(self) -> Batch | None:
        """Return the next batch; None if this is not the time to ask."""
        try:
            return await self.take()
        except FeedTakenError:
            return None
        except DatabaseUnavailableError as error:
            _log.warning("feed_waits", consumer=self.consumer, error=repr(error))
            return None


def _event(record: EventRecord) -> StoredEvent:
    if record.occurred_at is None or record.recorded_at is None:
        raise CorruptHistoryError(record.saga_id, record.seq, "its time is out of range")
    try:
        data = record.data and opened(record.data, record.saga_id)
        event = decode(record.type, record.schema_version, record.occurred_at, data)
    except ValueError as error:
        raise CorruptHistoryError(record.saga_id, record.seq, str(error)) from error
    return StoredEvent(
        saga_id=record.saga_id,
        seq=record.seq,
        event=event,
        recorded_at=record.recorded_at,
        worker_id=record.worker_id,
        hash=record.hash,
    )

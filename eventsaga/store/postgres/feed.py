"""How does a consumer read every committed event once? By transaction, behind a horizon.

The order is that of ``(txid, saga_id, seq)``. A transaction takes its id when it first writes
and is seen when it commits, so a higher id may be seen before a lower one. What a consumer
reads ends before the oldest transaction that still writes: whatever has a lower id has ended
by then and is in the snapshot, or was rolled back. So nothing ever appears behind a place that
was read. The price: one long transaction that writes, in any database of the server, holds up
all feeds (workers do not read by them).

Nobody reads ahead of a lock: a consumer is held by one reader, for a while and by the
database's clock, or by the caller's own transaction. A lock as long as a batch would be such a
long transaction, so it is held by a row that says until when.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

from eventsaga.errors import FeedNumberingError, FeedTakenError
from eventsaga.store.examine import EventRecord
from eventsaga.store.postgres.sql import qualify
from eventsaga.store.postgres.start import fetch_within
from eventsaga.store.postgres.store import PostgresStore

# A report of how much is unread counts so far.
MOST_COUNTED: Final = 100_000

REGISTER: Final = """
INSERT INTO eventsaga.feeds (consumer) VALUES ($1::text) ON CONFLICT DO NOTHING
"""

# What somebody else holds right now, in a transaction of his own, is passed over.
HOLD: Final = """
WITH free AS (
    SELECT f.consumer
      FROM eventsaga.feeds f
     WHERE f.consumer = $1::text
       AND (f.holder IS NULL OR f.holder = $2::uuid OR f.held_until < clock_timestamp())
       FOR UPDATE SKIP LOCKED
)
UPDATE eventsaga.feeds f
   SET holder = $2::uuid, held_until = clock_timestamp() + $3::interval
  FROM free
 WHERE f.consumer = free.consumer
RETURNING f.txid::text AS txid, f.saga_id, f.seq, eventsaga.is_numbered() AS is_numbered
"""

LOCK: Final = """
SELECT f.txid::text AS txid, f.saga_id, f.seq, eventsaga.is_numbered() AS is_numbered
  FROM eventsaga.feeds f
 WHERE f.consumer = $1::text
   AND (f.holder IS NULL OR f.holder = $2::uuid OR f.held_until < clock_timestamp())
   FOR UPDATE SKIP LOCKED
"""

# One statement: the horizon and the events are of one snapshot. The data is cast, because the
# caller's connection may have a codec of its own for json.
READ: Final = """
SELECT e.saga_id, e.seq, e.type, e.schema_version, e.data::text AS data,
       CASE WHEN e.occurred_at BETWEEN '0001-01-02' AND '9999-12-30' THEN e.occurred_at END
           AS occurred_at,
       CASE WHEN e.recorded_at BETWEEN '0001-01-02' AND '9999-12-30' THEN e.recorded_at END
           AS recorded_at,
       e.worker_id, e.salt, e.hash, e.digest, e.txid::text AS txid
  FROM eventsaga.events e
 WHERE (e.txid, e.saga_id, e.seq) > ($1::text::xid8, $2::uuid, $3::int)
   AND e.txid < pg_snapshot_xmin(pg_current_snapshot())
 ORDER BY e.txid, e.saga_id, e.seq
 LIMIT $4
"""

# The second time, if the first answer was lost, it is there already.
ADVANCE: Final = """
UPDATE eventsaga.feeds f
   SET txid = $6::text::xid8, saga_id = $7::uuid, seq = $8::int, updated_at = clock_timestamp()
 WHERE f.consumer = $1::text
   AND ($2::uuid IS NULL OR f.holder = $2::uuid)
   AND (f.txid, f.saga_id, f.seq) IN (($3::text::xid8, $4::uuid, $5::int),
                                      ($6::text::xid8, $7::uuid, $8::int))
RETURNING f.consumer
"""

RELEASE: Final = """
UPDATE eventsaga.feeds SET holder = NULL, held_until = NULL
 WHERE consumer = $1::text AND holder = $2::uuid
"""

STANDING: Final = """
SELECT f.consumer, f.updated_at,
       coalesce(f.held_until > clock_timestamp(), false) AS is_held,
       (SELECT count(*)
          FROM (SELECT FROM eventsaga.events e
                 WHERE (e.txid, e.saga_id, e.seq) > (f.txid, f.saga_id, f.seq)
                 LIMIT $1) unread) AS unread
  FROM eventsaga.feeds f
 ORDER BY f.consumer
"""

FORGET: Final = """
DELETE FROM eventsaga.feeds WHERE consumer = $1::text RETURNING consumer
"""

IS_NUMBERED: Final = "SELECT eventsaga.is_numbered()"

RENUMBER: Final = "SELECT eventsaga.renumber_events()"


class Position(NamedTuple):
    """A place in the feed: that of an event, or before the first."""

    txid: str
    saga_id: UUID
    seq: int


class Taken(NamedTuple):
    """A batch of the feed.

    Attributes:
        after: Where its consumer stood.
        upto: Where it stands when the batch is committed.
        records: The events in between, in order.
    """

    after: Position
    upto: Position
    records: tuple[EventRecord, ...]


class Standing(NamedTuple):
    """How far a consumer is.

    Attributes:
        consumer: Its name.
        updated_at: When it committed a batch last, or began.
        is_held: Whether somebody reads for it now.
        unread: How many events it has not committed; counted up to `MOST_COUNTED`.
    """

    consumer: str
    updated_at: datetime
    is_held: bool
    unread: int


async def register(store: PostgresStore, consumer: str) -> None:
    """Note that *consumer* exists: from now on nothing unread is archived behind its back."""
    async with store.connection() as connection:
        await connection.execute(_of(store, REGISTER), consumer)


async def take(
    store: PostgresStore, consumer: str, reader: UUID, limit: int, lease: timedelta
) -> Taken:
    """Return what follows what *consumer* has committed, and hold it for *reader*.

    Args:
        store: An open store.
        consumer: A registered one.
        reader: Who takes; the same one may take again.
        limit: At most so many events.
        lease: How long nobody else may take.

    Raises:
        FeedTakenError: If somebody else holds it.
        FeedNumberingError: If the database was restored and its events are not numbered anew.
    """
    async with store.connection() as connection:
        rows = await connection.fetch(_of(store, HOLD), consumer, reader, lease)
        position = _position(consumer, rows)
        # A statement of its own: the one before has written, and has an id itself.
        found = await connection.fetch(_of(store, READ), *position, limit)
    return _taken(position, found)


async def take_within(
    store: PostgresStore, connection: object, consumer: str, reader: UUID, limit: int
) -> Taken:
    """Return what follows what *consumer* has committed, and lock it until the caller commits.

    Raises:
        FeedTakenError: If somebody else holds it.
        FeedNumberingError: If the database was restored and its events are not numbered anew.
        TypeError: If *connection* is none of those that a caller may have.
    """
    rows = await fetch_within(connection, _of(store, LOCK), (consumer, reader))
    position = _position(consumer, rows)
    return _taken(position, await fetch_within(connection, _of(store, READ), (*position, limit)))


async def advance(store: PostgresStore, consumer: str, reader: UUID, taken: Taken) -> None:
    """Note that *taken* was dealt with.

    Raises:
        FeedTakenError: If somebody else has taken it since.
    """
    arguments = (consumer, reader, *taken.after, *taken.upto)
    async with store.connection() as connection:
        if not await connection.fetch(_of(store, ADVANCE), *arguments):
            raise FeedTakenError(consumer)


async def advance_within(
    store: PostgresStore, connection: object, consumer: str, taken: Taken
) -> None:
    """Note inside the caller's transaction that *taken* was dealt with.

    Raises:
        FeedTakenError: If it is not the transaction in which it was taken.
        TypeError: If *connection* is none of those that a caller may have.
    """
    arguments = (consumer, None, *taken.after, *taken.upto)
    if not await fetch_within(connection, _of(store, ADVANCE), arguments):
        raise FeedTakenError(consumer)


async def release(store: PostgresStore, consumer: str, reader: UUID) -> None:
    """Let others take what *reader* holds."""
    async with store.connection() as connection:
        await connection.execute(_of(store, RELEASE), consumer, reader)


async def standings(store: PostgresStore) -> list[Standing]:
    """Return how far each consumer is, by name."""
    async with store.connection() as connection:
        rows = await connection.fetch(_of(store, STANDING), MOST_COUNTED)
    return [Standing(*row) for row in rows]


async def forget(store: PostgresStore, consumer: str) -> bool:
    """Forget a consumer and how far it is; return whether it was there."""
    async with store.connection() as connection:
        return bool(await connection.fetch(_of(store, FORGET), consumer))


async def is_numbered(store: PostgresStore) -> bool:
    """Return whether the ids of transactions are those of the system that the store is on."""
    async with store.connection() as connection:
        return bool(await connection.fetchval(_of(store, IS_NUMBERED)))


async def renumber(store: PostgresStore) -> int:
    """Put all events in the order of the present system; return how many were changed.

    Appends wait meanwhile.
    """
    async with store.connection() as connection:
        return int(await connection.fetchval(_of(store, RENUMBER), timeout=None))


def _of(store: PostgresStore, statement: str) -> str:
    return qualify(statement, store.settings.schema)


def _position(consumer: str, rows: Sequence[Any]) -> Position:
    if not rows:
        raise FeedTakenError(consumer)
    (row,) = rows
    if not row["is_numbered"]:
        raise FeedNumberingError
    return Position(row["txid"], row["saga_id"], row["seq"])


def _taken(after: Position, rows: Sequence[Any]) -> Taken:
    records = tuple(EventRecord(*(row[name] for name in EventRecord._fields)) for row in rows)
    if not rows:
        return Taken(after, after, ())
    last = rows[-1]
    return Taken(after, Position(last["txid"], last["saga_id"], last["seq"]), records)

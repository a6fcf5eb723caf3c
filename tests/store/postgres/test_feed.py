"""Does a consumer get every committed event once, in order, whoever commits when?"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from eventsaga import Parallel, Saga, Step, StepContext
from eventsaga.client.feed import Batch, Feed
from eventsaga.errors import FeedNumberingError, FeedTakenError
from eventsaga.settings import Settings
from eventsaga.store.examine import EventRecord
from eventsaga.store.postgres import feed as feeding
from eventsaga.store.postgres.connect import sqlalchemy_url
from eventsaga.store.postgres.store import PostgresStore
from tests.runtime.sagas import Order, nothing, orchestrating
from tests.store.barriers import until
from tests.store.builders import new_start, new_worker, start_saga, start_sagas
from tests.store.vandal import Vandal, run_to_the_end

Place = tuple[UUID, int]

LAPSE = "UPDATE eventsaga.feeds SET held_until = clock_timestamp() - interval '1 s'"
# Nobody else's transaction keeps any event from being read.
PASSED = """
    SELECT pg_snapshot_xmin(pg_current_snapshot()) > txid
      FROM eventsaga.events ORDER BY txid DESC LIMIT 1
"""


async def some(feed: Feed, connection: object = None) -> list[Place]:
    """Take and commit a batch; wait for one, because any transaction may hold it up."""
    async with asyncio.timeout(30):
        while not (batch := await feed.take(connection)):
            pass  # the query is the wait
    await batch.commit()
    return [(event.saga_id, event.seq) for event in batch]


async def everything(store: PostgresStore, feed: Feed) -> list[Place]:
    """Take and commit until nothing is left, not even behind the horizon."""
    found: list[Place] = []
    async with asyncio.timeout(30):
        while True:
            batch = await feed.take()
            found += [(event.saga_id, event.seq) for event in batch]
            await batch.commit()
            (standing,) = [
                each for each in await feeding.standings(store) if each.consumer == feed.consumer
            ]
            if not batch and not standing.unread:
                return found


def out_of_order(found: Sequence[Place]) -> list[Place]:
    """Return what was delivered twice, or before an earlier event of its saga."""
    last: dict[UUID, int] = {}
    wrong: list[Place] = []
    for saga_id, seq in found:
        if seq != last.get(saga_id, 0) + 1:
            wrong.append((saga_id, seq))
        last[saga_id] = seq
    return wrong


async def stored(sql: asyncpg.Connection) -> set[Place]:
    rows = await sql.fetch("SELECT saga_id, seq FROM eventsaga.events")
    return {(row["saga_id"], row["seq"]) for row in rows}


async def told_across_two_writers(
    database: str, store: PostgresStore
) -> tuple[list[Place], set[Place]]:
    """Return what a feed gave, and what there is, if who began first commits last.

    The first has its transaction id before the second begins; it records after the second
    has committed; and the feed is read before and after its own commit.
    """
    found: list[Place] = []
    first = await asyncpg.connect(database)
    async with Feed(store, "one", limit=1) as feed:
        begun = first.transaction()
        await begun.start()
        await first.fetchval("SELECT pg_current_xact_id()")
        await start_saga(store)
        found += [(event.saga_id, event.seq) for event in await taken(feed)]
        await store.start_within(first, new_start())
        found += [(event.saga_id, event.seq) for event in await taken(feed)]
        await begun.commit()
        found += await everything(store, feed)
    there = await stored(first)
    await first.close()
    return found, there


async def taken(feed: Feed) -> Sequence[EventRecord]:
    batch = await feed.take()
    await batch.commit()
    return batch.records


async def test_who_began_earlier_and_commits_later_is_not_skipped(
    database: str, store: PostgresStore
) -> None:
    found, there = await told_across_two_writers(database, store)

    assert set(found) == there
    assert len(found) == len(there) == 2
    assert not out_of_order(found)


@pytest.mark.parametrize(
    ("part", "mistake"),
    [
        ("   AND e.txid < pg_snapshot_xmin(pg_current_snapshot())\n", ""),
        ("pg_snapshot_xmin(", "pg_snapshot_xmax("),
        ("ORDER BY e.txid, e.saga_id, e.seq", "ORDER BY e.recorded_at"),
    ],
)
async def test_a_feed_without_the_horizon_or_by_time_is_caught(
    database: str, store: PostgresStore, monkeypatch: pytest.MonkeyPatch, part: str, mistake: str
) -> None:
    assert part in feeding.READ
    monkeypatch.setattr(feeding, "READ", feeding.READ.replace(part, mistake))

    found, there = await told_across_two_writers(database, store)

    assert set(found) < there


async def test_a_long_transaction_that_only_reads_holds_nothing_up(
    database: str, store: PostgresStore, sql: asyncpg.Connection
) -> None:
    async with Feed(store, "one") as feed, sql.transaction(isolation="repeatable_read"):
        await sql.fetchval("SELECT count(*) FROM eventsaga.events")
        held = await start_saga(store)

        assert await some(feed) == [(held.saga_id, 1)]


async def test_many_writers_and_a_slow_reader(database: str, sql: asyncpg.Connection) -> None:
    saga = Saga("order", context=Order, steps=[Step("a", nothing), Step("b", nothing)])
    async with orchestrating(database, saga) as orchestrator:
        found: list[Place] = []
        async with orchestrator.feed("slow", limit=7) as feed:
            handles = await orchestrator.start_many("order", [Order()] * 60)
            waits = [asyncio.ensure_future(handle.result(timeout=30)) for handle in handles]
            while not all(wait.done() for wait in waits):
                batch = await feed.take()
                await batch.commit()
                found += [(event.saga_id, event.seq) for event in batch]
            found += await everything(orchestrator.store, feed)

    assert set(found) == await stored(sql)
    assert not out_of_order(found)


async def test_a_transactional_step_beside_another_step_is_told_in_order(
    database: str, sql: asyncpg.Connection
) -> None:
    """Its transaction is older than what its saga records while it is open."""
    await sql.execute("CREATE TABLE rows (note text)")
    has_written, is_recorded = asyncio.Event(), asyncio.Event()

    async def book(_order: Order, step: StepContext) -> None:
        await step.connection.execute(text("INSERT INTO rows VALUES ('mine')"))
        has_written.set()
        await is_recorded.wait()

    async def pay(_order: Order) -> None:
        await has_written.wait()

    branches = [Step("book", book, transactional=True), Step("pay", pay)]
    saga = Saga("both", context=Order, steps=[Parallel("group", branches)])
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("both", Order())
        paid = (
            "SELECT EXISTS (SELECT FROM eventsaga.events"
            " WHERE type = 'StepSucceeded' AND data->>'step' = 'pay')"
        )
        await until(sql, paid)
        is_recorded.set()
        await handle.result(timeout=30)
        async with orchestrator.feed("one", limit=1) as feed:
            found = await everything(orchestrator.store, feed)

    assert not out_of_order(found)
    assert len(found) == len(await stored(sql))


# -- who reads -----------------------------------------------------------------------------


async def test_what_was_not_committed_comes_again(store: PostgresStore) -> None:
    held = await start_saga(store)
    async with Feed(store, "one") as feed:
        first = await until_there(feed)
        again = await until_there(feed)
        await again.commit()
        await again.commit()  # as if the first answer had been lost

        assert [event.type for event in first] == [event.type for event in again]
        assert (await feed.take()).records == ()
    (event,) = list(again)
    assert (event.saga_id, event.seq, event.type) == (held.saga_id, 1, "SagaStarted")


async def until_there(feed: Feed) -> Batch:
    async with asyncio.timeout(30):
        while not (batch := await feed.take()):
            pass  # the query is the wait
    return batch


async def test_two_consumers_do_not_know_of_each_other(store: PostgresStore) -> None:
    held = await start_saga(store)
    async with Feed(store, "one") as one, Feed(store, "two") as two:
        assert await some(one) == await some(two) == [(held.saga_id, 1)]


async def test_one_process_at_a_time_reads_for_a_consumer(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    await start_saga(store)
    async with Feed(store, "one") as first, Feed(store, "one") as second:
        slow = await until_there(first)
        with pytest.raises(FeedTakenError, match="'one'"):
            await second.take()

        await sql.execute(LAPSE)
        taken_over = await until_there(second)
        with pytest.raises(FeedTakenError):
            await slow.commit()
        await taken_over.commit()

        with pytest.raises(FeedTakenError):
            await first.take()
    async with Feed(store, "one") as third:
        assert not await third.take(), "who leaves lets others in at once"


async def test_who_is_late_but_was_not_replaced_may_commit(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    await start_saga(store)
    async with Feed(store, "one") as feed:
        batch = await until_there(feed)
        await sql.execute(LAPSE)
        await batch.commit()

        assert batch.is_committed


async def test_in_the_callers_transaction_both_happen_or_neither(
    database: str, store: PostgresStore, sql: asyncpg.Connection
) -> None:
    await sql.execute("CREATE TABLE seen (saga_id uuid, seq int, PRIMARY KEY (saga_id, seq))")
    await start_sagas(store, None, 3)
    engine = create_async_engine(sqlalchemy_url(database))
    insert = text("INSERT INTO seen VALUES (:saga_id, :seq)")
    async with Feed(store, "one", limit=2) as feed:
        await until(sql, PASSED)
        for is_kept in (False, True, False, True):
            async with engine.connect() as connection:
                batch = await feed.take(connection)
                for event in batch:
                    await connection.execute(insert, {"saga_id": event.saga_id, "seq": event.seq})
                await batch.commit()
                with pytest.raises(FeedTakenError):
                    await Feed(store, "one").take(sql)
                await (connection.commit() if is_kept else connection.rollback())
        assert not await feed.take()
    await engine.dispose()

    rows = await sql.fetch("SELECT saga_id, seq FROM seen")
    assert {(row["saga_id"], row["seq"]) for row in rows} == await stored(sql)


async def test_a_callers_transaction_and_a_reader_do_not_both_take(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    await start_saga(store)
    async with Feed(store, "one") as reader, Feed(store, "one") as other:
        await until_there(reader)
        async with sql.transaction():
            with pytest.raises(FeedTakenError):
                await other.take(sql)
    async with Feed(store, "one") as feed, sql.transaction():
        await feed.take(sql)
        with pytest.raises(FeedTakenError):
            await feed.take()


async def test_an_iteration_waits_for_what_comes_and_for_its_turn(database: str) -> None:
    quick = Settings(poll=timedelta(seconds=0.02))
    async with PostgresStore(database, quick) as store:
        found: list[Place] = []

        async def read(feed: Feed) -> None:
            async for batch in feed:
                found.extend((event.saga_id, event.seq) for event in batch)
                await batch.commit()
                if len(found) == 2:
                    return

        async with Feed(store, "one") as feed:
            async with Feed(store, "one") as first:
                await first.take()
                reading = asyncio.ensure_future(read(feed))
                one = await start_saga(store)
                two = await start_saga(store)
            async with asyncio.timeout(30):
                await reading

    assert sorted(found) == sorted([(one.saga_id, 1), (two.saga_id, 1)])


@pytest.mark.parametrize("name", ["", "a b", "x" * 101, "-a", "ä", "a\n"])
async def test_a_name_that_is_none_is_refused(store: PostgresStore, name: str) -> None:
    with pytest.raises(ValueError, match="consumer's name"):
        Feed(store, name)


async def test_a_consumer_is_listed_until_it_is_forgotten(store: PostgresStore) -> None:
    await start_saga(store)
    async with Feed(store, "one"), Feed(store, "two") as two:
        await some(two)

        found = await feeding.standings(store)

        assert [(each.consumer, each.is_held, each.unread) for each in found] == [
            ("one", False, 1),
            ("two", True, 0),
        ]
        assert await feeding.forget(store, "one")
        assert not await feeding.forget(store, "one")
    assert [each.consumer for each in await feeding.standings(store)] == ["two"]


# -- another system --------------------------------------------------------------------------


async def restored(vandal: Vandal, change: str) -> None:
    """Make the database look as if it had been dumped elsewhere, where ids had come so far."""
    await vandal.edit(f"UPDATE eventsaga.events SET {change}")  # noqa: S608 - ours
    id_only = change.split(",", maxsplit=1)[0]
    await vandal.edit(f"UPDATE eventsaga.feeds SET {id_only} WHERE txid > '0'")  # noqa: S608
    await vandal.edit("UPDATE eventsaga.incarnations SET system_identifier = 42")


# Ids that are not reached here yet; or that were passed since, of events from long ago.
AHEAD = "txid = (txid::text::bigint + 1000000000)::text::xid8"
BEHIND = (
    "txid = (txid::text::bigint - 20)::text::xid8, recorded_at = recorded_at - interval '90 days'"
)


@pytest.mark.mighty
@pytest.mark.parametrize("change", [AHEAD, BEHIND])
async def test_after_a_restore_into_another_system_nothing_is_lost_and_little_comes_again(
    vandal: Vandal, store: PostgresStore, sql: asyncpg.Connection, change: str
) -> None:
    owner = await new_worker(store)
    await run_to_the_end(store, owner)
    async with (
        Feed(store, "none"),
        Feed(store, "half", limit=3) as half,
        Feed(store, "all") as all_,
    ):
        before = await some(half)
        await everything(store, all_)
    await run_to_the_end(store, owner)
    read_by_half = len(before)
    await restored(vandal, change)
    old = await run_to_the_end(store, owner)

    async with Feed(store, "half") as half:
        with pytest.raises(FeedNumberingError, match="recover --renumber"):
            await half.take()
    await feeding.renumber(store)
    assert await feeding.is_numbered(store)
    assert await feeding.renumber(store) == 0
    new = await run_to_the_end(store, owner)

    there = await stored(sql)
    found: dict[str, list[Place]] = {}
    for consumer in ("none", "half", "all"):
        async with Feed(store, consumer, limit=5) as feed:
            found[consumer] = await everything(store, feed)
    assert set(found["none"]) == there
    assert not out_of_order(found["none"])
    assert set(found["half"]) == there - set(before)
    assert len(found["half"]) == len(there) - read_by_half
    since = {place for place in there if place[0] in {old.saga_id, new.saga_id}}
    assert since <= set(found["all"])
    assert len(found["all"]) == len(there) - 8


async def test_numbers_are_changed_by_nobody_else(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    """The connection is the owner's: even that one cannot, while they are in order."""
    await start_saga(store)
    with pytest.raises(asyncpg.RestrictViolationError):
        await sql.execute("UPDATE eventsaga.events SET txid = '5'")

"""How many attempts may begin? As many as all workers together are allowed, by one clock."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from eventsaga.store.ports import Grant
from eventsaga.store.postgres.limits import conforming
from eventsaga.store.postgres.store import PostgresStore
from tests.store.barriers import transaction, until_blocked
from tests.store.builders import end_lease, new_worker

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)


async def ask(store: PostgresStore, worker: UUID, wanted: int = 1, **limit: Any) -> Grant:
    options: dict[str, Any] = {"concurrency": None, "interval": None, "burst": 1} | limit
    return await store.acquire(worker, "bank", wanted, **options)


async def held_by(sql: asyncpg.Connection, worker: UUID) -> int | None:
    held: int | None = await sql.fetchval(
        "SELECT held FROM eventsaga.permits WHERE worker_id = $1", worker
    )
    return held


# -- a rate -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free_in", "burst", "wanted", "granted", "next_in"),
    [
        (None, 1, 1, 1, 1),  # never used
        (-100, 1, 5, 1, 1),  # a pause saves up nothing beyond the burst
        (-100, 3, 5, 3, 3),
        (-100, 3, 2, 2, 2),
        (0, 1, 1, 1, 1),  # exactly on time
        (0.5, 1, 1, 0, 0.5),  # too early
        (0.5, 2, 5, 1, 1.5),  # early, within the burst
        (2, 3, 5, 1, 3),  # the last one of the burst
        (2.5, 3, 5, 0, 2.5),
    ],
)
def test_the_rate_is_kept_by_one_instant(
    free_in: float | None, burst: int, wanted: int, granted: int, next_in: float
) -> None:
    free_at = None if free_in is None else NOW + free_in * SECOND

    assert conforming(free_at, NOW, SECOND, burst, wanted) == (granted, NOW + next_in * SECOND)


def test_over_a_long_time_the_rate_is_what_was_promised() -> None:
    """Whoever asks all the time gets the burst, and then one an interval, never more."""
    free_at, granted = None, 0
    for tick in range(1001):
        permits, at = conforming(free_at, NOW + tick * SECOND / 10, SECOND, 5, 2)
        granted += permits
        free_at = at if permits else free_at
        assert granted <= 5 + tick // 10
    assert granted == 105


async def test_a_burst_may_begin_at_once_and_then_one_an_interval(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    """Over two workers, which share the limit."""
    one, two = await new_worker(store), await new_worker(store)
    limit = {"interval": HOUR, "burst": 3}

    assert await ask(store, one, 2, **limit) == Grant(permits=2)
    assert await ask(store, two, 2, **limit) == Grant(permits=1)
    refused = await ask(store, one, 2, **limit)

    now = await store.now()
    assert refused.permits == 0
    assert refused.retry_at is not None
    assert HOUR - 30 * SECOND < refused.retry_at - now <= HOUR
    assert await held_by(sql, one) is None

    # At the instant that was told one of them may begin, and no other.
    await sql.execute("UPDATE eventsaga.limits SET free_at = free_at - $1::interval", HOUR)
    assert (await ask(store, two, 2, **limit)).permits == 1
    assert (await ask(store, two, 2, **limit)).permits == 0


async def test_a_limit_that_was_made_faster_is_as_fast_as_it_says(store: PostgresStore) -> None:
    """Nor does a clock that was set back shut it for the time that it was set back by."""
    worker = await new_worker(store)
    assert (await ask(store, worker, interval=24 * HOUR)).permits == 1
    faster: dict[str, Any] = {"interval": SECOND / 100, "burst": 10}

    refused = await ask(store, worker, **faster)
    assert refused.retry_at is not None
    assert refused.retry_at - await store.now() <= SECOND / 100
    async with asyncio.timeout(5):
        while not (await ask(store, worker, **faster)).permits:
            pass


async def test_limits_of_other_names_do_not_count(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    worker = await new_worker(store)
    for key in ("a", "b"):
        grant = await store.acquire(worker, key, 1, concurrency=1, interval=HOUR, burst=1)
        assert grant.permits == 1


async def test_who_asks_at_once_waits_for_the_other_and_counts_what_it_was_granted(
    database: str, store: PostgresStore, sql: asyncpg.Connection
) -> None:
    one, two = await new_worker(store), await new_worker(store)
    assert (await ask(store, one, concurrency=2)).permits == 1
    async with transaction(database) as first:
        await first.execute("UPDATE eventsaga.limits SET free_at = free_at WHERE key = 'bank'")
        second = asyncio.create_task(ask(store, two, 5, concurrency=2, interval=HOUR, burst=9))
        await until_blocked(sql, "INSERT INTO eventsaga.limits")
        await first.execute("UPDATE eventsaga.permits SET held = held + 1")

    assert (await second).permits == 0
    assert (await ask(store, two, 9, interval=HOUR, burst=9)).permits == 9


async def test_many_that_ask_at_once_get_no_more_than_there_is(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    workers = [await new_worker(store) for _ in range(4)]

    grants = await asyncio.gather(
        *(ask(store, workers[n % 4], 2, concurrency=7, interval=HOUR, burst=5) for n in range(16))
    )

    assert sum(grant.permits for grant in grants) == 5
    assert await sql.fetchval("SELECT sum(held) FROM eventsaga.permits") == 5


# -- at the same time ---------------------------------------------------------------------


async def test_a_limit_at_the_same_time_counts_over_all_workers(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    one, two = await new_worker(store), await new_worker(store)

    granted = [
        (await ask(store, worker, 2, concurrency=3)).permits for worker in (one, two, one, two)
    ]
    assert granted == [2, 1, 0, 0]

    await store.release_permits(one, "bank", 1)
    assert [(await ask(store, w, 2, concurrency=3)).permits for w in (two, one)] == [1, 0]
    assert (await held_by(sql, one), await held_by(sql, two)) == (1, 2)


async def test_a_limit_that_was_lowered_grants_nothing_until_enough_is_given_back(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    worker = await new_worker(store)
    assert (await ask(store, worker, 5, concurrency=5)).permits == 5
    assert (await ask(store, worker, 1, concurrency=2)).permits == 0
    await store.release_permits(worker, "bank", 4)
    assert (await ask(store, worker, 5, concurrency=2)).permits == 1


async def test_permits_of_a_dead_worker_do_not_count(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    dead, alive = await new_worker(store), await new_worker(store)
    assert (await ask(store, dead, 3, concurrency=3)).permits == 3
    assert (await ask(store, alive, 3, concurrency=3)).permits == 0

    await end_lease(sql, dead)

    assert (await ask(store, alive, 5, concurrency=3)).permits == 3


async def test_a_worker_that_leaves_gives_its_permits_back(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    leaving, staying = await new_worker(store), await new_worker(store)
    for worker in (leaving, staying):
        await ask(store, worker, 1, concurrency=2)

    await store.release(leaving)

    assert (await held_by(sql, leaving), await held_by(sql, staying)) == (None, 1)


async def test_more_than_is_held_cannot_be_given_back(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    one, two = await new_worker(store), await new_worker(store)
    for worker in (one, two):
        await ask(store, worker, 2, concurrency=4)

    await store.release_permits(one, "bank", 5)
    await store.release_permits(one, "another", 5)

    assert (await held_by(sql, one), await held_by(sql, two)) == (0, 2)
    assert (await ask(store, one, 9, concurrency=4)).permits == 2


async def test_what_the_rate_refuses_is_not_held(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    worker = await new_worker(store)
    limit = {"concurrency": 9, "interval": HOUR, "burst": 1}
    assert (await ask(store, worker, 3, **limit)).permits == 1
    assert (await ask(store, worker, 3, **limit)).permits == 0
    assert await held_by(sql, worker) == 1


async def test_what_the_number_refuses_does_not_use_up_the_rate(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    worker = await new_worker(store)
    limit = {"concurrency": 1, "interval": HOUR, "burst": 2}
    assert [(await ask(store, worker, 1, **limit)).permits for _ in range(3)] == [1, 0, 0]
    await store.release_permits(worker, "bank", 1)
    assert (await ask(store, worker, 1, **limit)).permits == 1

"""Who is alive? Whoever renewed in time by the database's clock; nobody else is robbed."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventsaga.store.ports import Claimed
from eventsaga.store.postgres.claim import CLAIM, LOCK_NAMES, claim
from eventsaga.store.postgres.lease import RENEW, renew
from eventsaga.store.postgres.store import PostgresStore
from tests.store.barriers import locked, transaction, until, until_blocked
from tests.store.builders import (
    LEASE,
    ORDERS,
    definition_of,
    end_lease,
    key_of,
    new_worker,
    start_saga,
    start_sagas,
)
from tests.store.checker import saga_row

SECOND = timedelta(seconds=1)


def ids(claimed: Sequence[Claimed]) -> set[UUID]:
    return {saga.saga_id for saga in claimed}


async def lease_left(sql: asyncpg.Connection, worker_id: UUID) -> timedelta:
    left: timedelta = await sql.fetchval(
        "SELECT lease_until - clock_timestamp() FROM eventsaga.workers WHERE worker_id = $1",
        worker_id,
    )
    return left


async def test_a_lease_is_granted_and_renewed_by_the_clock_of_the_database(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    worker = uuid4()
    before = await sql.fetchval("SELECT clock_timestamp()")

    now = await store.register_worker(worker, LEASE, ORDERS)
    assert before <= now <= await sql.fetchval("SELECT clock_timestamp()")
    assert LEASE - 5 * SECOND < await lease_left(sql, worker) <= LEASE

    renewal = await store.renew(worker, 2 * LEASE)
    assert renewal.granted
    assert now <= renewal.now <= await sql.fetchval("SELECT clock_timestamp()")
    assert 2 * LEASE - 5 * SECOND < await lease_left(sql, worker) <= 2 * LEASE


async def test_a_worker_shows_what_it_can_run(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    await new_worker(store, (("order", 3, "abc"),))

    row = await sql.fetchrow("SELECT definitions, pid FROM eventsaga.workers")
    assert row is not None
    assert row["definitions"] == ["order:3:abc"]
    assert row["pid"] > 0


async def test_a_lease_that_has_ended_is_not_renewed_even_if_nobody_noticed(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    """Somebody may be acting on its end at this moment."""
    worker = await new_worker(store)
    await start_saga(store, worker)
    await end_lease(sql, worker)

    renewal = await store.renew(worker, LEASE)

    assert not renewal.granted
    assert await lease_left(sql, worker) <= timedelta(0)


async def test_a_worker_that_was_never_registered_renews_nothing(store: PostgresStore) -> None:
    renewal = await store.renew(uuid4(), LEASE)

    assert not renewal.granted


# -- orphans --------------------------------------------------------------------------------


async def test_sagas_are_taken_from_a_worker_whose_lease_has_ended_and_from_no_other(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    dead, alive = await new_worker(store), await new_worker(store)
    orphans, theirs = await start_sagas(store, dead, 3), await start_sagas(store, alive, 3)
    worker = await new_worker(store)
    assert await store.claim(worker, ORDERS, 10) == []

    await end_lease(sql, dead)
    claimed = await store.claim(worker, ORDERS, 10)

    assert ids(claimed) == {held.saga_id for held in orphans}
    assert {saga.previous_owner for saga in claimed} == {dead}
    assert (await saga_row(sql, theirs[0].saga_id))["owner"] == alive


async def test_a_renewal_that_is_under_way_keeps_the_sagas(
    database: str, store: PostgresStore, sql: asyncpg.Connection
) -> None:
    """It has extended the lease but not committed yet when somebody looks for orphans."""
    busy = await new_worker(store)
    held = await start_saga(store, busy)
    worker = await new_worker(store)
    async with transaction(database) as heart:
        assert (await renew(heart, RENEW, busy, LEASE)).granted
        # The others still see the old lease, and it ends now.
        await heart.execute("UPDATE eventsaga.workers SET lease_until = lease_until")
        assert await store.claim(worker, ORDERS, 10) == []

    assert (await saga_row(sql, held.saga_id))["owner"] == busy


async def test_an_old_lease_is_not_judged_while_its_renewal_holds_the_row(
    database: str, store: PostgresStore, sql: asyncpg.Connection
) -> None:
    """What the claim sees has ended, but who holds the row may just be extending it."""
    busy = await new_worker(store)
    held = await start_saga(store, busy)
    worker = await new_worker(store)
    await end_lease(sql, busy)
    async with transaction(database) as heart:
        await heart.execute(
            "UPDATE eventsaga.workers SET lease_until = clock_timestamp() + interval '1 h'"
            " WHERE worker_id = $1",
            busy,
        )
        assert await store.claim(worker, ORDERS, 10) == []

    assert await store.claim(worker, ORDERS, 10) == []
    assert (await saga_row(sql, held.saga_id))["owner"] == busy


async def test_a_renewal_that_arrives_during_a_takeover_is_refused_at_once(
    database: str, store: PostgresStore, sql: asyncpg.Connection
) -> None:
    """The other order: the claim has judged the lease and holds its row."""
    busy = await new_worker(store)
    await start_saga(store, busy)
    await end_lease(sql, busy)
    async with transaction(database) as thief:
        (row,) = await claim(thief, CLAIM, LOCK_NAMES, await new_worker(store), ORDERS, 10, {}, {})
        assert row["previous_owner"] == busy
        renewal = asyncio.create_task(store.renew(busy, LEASE))
    assert not (await renewal).granted


async def test_a_lease_that_ends_while_its_renewal_waits_is_not_renewed(
    database: str, store: PostgresStore, sql: asyncpg.Connection
) -> None:
    """The renewal came in time, but has to wait for a row that a claim may hold by then."""
    worker = await new_worker(store, lease=timedelta(seconds=0.3))
    async with transaction(database) as stranger:
        await stranger.execute(
            "SELECT FROM eventsaga.workers WHERE worker_id = $1 FOR SHARE", worker
        )
        renewal = asyncio.create_task(store.renew(worker, LEASE))
        await until_blocked(sql, "renewed AS")
        ended = "SELECT lease_until < clock_timestamp() FROM eventsaga.workers"
        await until(sql, ended)

    assert not (await renewal).granted


async def test_two_workers_share_the_orphans_of_a_third(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    dead = await new_worker(store)
    orphans = await start_sagas(store, dead, 10)
    await end_lease(sql, dead)
    one, two = await new_worker(store), await new_worker(store)

    shares = await asyncio.gather(store.claim(one, ORDERS, 6), store.claim(two, ORDERS, 6))
    rest = await store.claim(one, ORDERS, 6)

    taken = [*shares[0], *shares[1], *rest]
    assert len(taken) == len(ids(taken)) == len(orphans)


async def test_an_orphan_whose_row_is_locked_waits_for_the_next_look(
    database: str, store: PostgresStore, sql: asyncpg.Connection
) -> None:
    dead = await new_worker(store)
    held, other = await start_sagas(store, dead, 2)
    await end_lease(sql, dead)
    worker = await new_worker(store)

    async with locked(database, held.saga_id):
        assert ids(await store.claim(worker, ORDERS, 10)) == {other.saga_id}

    assert ids(await store.claim(worker, ORDERS, 10)) == {held.saga_id}


# -- leaving --------------------------------------------------------------------------------


async def test_a_worker_that_leaves_frees_its_sagas_and_ends_its_lease(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    leaving, staying = await new_worker(store), await new_worker(store)
    mine = await start_sagas(store, leaving, 3)
    await start_sagas(store, staying, 2)

    assert await store.release(leaving) == 3

    assert await lease_left(sql, leaving) <= timedelta(0)
    claimed = await store.claim(staying, ORDERS, 10)
    assert ids(claimed) == {held.saga_id for held in mine}
    # Nobody lost them: there is nothing to recover from.
    assert {saga.previous_owner for saga in claimed} == {None}


async def test_leaving_twice_does_no_harm(store: PostgresStore, sql: asyncpg.Connection) -> None:
    worker = await new_worker(store)
    await start_saga(store, worker)

    assert [await store.release(worker), await store.release(worker)] == [1, 0]


# -- stranded sagas -------------------------------------------------------------------------


@pytest.mark.parametrize("orphaned", [False, True], ids=["due", "orphaned"])
async def test_sagas_without_a_living_worker_for_their_definition_are_reported(
    store: PostgresStore, sql: asyncpg.Connection, *, orphaned: bool
) -> None:
    old = definition_of("reserve", version=7)
    dead = await new_worker(store, (key_of(old),)) if orphaned else None
    for _ in range(2):
        await start_saga(store, dead, definition=old)
    await start_saga(store, await new_worker(store))
    await sql.execute("UPDATE eventsaga.sagas SET wake_at = wake_at - interval '1 minute'")
    await sql.execute(
        "UPDATE eventsaga.workers SET lease_until = lease_until - interval '11 minutes'"
        " WHERE worker_id = $1",
        dead,
    )

    (stranded,) = await store.stranded()

    assert (stranded.name, stranded.version, stranded.sagas) == ("order", 7, 2)
    assert stranded.fingerprint == old.fingerprint
    assert stranded.since < await store.now()

    await new_worker(store, (key_of(old),))
    assert await store.stranded() == []

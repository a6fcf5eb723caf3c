"""What if the answer to a query, a claim or a heartbeat is lost? Nothing happens twice."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Final

import asyncpg
import pytest

from eventsaga.errors import DatabaseUnavailableError
from eventsaga.settings import Settings
from eventsaga.store.postgres.store import PostgresStore
from tests.proxy import Loss, Proxy
from tests.store.barriers import transaction, until_blocked
from tests.store.builders import ORDERS, new_worker, start_sagas
from tests.store.postgres.verbs import HURRY, VERBS, Verb, new_world

CLAIM: Final = "written_to AS"
each_verb = pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
each_loss = pytest.mark.parametrize("loss", Loss, ids=lambda loss: loss.name.lower())


@pytest.fixture
async def proxy(database: str) -> AsyncIterator[Proxy]:
    async with Proxy(database) as opened:
        yield opened


@pytest.fixture
async def far(proxy: Proxy) -> AsyncIterator[PostgresStore]:
    """A store behind the proxy."""
    async with PostgresStore(proxy.url, Settings()) as opened:
        yield opened


@pytest.fixture
async def hurried(proxy: Proxy) -> AsyncIterator[PostgresStore]:
    """A store behind the proxy, with little patience."""
    async with PostgresStore(proxy.url, Settings(statement_timeout=HURRY)) as opened:
        yield opened


@each_verb
async def test_a_broken_connection_is_not_the_caller_s_concern(
    proxy: Proxy, far: PostgresStore, sql: asyncpg.Connection, verb: Verb
) -> None:
    """Whether the statement was lost, or the answer to it."""
    world = await new_world(far)
    for loss in (Loss.REQUEST, Loss.ANSWER):
        fault = proxy.arm(loss, verb.text)

        answer = await verb.call(far, world)

        assert fault.struck.is_set()
        assert verb.answers(answer)
        assert await sql.fetchval(verb.after)


@pytest.mark.parametrize(
    "verb",
    [verb for verb in VERBS if verb.name in ("renew", "release", "post")],
    ids=lambda verb: verb.name,
)
@pytest.mark.parametrize("loss", [Loss.SILENCE, Loss.DELAY], ids=["silence", "delay"])
async def test_a_silent_connection_is_given_up(
    proxy: Proxy, hurried: PostgresStore, sql: asyncpg.Connection, verb: Verb, loss: Loss
) -> None:
    """And what was sent over it may still arrive, after it was sent again."""
    world = await new_world(hurried)
    fault = proxy.arm(loss, verb.text, held=True)

    answer = await verb.call(hurried, world)

    fault.go_on.set()
    await fault.done.wait()
    assert verb.answers(answer)
    assert await sql.fetchval(verb.after)


async def test_a_database_that_stays_away_is_reported(proxy: Proxy, far: PostgresStore) -> None:
    world = await new_world(far)
    await proxy.cut()

    for verb in VERBS:
        with pytest.raises(DatabaseUnavailableError):
            await verb.call(far, world)

    await proxy.mend()
    assert VERBS[1].answers(await VERBS[1].call(far, world))


async def test_after_a_restart_every_pooled_connection_is_replaced(
    proxy: Proxy, far: PostgresStore, sql: asyncpg.Connection
) -> None:
    world = await new_world(far)
    for _ in range(3):
        await proxy.cut()
        await proxy.mend()
        for verb in VERBS:
            if verb.name in ("renew", "get", "read_mail"):
                assert verb.answers(await verb.call(far, world))


# -- claims -------------------------------------------------------------------------------


@each_loss
async def test_sagas_of_a_lost_claim_are_found_by_their_owner(
    proxy: Proxy, hurried: PostgresStore, sql: asyncpg.Connection, loss: Loss
) -> None:
    """A claim is not repeated blindly: its caller asks what it owns, then claims again."""
    worker = await new_worker(hurried)
    sagas = {held.saga_id for held in await start_sagas(hurried, None, 3)}
    fault = proxy.arm(loss, CLAIM, held=loss is Loss.DELAY)

    with pytest.raises(DatabaseUnavailableError):
        await hurried.claim(worker, ORDERS, 10)
    assert fault.struck.is_set()
    fault.go_on.set()
    if loss is not Loss.REQUEST:
        await fault.done.wait()

    owned = await hurried.load_owned(worker, [])
    claimed = await hurried.claim(worker, ORDERS, 10)

    expected = (set[object](), sagas) if loss is Loss.REQUEST else (sagas, set[object]())
    assert ({saga.saga_id for saga in owned}, {saga.saga_id for saga in claimed}) == expected


async def test_sagas_whose_histories_got_lost_are_found_by_their_owner(
    proxy: Proxy, far: PostgresStore, sql: asyncpg.Connection
) -> None:
    worker = await new_worker(far)
    await start_sagas(far, None, 3)
    proxy.arm(Loss.ANSWER, "ORDER BY saga_id, seq")

    with pytest.raises(DatabaseUnavailableError):
        await far.claim(worker, ORDERS, 10)

    owned = await far.load_owned(worker, [])
    assert [len(saga.history) for saga in owned] == [1, 1, 1]


async def test_a_heartbeat_does_not_queue_behind_slow_queries(
    database: str, sql: asyncpg.Connection
) -> None:
    """All connections of the pool are busy, and the lease is renewed all the same."""
    settings = Settings(pool_size=1, statement_timeout=timedelta(seconds=5))
    async with PostgresStore(database, settings) as store:
        world = await new_world(store)
        async with transaction(database) as stranger:
            await stranger.execute("LOCK TABLE eventsaga.inbox IN ACCESS EXCLUSIVE MODE")
            slow = [store.read_mail(world.worker, 1), store.read_mail(world.worker, 1)]
            reading = asyncio.gather(*slow)
            await until_blocked(sql, "FROM eventsaga.inbox")
            assert (await store.renew(world.worker, timedelta(minutes=1))).granted
            assert not reading.done()
        await reading

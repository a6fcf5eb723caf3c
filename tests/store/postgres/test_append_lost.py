"""What if nobody knows whether an append was committed? It is looked up, never guessed at.

Every message around an append is lost in turn. In the end it was taken exactly once, or, if
another worker took the saga meanwhile, not at all.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import asyncpg
import pytest

from eventsaga.store.ports import Committed, Fenced
from eventsaga.store.postgres.store import PostgresStore
from tests.proxy import Loss, Proxy
from tests.store.barriers import locked, until_blocked
from tests.store.builders import (
    advance,
    impatient_store,
    new_append,
    new_worker,
    queue_append,
    start_saga,
    start_sagas,
    take_over,
)
from tests.store.checker import event_types, saga_row

APPEND: Final = "SET last_seq"
READ_BACK: Final = "AS is_open"
AFTER_ONE: Final = ["SagaStarted", "StepStarted", "StepSucceeded", "StepStarted"]

each_loss = pytest.mark.parametrize("loss", Loss, ids=lambda loss: loss.name.lower())


@pytest.fixture
async def proxy(database: str) -> AsyncIterator[Proxy]:
    async with Proxy(database) as opened:
        yield opened


@pytest.fixture
async def far(proxy: Proxy) -> AsyncIterator[PostgresStore]:
    """A store behind the proxy, with one writer and little patience."""
    async with impatient_store(proxy.url) as opened:
        yield opened


@each_loss
async def test_an_append_is_taken_once_whatever_gets_lost(
    proxy: Proxy, far: PostgresStore, sql: asyncpg.Connection, loss: Loss
) -> None:
    owner = await new_worker(far)
    held = await start_saga(far, owner)
    fault = proxy.arm(loss, APPEND, held=loss is Loss.DELAY)

    result = await advance(far, held, owner)

    assert fault.struck.is_set()
    assert isinstance(result, Committed)
    assert await event_types(sql, held.saga_id) == AFTER_ONE
    assert (await saga_row(sql, held.saga_id))["last_hash"] == result.last_hash
    if loss is Loss.DELAY:
        # Only now the first statement arrives: the saga has moved on, so it does nothing.
        fault.go_on.set()
        await fault.done.wait()
        assert await event_types(sql, held.saga_id) == AFTER_ONE
    assert isinstance(await advance(far, held, owner), Committed)


@each_loss
async def test_a_batch_is_taken_once_whatever_gets_lost(
    proxy: Proxy, far: PostgresStore, sql: asyncpg.Connection, loss: Loss
) -> None:
    owner = await new_worker(far)
    sagas = await start_sagas(far, owner, 20)
    fault = proxy.arm(loss, APPEND, held=loss is Loss.DELAY)

    results = await asyncio.gather(*(advance(far, held, owner) for held in sagas))

    fault.go_on.set()
    assert [type(result) for result in results] == [Committed] * 20
    assert [await event_types(sql, held.saga_id) for held in sagas] == [AFTER_ONE] * 20


@pytest.mark.parametrize("loss", [Loss.REQUEST, Loss.ANSWER], ids=["request", "answer"])
@pytest.mark.parametrize("later", Loss, ids=lambda loss: f"then_{loss.name.lower()}")
async def test_looking_it_up_may_fail_as_well(
    proxy: Proxy, far: PostgresStore, sql: asyncpg.Connection, loss: Loss, later: Loss
) -> None:
    owner = await new_worker(far)
    held = await start_saga(far, owner)
    proxy.arm(loss, APPEND)
    second = proxy.arm(later, READ_BACK, held=later is Loss.DELAY)

    result = await advance(far, held, owner)

    assert second.struck.is_set()
    second.go_on.set()
    assert isinstance(result, Committed)
    assert await event_types(sql, held.saga_id) == AFTER_ONE


async def test_a_statement_that_outlives_its_client_counts(
    database: str, proxy: Proxy, far: PostgresStore, sql: asyncpg.Connection
) -> None:
    """The first statement waits for a lock when its client gives it up and sends it again.

    Both wait, the first one commits, and the second finds the saga moved: by itself.
    Reporting that as a lost saga would leave it with an owner that has forgotten it.
    """
    proxy.loses_cancels = True
    owner = await new_worker(far)
    held = await start_saga(far, owner)
    async with locked(database, held.saga_id):
        outcome = queue_append(far, new_append(held), owner)
        await until_blocked(sql, APPEND, 2)

    assert isinstance(await outcome, Committed)
    assert await event_types(sql, held.saga_id) == AFTER_ONE


# -- and meanwhile another worker takes the saga ------------------------------------------


@pytest.mark.parametrize("recovered", [False, True], ids=["claimed", "recovered"])
@pytest.mark.parametrize("loss", [Loss.REQUEST, Loss.DELAY], ids=["request", "delay"])
async def test_an_append_that_did_not_arrive_before_a_takeover_never_does(
    proxy: Proxy,
    far: PostgresStore,
    store: PostgresStore,
    sql: asyncpg.Connection,
    loss: Loss,
    *,
    recovered: bool,
) -> None:
    owner = await new_worker(far)
    held = await start_saga(far, owner)
    fault = proxy.arm(loss, APPEND, held=True)
    outcome = queue_append(far, new_append(held), owner)
    await fault.struck.wait()

    await take_over(store, sql, owner, recovered=recovered)
    before = await event_types(sql, held.saga_id)
    fault.go_on.set()

    assert isinstance(await outcome, Fenced)
    if loss is Loss.DELAY:
        await fault.done.wait()
    assert await event_types(sql, held.saga_id) == before


@pytest.mark.parametrize("loss", [Loss.ANSWER, Loss.SILENCE], ids=["answer", "silence"])
async def test_an_append_that_was_committed_before_a_takeover_is_not_denied(
    proxy: Proxy,
    far: PostgresStore,
    store: PostgresStore,
    sql: asyncpg.Connection,
    loss: Loss,
) -> None:
    """It happened, and the successor goes on from there; only the next append is fenced."""
    owner = await new_worker(far)
    held = await start_saga(far, owner)
    fault = proxy.arm(loss, APPEND, held=True)
    outcome = asyncio.create_task(advance(far, held, owner))
    await fault.done.wait()

    _, (taken,) = await take_over(store, sql, owner)
    fault.go_on.set()

    assert isinstance(await outcome, Committed)
    assert (await event_types(sql, held.saga_id))[:5] == [*AFTER_ONE, "SagaRecovered"]
    assert taken.state.seq > held.state.seq
    assert isinstance(await advance(far, held, owner), Fenced)


# -- no database at all -------------------------------------------------------------------


async def test_appends_and_starts_wait_for_a_database_that_is_gone(
    proxy: Proxy, far: PostgresStore, sql: asyncpg.Connection
) -> None:
    owner = await new_worker(far)
    sagas = await start_sagas(far, owner, 5)
    await proxy.cut()

    appends = [queue_append(far, new_append(held), owner) for held in sagas]
    starts = [asyncio.create_task(start_saga(far, owner)) for _ in range(5)]
    await proxy.mend()

    assert [type(result) for result in await asyncio.gather(*appends)] == [Committed] * 5
    for held in await asyncio.gather(*starts):
        assert await event_types(sql, held.saga_id) == ["SagaStarted", "StepStarted"]


async def test_a_database_that_goes_away_again_and_again_gets_all_in_the_end(
    proxy: Proxy, far: PostgresStore, sql: asyncpg.Connection
) -> None:
    owner = await new_worker(far)
    sagas = await start_sagas(far, owner, 3)

    async def to_the_end(number: int) -> None:
        held = sagas[number]
        while not held.state.status.is_settled:
            assert isinstance(await advance(far, held, owner), Committed)

    drivers = [asyncio.create_task(to_the_end(number)) for number in range(3)]
    for _ in range(3):
        fault = proxy.arm(Loss.ANSWER, APPEND, held=True)
        await fault.done.wait()
        await proxy.cut()
        await proxy.mend()
    await asyncio.gather(*drivers)

    for held in sagas:
        assert (await event_types(sql, held.saga_id))[-1] == "SagaCompleted"

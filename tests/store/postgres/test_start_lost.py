"""What if nobody knows whether a saga was started? Its key, or its own id, tells."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import asyncpg
import pytest

from eventsaga.errors import KeyConflictError
from eventsaga.store.ports import Committed, Refused, Started
from eventsaga.store.postgres.store import PostgresStore
from tests.proxy import Loss, Proxy
from tests.store.builders import (
    ORDER,
    Held,
    advance,
    impatient_store,
    new_start,
    new_worker,
    queue_start,
)
from tests.store.checker import event_types

START: Final = "keyed AS"
READ_BACK: Final = "AS key_saga_id"

each_loss = pytest.mark.parametrize("loss", Loss, ids=lambda loss: loss.name.lower())
each_key = pytest.mark.parametrize("key", ["k", None], ids=["keyed", "unkeyed"])


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
@each_key
async def test_a_saga_is_started_once_whatever_gets_lost(
    proxy: Proxy, far: PostgresStore, sql: asyncpg.Connection, loss: Loss, key: str | None
) -> None:
    """And the one who started it is told so: it is to run the saga."""
    owner = await new_worker(far)
    fault = proxy.arm(loss, START, held=loss is Loss.DELAY)
    start = new_start(key=key, owned=True)

    result = await queue_start(far, start, owner)

    assert fault.struck.is_set()
    fault.go_on.set()
    if loss is Loss.DELAY:
        await fault.done.wait()
    assert isinstance(result, Started)
    assert (result.saga_id, result.created) == (start.state.saga_id, True)
    assert await event_types(sql, result.saga_id) == ["SagaStarted", "StepStarted"]
    assert await sql.fetchval("SELECT count(*) FROM eventsaga.sagas") == 1
    held = Held(definition=ORDER, state=start.state, last_hash=result.last_hash)
    assert isinstance(await advance(far, held, owner), Committed)


@each_loss
async def test_looking_it_up_may_fail_as_well(
    proxy: Proxy, far: PostgresStore, sql: asyncpg.Connection, loss: Loss
) -> None:
    proxy.arm(Loss.ANSWER, START)
    fault = proxy.arm(loss, READ_BACK, held=loss is Loss.DELAY)

    result = await queue_start(far, new_start(key="k"))

    assert fault.struck.is_set()
    fault.go_on.set()
    assert isinstance(result, Started)
    assert result.created
    assert await sql.fetchval("SELECT count(*) FROM eventsaga.sagas") == 1


@pytest.mark.parametrize("loss", [Loss.REQUEST, Loss.DELAY], ids=["request", "delay"])
async def test_a_key_that_another_takes_meanwhile_is_the_other_s(
    proxy: Proxy, far: PostgresStore, store: PostgresStore, sql: asyncpg.Connection, loss: Loss
) -> None:
    fault = proxy.arm(loss, START, held=True)
    outcome = queue_start(far, new_start(key="k"))
    await fault.struck.wait()

    other = await queue_start(store, new_start(key="k"))
    fault.go_on.set()

    assert isinstance(other, Started)
    assert await outcome == Started(other.saga_id, created=False)
    assert await sql.fetchval("SELECT count(*) FROM eventsaga.sagas") == 1


async def test_a_key_that_another_takes_for_another_input_is_a_conflict(
    proxy: Proxy, far: PostgresStore, store: PostgresStore, sql: asyncpg.Connection
) -> None:
    fault = proxy.arm(Loss.REQUEST, START, held=True)
    outcome = queue_start(far, new_start(key="k", context={"a": 1}))
    await fault.struck.wait()

    await queue_start(store, new_start(key="k", context={"a": 2}))
    fault.go_on.set()

    result = await outcome
    assert isinstance(result, Refused)
    assert isinstance(result.error, KeyConflictError)


async def test_a_batch_of_starts_is_sorted_out_saga_by_saga(
    proxy: Proxy, far: PostgresStore, store: PostgresStore, sql: asyncpg.Connection
) -> None:
    """The answer to all is lost; some keys had been taken before, some starts have none."""
    await queue_start(store, new_start(key="k1"))
    await queue_start(store, new_start(key="k2", context={"other": "input"}))
    proxy.arm(Loss.ANSWER, START)

    results = await asyncio.gather(
        *(queue_start(far, new_start(key=key)) for key in ("k0", "k1", None, "k2", "k0", None))
    )

    told = [result.created if isinstance(result, Started) else "refused" for result in results]
    assert sorted(told[0:1] + told[4:5]) == [False, True]
    assert told[1:4] == [False, True, "refused"]
    assert told[5] is True
    assert await sql.fetchval("SELECT count(*) FROM eventsaga.sagas") == 5

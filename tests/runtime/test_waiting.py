import asyncio

import pytest

from eventsaga import SagaNotFoundError, Status
from eventsaga.identity import new_id
from tests.runtime.sagas import Order, nothing, one_step, orchestrating


async def test_a_saga_is_waited_for_here_and_elsewhere_by_many(database: str) -> None:
    let_go = asyncio.Event()

    async def execute(_order: Order) -> None:
        await let_go.wait()

    saga = one_step(execute)
    async with (
        orchestrating(database, saga) as here,
        orchestrating(database, saga, worker=False) as elsewhere,
    ):
        handle = await here.start("one", Order())
        waits = [here.wait(handle.id), here.wait(handle.id), elsewhere.wait(handle.id, timeout=10)]
        waiting = asyncio.gather(*waits)
        let_go.set()
        states = await waiting

    assert {state.status for state in states} == {Status.COMPLETED}


async def test_waiting_can_end_before_the_saga_does(database: str) -> None:
    let_go = asyncio.Event()

    async def execute(_order: Order) -> None:
        await let_go.wait()

    async with orchestrating(database, one_step(execute)) as orchestrator:
        handle = await orchestrator.start("one", Order())
        with pytest.raises(TimeoutError, match=r"not finished after 0\.05 s"):
            await handle.result(timeout=0.05)
        impatient = asyncio.create_task(handle.result())
        await asyncio.wait([impatient], timeout=0.01)
        impatient.cancel()
        await asyncio.gather(impatient, return_exceptions=True)
        let_go.set()

        assert (await handle.result(timeout=10)).status is Status.COMPLETED
        assert not orchestrator._waiting._waiters


async def test_what_does_not_exist_is_not_waited_for(database: str) -> None:
    async with orchestrating(database, one_step(nothing)) as orchestrator:
        with pytest.raises(SagaNotFoundError):
            await orchestrator.wait(new_id())


async def test_ids_grow_with_time() -> None:
    ids = [new_id() for _ in range(1000)]

    assert len(set(ids)) == 1000
    assert {(made.version, made.variant) for made in ids} == {(7, "specified in RFC 4122")}
    assert [made.int >> 80 for made in ids] == sorted(made.int >> 80 for made in ids)

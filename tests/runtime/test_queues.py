"""What of an attempt that stands in a queue? Nothing of it happened, and nobody doubts that.

It waits for a limit, or for a thread. Its saga may be turned back meanwhile, its worker may
stop or lose its lease: then it never begins.
"""

import asyncio
import threading
from collections.abc import Callable, Generator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from typing import Any

import pytest

from eventsaga import Parallel, PermanentError, Rate, Saga, SagaHandle, Status, Step
from tests.runtime.sagas import (
    ONCE,
    QUICK,
    Order,
    events_of,
    nothing,
    orchestrating,
    run_sql,
    types,
    until,
)

pytestmark = pytest.mark.usefixtures("sound")

EXPIRE = "UPDATE eventsaga.workers SET lease_until = now() - interval '1 s'"
ONE_THREAD = replace(QUICK, thread_pool=1)
NEVER = Rate(1, per=3600)


class _Gate:
    """A plain function that holds its thread until it is told to go on."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.entered = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._open = threading.Event()

    def step(self, order: Order) -> None:
        self.begun.append(order.order_id)
        self._loop.call_soon_threadsafe(self.entered.set)
        assert self._open.wait(20)

    def open(self) -> None:
        self._open.set()


@contextmanager
def _gate() -> Generator[_Gate]:
    gate = _Gate()
    try:
        yield gate
    finally:
        gate.open()  # a thread that is held would hold up the process


def _spent(ran: list[str]) -> Callable[[Order], Any]:
    async def charge(order: Order) -> None:
        ran.append(order.order_id)

    return charge


async def _withdrawn(handle: SagaHandle, reason: str) -> None:
    """The attempt failed definitely, spent nothing, and says why."""
    (failed,) = events_of(await handle.history(), "StepFailed")
    assert (failed.interrupted, failed.effect_happened) == (True, None)
    assert reason in failed.message
    assert events_of(await handle.history(), "StepInDoubt") == []


# -- the queue of a limit ---------------------------------------------------------------------


@pytest.mark.parametrize("by", ["cancel", "deadline"])
async def test_a_saga_that_is_turned_back_does_not_wait_for_a_limit(database: str, by: str) -> None:
    ran: list[str] = []
    undone: list[str] = []
    steps = [
        Step("a", nothing, compensate=_spent(undone)),
        Step("charge", _spent(ran), compensate=_spent(undone), rate=NEVER),
    ]
    deadline = 0.5 if by == "deadline" else None
    saga = Saga("limited", context=Order, steps=steps, deadline=deadline)
    async with orchestrating(database, saga) as orchestrator:
        first = await orchestrator.start(saga, Order(order_id="first"))
        await first.result(timeout=10)
        handle = await orchestrator.start(saga, Order(order_id="second"))
        if by == "cancel":
            await until(
                database,
                "SELECT count(*) = 2 FROM eventsaga.events WHERE type = 'StepStarted'"
                " AND saga_id = $1",
                handle.id,
            )
            await handle.cancel("too late")
        state = await handle.result(timeout=10)

        assert state.status is Status.COMPENSATED
        await _withdrawn(handle, "turned back")
    assert (ran, undone) == (["first"], ["second"])


async def test_a_failed_sibling_does_not_wait_for_a_limit(database: str) -> None:
    async def decline(_order: Order) -> None:
        raise PermanentError("declined")

    ran: list[str] = []
    both = Parallel("both", [Step("charge", _spent(ran), rate=NEVER), Step("bad", decline)])
    saga = Saga("siblings", context=Order, steps=[both])
    async with orchestrating(database, saga) as orchestrator:
        await (await orchestrator.start(saga, Order(order_id="first"))).result(timeout=10)
        handle = await orchestrator.start(saga, Order(order_id="second"))
        state = await handle.result(timeout=10)

    assert state.status is Status.COMPENSATED
    assert ran in ([], ["first"])  # whichever of the first one's siblings was faster


@pytest.mark.parametrize("on_doubt", ["park", "compensate", "retry"])
async def test_a_worker_that_stops_leaves_nobody_in_doubt_about_its_queue(
    database: str, on_doubt: Any
) -> None:
    ran: list[str] = []
    step = Step("charge", _spent(ran), compensate=nothing, retry=ONCE, on_doubt=on_doubt)
    limited = Step(
        "charge", _spent(ran), compensate=nothing, retry=ONCE, on_doubt=on_doubt, rate=NEVER
    )
    async with orchestrating(
        database, Saga("stopped", context=Order, steps=[limited])
    ) as orchestrator:
        handles = [
            await orchestrator.start("stopped", Order(order_id=str(number))) for number in range(4)
        ]
        await until(
            database, "SELECT count(*) = 4 FROM eventsaga.events WHERE type = 'StepStarted'"
        )
    # The limit is not of the shape: without it the others run at once.
    async with orchestrating(
        database, Saga("stopped", context=Order, steps=[step])
    ) as orchestrator:
        states = [await orchestrator.wait(handle.id, timeout=10) for handle in handles]
        for number, handle in enumerate(handles):
            history = await orchestrator.history(handle.id)
            withdrawn = [failed.interrupted for failed in events_of(history, "StepFailed")]
            assert withdrawn == ([] if str(number) == ran[0] else [True])
            assert events_of(history, "StepInDoubt") == []
    assert [state.status for state in states] == [Status.COMPLETED] * 4
    assert sorted(ran) == ["0", "1", "2", "3"]


# -- the queue of the threads -----------------------------------------------------------------


async def test_the_timeout_of_a_plain_function_begins_with_it(database: str) -> None:
    with _gate() as gate:
        saga = Saga("plain", context=Order, steps=[Step("only", gate.step, timeout=0.3)])
        long = Saga("long", context=Order, steps=[Step("only", gate.step)])
        async with orchestrating(database, saga, long, settings=ONE_THREAD) as orchestrator:
            await orchestrator.start(long, Order(order_id="long"))
            await gate.entered.wait()
            handle = await orchestrator.start(saga, Order(order_id="short"))
            with pytest.raises(TimeoutError):
                await handle.result(timeout=1)  # three times what it may take
            assert await types(handle) == ["SagaStarted", "StepStarted"]
            gate.open()
            state = await handle.result(timeout=10)

    assert state.status is Status.COMPLETED
    assert gate.begun == ["long", "short"]


async def test_a_function_that_timed_out_keeps_its_thread_until_it_returns(database: str) -> None:
    with _gate() as gate:
        step = Step("only", gate.step, timeout=0.1, on_doubt="park")
        saga = Saga("plain", context=Order, steps=[step])
        async with orchestrating(database, saga, settings=ONE_THREAD) as orchestrator:
            first = await orchestrator.start(saga, Order(order_id="first"))
            assert (await first.result(timeout=10)).status is Status.PARKED
            second = await orchestrator.start(saga, Order(order_id="second"))
            with pytest.raises(TimeoutError):
                await second.result(timeout=0.5)
            assert gate.begun == ["first"]
            gate.open()
            assert (await second.result(timeout=10)).status is Status.COMPLETED


async def test_a_plain_function_that_waits_for_a_thread_can_be_cancelled(database: str) -> None:
    with _gate() as gate:
        saga = Saga("plain", context=Order, steps=[Step("only", gate.step)])
        async with orchestrating(database, saga, settings=ONE_THREAD) as orchestrator:
            await orchestrator.start(saga, Order(order_id="first"))
            await gate.entered.wait()
            handle = await orchestrator.start(saga, Order(order_id="second"))
            await handle.cancel("never mind")
            state = await handle.result(timeout=10)
            await _withdrawn(handle, "turned back")
            gate.open()

    assert state.status is Status.COMPENSATED
    assert gate.begun == ["first"]


async def test_a_worker_that_lost_its_lease_begins_nothing_that_waited_for_a_thread(
    database: str,
) -> None:
    """The other worker has a thread, and runs it; the first one's turn comes too late."""
    ran: list[str] = []
    with _gate() as gate:

        def charge(_order: Order) -> None:
            ran.append(threading.current_thread().name)

        plain = Saga("plain", context=Order, steps=[Step("charge", charge)])
        long = Saga("long", context=Order, steps=[Step("only", gate.step)])
        async with AsyncExitStack() as stack:
            first = await stack.enter_async_context(
                orchestrating(database, plain, long, settings=ONE_THREAD)
            )
            await first.start(long, Order())
            await gate.entered.wait()
            handle = await first.start(plain, Order())
            worker = first._worker
            assert worker is not None
            for task in worker._tasks:
                task.cancel()  # cut off: it does not renew any more
            await run_sql(database, EXPIRE)
            second = await stack.enter_async_context(
                orchestrating(database, plain, settings=ONE_THREAD)
            )
            state = await second.wait(handle.id, timeout=20)
            async with asyncio.timeout(10):
                while worker._lease.is_safe:  # noqa: ASYNC110 - a clock
                    await asyncio.sleep(0.05)
            gate.open()
            async with asyncio.timeout(10):
                while worker.tools.threads._free.locked():  # noqa: ASYNC110 - a thread
                    await asyncio.sleep(0.05)
            await asyncio.sleep(0)
            await worker.vanish()

    assert state.status is Status.COMPLETED
    assert len(ran) == 1

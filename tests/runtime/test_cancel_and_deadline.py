import asyncio
from typing import Any

import pytest

from eventsaga import IllegalCommandError, Retry, Saga, SagaNotFoundError, Status, Step
from eventsaga.identity import new_id
from tests.runtime.sagas import (
    Order,
    events_of,
    nothing,
    one_step,
    orchestrating,
    run_sql,
    types,
    until,
)

SLOW_RETRY = Retry(max_attempts=5, delay=3600, max_delay=3600)
ASLEEP = "SELECT count(*) FROM eventsaga.sagas WHERE owner IS NULL AND wake_at > now()"


class _Held:
    """A step that waits until it is let go, and says when it has begun."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.let_go = asyncio.Event()
        self.undone = 0

    async def execute(self, _order: Order) -> None:
        self.begun.set()
        await self.let_go.wait()

    async def undo(self, _order: Order) -> None:
        self.undone += 1


async def _fails(_order: Order) -> None:
    raise ValueError("later")


async def test_a_cancel_lets_the_running_attempt_end_and_undoes_it(database: str) -> None:
    held = _Held()
    saga = Saga(
        "two",
        context=Order,
        steps=[Step("a", held.execute, compensate=held.undo), Step("b", nothing)],
    )
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("two", Order())
        await held.begun.wait()
        await handle.cancel("changed my mind", actor="bob")
        await until(
            database,
            "SELECT count(*) FROM eventsaga.events WHERE type = 'SagaCancelRequested'",
        )
        held.let_go.set()
        state = await handle.result(timeout=10)

        assert state.status is Status.COMPENSATED
        assert held.undone == 1
        (request,) = events_of(await handle.history(), "SagaCancelRequested")
        assert (request.reason, request.actor) == ("changed my mind", "bob")
        names = await types(handle)
        assert names.count("StepSucceeded") == 1
        assert names.count("StepStarted") == 1
        assert await until(
            database, "SELECT count(*) = 0 FROM eventsaga.inbox WHERE answered_at IS NULL"
        )


async def test_a_saga_that_sleeps_in_the_table_is_cancelled_from_another_process(
    database: str,
) -> None:
    saga = Saga(
        "two",
        context=Order,
        steps=[Step("a", nothing, compensate=nothing), Step("b", _fails, retry=SLOW_RETRY)],
    )
    async with (
        orchestrating(database, saga) as worker,
        orchestrating(database, worker=False) as stranger,
    ):
        handle = await worker.start("two", Order())
        await until(database, ASLEEP)
        await stranger.cancel(handle.id, "enough")

        state = await stranger.wait(handle.id, timeout=10)

    assert state.status is Status.COMPENSATED
    assert state.compensated_steps == ("a",)
    assert state.context["order_id"] == "o-1"


async def test_a_settled_saga_cannot_be_cancelled(database: str) -> None:
    async with orchestrating(database, one_step(nothing)) as orchestrator:
        handle = await orchestrator.start("one", Order())
        await handle.result(timeout=10)

        with pytest.raises(IllegalCommandError, match="COMPLETED"):
            await handle.cancel("too late")
        with pytest.raises(SagaNotFoundError):
            await orchestrator.cancel(new_id(), "who?")


async def test_a_second_cancel_changes_nothing(database: str) -> None:
    held = _Held()
    async with orchestrating(database, one_step(held.execute)) as orchestrator:
        handle = await orchestrator.start("one", Order())
        await held.begun.wait()
        await handle.cancel("first")
        await handle.cancel("second")
        await until(database, "SELECT count(*) = 0 FROM eventsaga.inbox WHERE answered_at IS NULL")
        held.let_go.set()
        await handle.result(timeout=10)

        assert len(events_of(await handle.history(), "SagaCancelRequested")) == 1


async def test_a_deadline_turns_the_saga_back_while_it_waits(database: str) -> None:
    saga: Saga[Any] = Saga(
        "dead",
        context=Order,
        steps=[Step("a", nothing, compensate=nothing), Step("b", _fails, retry=SLOW_RETRY)],
        deadline=0.5,
    )
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("dead", Order())
        state = await handle.result(timeout=10)

    assert state.status is Status.COMPENSATED
    assert state.error is not None
    assert "deadline" in state.error.message


async def test_a_long_wait_leaves_memory_and_comes_back_when_it_is_due(database: str) -> None:
    calls: list[int] = []

    async def second_time(_order: Order) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("not yet")

    saga = one_step(second_time, retry=SLOW_RETRY)
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("one", Order())
        await until(database, ASLEEP)
        # The event says when; the row says when to look: both are moved, as an hour would.
        await run_sql(
            database,
            "ALTER TABLE eventsaga.events DISABLE TRIGGER events_append_only",
            "UPDATE eventsaga.events SET data = jsonb_set(data::jsonb, '{retry_at}',"
            " to_jsonb(now()))::json WHERE type = 'StepFailed'",
            "UPDATE eventsaga.sagas SET wake_at = now()",
        )
        state = await handle.result(timeout=10)

    assert (state.status, len(calls)) == (Status.COMPLETED, 2)

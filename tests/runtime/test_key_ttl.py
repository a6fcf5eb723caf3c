"""Is a key that the other side may have forgotten never sent again, unless a person says so?"""

import asyncio
from typing import Any

import pytest

from eventsaga import PermanentError, Retry, Saga, Status, Step, StepContext
from tests.runtime.sagas import (
    ONCE,
    Order,
    events_of,
    nothing,
    one_step,
    orchestrating,
    run_sql,
    until,
)

pytestmark = pytest.mark.usefixtures("sound")

TTL = 0.4
EXPIRE = "UPDATE eventsaga.workers SET lease_until = now() - interval '1 s'"
LATE = Retry(max_attempts=5, delay=2 * TTL)


class _Unsure:
    """A step that hangs, or comes to no answer, for its first calls; and its keys."""

    def __init__(self, times: int) -> None:
        self.keys: list[str] = []
        self.undo_keys: list[str] = []
        self.begun = asyncio.Event()
        self.released = asyncio.Event()
        self._times = times

    async def hang(self, _order: Order, step: StepContext) -> None:
        self.keys.append(step.idempotency_key)
        if len(self.keys) <= self._times:
            self.begun.set()
            await self.released.wait()

    async def time_out(self, _order: Order, step: StepContext) -> None:
        self.keys.append(step.idempotency_key)
        if len(self.keys) <= self._times:
            raise TimeoutError("no answer")

    async def fail(self, _order: Order, step: StepContext) -> None:
        self.keys.append(step.idempotency_key)
        if len(self.keys) <= self._times:
            raise ValueError("no")

    async def undo(self, _order: Order, step: StepContext) -> None:
        self.undo_keys.append(step.idempotency_key)
        if len(self.undo_keys) <= self._times:
            raise TimeoutError("no answer")


_OLD = (
    "SELECT count(*) FROM eventsaga.events WHERE type = $1"
    " AND extract(epoch FROM now() - occurred_at) > $2"
)


async def test_a_crash_later_than_the_key_lives_is_parked_and_not_sent_again(
    database: str,
) -> None:
    step = _Unsure(times=1)
    saga = one_step(step.hang, key_ttl=TTL)
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("one", Order())
        await step.begun.wait()
        await until(database, _OLD, "StepStarted", TTL + 0.1)
        await run_sql(database, EXPIRE)
        parked = await handle.result(timeout=20)
        sent = list(step.keys)
        last_doubt = events_of(await handle.history(), "StepInDoubt")[-1]
        (reason,) = events_of(await handle.history(), "SagaParked")
        assert await orchestrator.retry(handle.id, reason="it is not there", actor="ann")
        state = await handle.result(timeout=20)

    assert (parked.status, parked.in_doubt_steps) == (Status.PARKED, ("only",))
    assert sent == [f"{handle.id}/only"]
    assert last_doubt.error_type == "KeyExpired"
    assert "the idempotency key is older than" in last_doubt.message
    assert reason.reason == "in_doubt"
    assert state.status is Status.COMPLETED
    assert step.keys == [f"{handle.id}/only"] * 2


async def test_a_crash_while_the_key_lives_is_sent_again(database: str) -> None:
    step = _Unsure(times=1)
    async with orchestrating(database, one_step(step.hang, key_ttl=60)) as orchestrator:
        handle = await orchestrator.start("one", Order())
        await step.begun.wait()
        await run_sql(database, EXPIRE)
        state = await handle.result(timeout=20)

    assert (state.status, len(step.keys)) == (Status.COMPLETED, 2)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Full jitter may draw any wait: here it draws the whole of it, longer than a key lives."""
    monkeypatch.setattr("eventsaga.runtime.execute.random.random", lambda: 0.99)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("kind", ["doubt", "failure"])
async def test_a_retry_later_than_the_key_lives(database: str, kind: str) -> None:
    """What is in doubt is parked; what failed definitely has no key to be forgotten."""
    step = _Unsure(times=1)
    execute: Any = step.time_out if kind == "doubt" else step.fail
    saga = one_step(execute, key_ttl=TTL, retry=LATE)
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("one", Order())
        state = await handle.result(timeout=20)

    if kind == "doubt":
        assert (state.status, len(step.keys)) == (Status.PARKED, 1)
    else:
        assert (state.status, len(step.keys)) == (Status.COMPLETED, 2)


async def test_an_operator_may_also_say_what_became_of_it(database: str) -> None:
    step = _Unsure(times=1)
    saga = one_step(step.hang, key_ttl=TTL, compensate=step.undo)
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("one", Order())
        await step.begun.wait()
        await until(database, _OLD, "StepStarted", TTL + 0.1)
        await run_sql(database, EXPIRE)
        await handle.result(timeout=20)
        assert await orchestrator.resolve(
            handle.id, "only", "failed", reason="it is not there", actor="ann"
        )
        state = await handle.result(timeout=20)

    assert (state.status, step.undo_keys) == (Status.COMPENSATED, [])
    assert len(step.keys) == 1


@pytest.mark.usefixtures("patient")
async def test_a_compensation_in_doubt_later_than_its_key_lives_is_parked_until_a_retry(
    database: str,
) -> None:
    step = _Unsure(times=1)

    async def decline(_order: Order) -> None:
        raise PermanentError("declined")

    saga = Saga(
        "two",
        context=Order,
        steps=[
            Step("a", nothing, compensate=step.undo, key_ttl=TTL, compensate_retry=LATE),
            Step("b", decline, retry=ONCE),
        ],
    )
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("two", Order())
        parked = await handle.result(timeout=20)
        sent = list(step.undo_keys)
        failed = events_of(await handle.history(), "StepCompensationFailed")[-1]
        assert await orchestrator.retry(handle.id, step="a", reason="not undone", actor="ann")
        state = await handle.result(timeout=20)

    assert (parked.status, sent) == (Status.PARKED, [f"{handle.id}/a/compensate"])
    assert failed.error_type == "KeyExpired"
    assert state.status is Status.COMPENSATED
    assert step.undo_keys == sent * 2

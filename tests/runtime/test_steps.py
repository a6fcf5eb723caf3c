from functools import partial
from typing import Any

import pytest

from eventsaga import DefinitionError, Parallel, Retry, Saga, Status, Step, StepContext
from tests.runtime.sagas import ONCE, Order, events_of, nothing, one_step, orchestrating, types


async def _async_with_step(order: Order, step: StepContext) -> dict[str, str]:
    return {"note": f"{order.order_id} {step.step} {step.attempt}"}


async def _async_alone(order: Order) -> dict[str, str]:
    return {"note": f"{order.order_id} only 1"}


def _plain_around_async(order: Order) -> Any:
    return _async_alone(order)


def _plain(order: Order) -> dict[str, str]:
    return {"note": f"{order.order_id} only 1"}


class _Callable:
    async def __call__(self, order: Order) -> Order:
        return order.model_copy(update={"note": f"{order.order_id} only 1"})


def _in_place(order: Order, step: StepContext) -> Order:
    order.note = f"{order.order_id} {step.step} {step.attempt}"
    return order


async def _with_more(greeting: str, order: Order, step: StepContext) -> dict[str, str]:
    return {"note": f"{greeting} {step.step} 1"}


@pytest.mark.parametrize(
    "execute",
    [
        _async_with_step,
        _plain,
        _Callable(),
        _in_place,
        partial(_with_more, "o-1"),
        _plain_around_async,
    ],
    ids=["async", "thread", "object", "model", "partial", "lambda"],
)
async def test_functions_of_all_shapes_are_called(database: str, execute: Any) -> None:
    async with orchestrating(database, one_step(execute)) as orchestrator:
        state = await (await orchestrator.start("one", Order())).result(timeout=10)

    assert state.status is Status.COMPLETED
    assert state.context.note == "o-1 only 1"


def _without_arguments() -> None:
    return None


def _with_three(_a: int, _b: int, _c: int) -> None:
    return None


@pytest.mark.parametrize("bad", [_without_arguments, _with_three, 7])
def test_a_function_that_cannot_be_called_is_refused_by_name(bad: Any) -> None:
    with pytest.raises(DefinitionError, match="step 'only': execute must"):
        one_step(bad)


async def test_what_a_step_changes_in_place_is_not_seen_by_the_next(database: str) -> None:
    async def vandal(order: Order) -> None:
        order.note = "changed"

    async def witness(order: Order) -> dict[str, Any]:
        return {"data": order.note}

    saga = Saga("two", context=Order, steps=[Step("a", vandal), Step("b", witness)])
    async with orchestrating(database, saga) as orchestrator:
        state = await (await orchestrator.start("two", Order(note="kept"))).result(timeout=10)

    assert (state.context.note, state.context.data) == ("kept", "kept")


def _deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(70):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("result", "told"),
    [
        ({"amount": float("nan")}, "nan is not a JSON number"),
        ({"note": "\x00"}, "NUL"),
        ({"note": "\ud800"}, "lone surrogate"),
        ({"data": {1: "a", "1": "b"}}, "key 1 is of type int"),
        ({"data": _deep()}, "nested deeper than 64"),
        ({"data": "x" * 1_000_001}, "exceeds the limit"),
        ({"data": object()}, "object cannot be stored"),
        ({"unknown": 1}, "Order has no field unknown"),
        ({"order_id": 5}, "valid string"),
        (7, "not int"),
    ],
    ids=["nan", "nul", "surrogate", "keys", "depth", "size", "type", "field", "model", "int"],
)
async def test_a_refused_result_fails_the_step_for_good_and_its_effect_is_undone(
    database: str, result: Any, told: str
) -> None:
    calls: list[str] = []

    async def execute(_order: Order) -> Any:
        calls.append("do")
        return result

    async def undo(_order: Order, step: StepContext) -> None:
        calls.append(step.outcome)

    async with orchestrating(database, one_step(execute, compensate=undo)) as orchestrator:
        handle = await orchestrator.start("one", Order())
        state = await handle.result(timeout=10)
        (failed,) = events_of(await handle.history(), "StepFailed")

    assert calls == ["do", "unknown"]
    assert state.status is Status.COMPENSATED
    assert state.error is not None
    assert told in state.error.message
    assert (failed.retry_at, failed.effect_happened) == (None, True)
    assert "StepSucceeded" not in await _types_later(database, handle)


async def _types_later(database: str, handle: Any) -> list[str]:
    async with orchestrating(database, one_step(nothing), worker=False) as orchestrator:
        return [stored.type for stored in await orchestrator.history(handle.id)]


async def test_compensation_goes_back_in_reverse_and_knows_what_the_step_returned(
    database: str,
) -> None:
    undone: list[tuple[str, str, Any]] = []

    def do(name: str) -> Any:
        async def execute(_order: Order) -> dict[str, Any]:
            return {"note" if name == "a" else "data": name}

        return execute

    async def undo(_order: Order, step: StepContext) -> None:
        undone.append((step.step, step.outcome, dict(step.result or {})))

    async def fail(_order: Order) -> None:
        raise ValueError("no")

    saga = Saga(
        "three",
        context=Order,
        steps=[
            Step("a", do("a"), compensate=undo),
            Step("b", do("b"), compensate=undo),
            Step("c", fail, compensate=undo, retry=ONCE),
        ],
    )
    async with orchestrating(database, saga) as orchestrator:
        state = await (await orchestrator.start("three", Order())).result(timeout=10)

    assert undone == [("b", "succeeded", {"data": "b"}), ("a", "succeeded", {"note": "a"})]
    assert state.compensated_steps == ("a", "b")
    assert state.error is not None
    assert (state.error.step_name, state.error.message) == ("c", "no")


async def test_a_compensation_that_gives_up_parks_the_saga_and_the_rest_is_undone(
    database: str,
) -> None:
    undone: list[str] = []

    async def undo(_order: Order, step: StepContext) -> None:
        if step.step == "b":
            raise ValueError("stuck")
        undone.append(step.step)

    async def fail(_order: Order) -> None:
        raise ValueError("no")

    twice = Retry(max_attempts=2, delay=0.01)
    saga = Saga(
        "three",
        context=Order,
        steps=[
            Step("a", nothing, compensate=undo),
            Step("b", nothing, compensate=undo, compensate_retry=twice),
            Step("c", fail, retry=ONCE),
        ],
    )
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("three", Order())
        state = await handle.result(timeout=10)
        parked = events_of(await handle.history(), "SagaParked")[0]

        assert state.status is Status.PARKED
        assert undone == ["a"]
        assert (parked.steps, parked.reason) == (("b",), "compensation_failed")
        assert (await types(handle)).count("StepCompensationFailed") == 2


async def test_branches_that_disagree_turn_the_saga_back(database: str) -> None:
    def say(value: str) -> Any:
        async def execute(_order: Order) -> dict[str, str]:
            return {"note": value}

        return execute

    saga = Saga(
        "branches",
        context=Order,
        steps=[Parallel("both", [Step("a", say("x")), Step("b", say("y"))])],
    )
    async with orchestrating(database, saga) as orchestrator:
        state = await (await orchestrator.start("branches", Order())).result(timeout=10)

    assert state.status is Status.COMPENSATED
    assert state.error is not None
    assert "different values for note" in state.error.message

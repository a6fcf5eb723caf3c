"""Is a simulation the real engine, only without waiting?"""

import asyncio
import time
from datetime import timedelta
from typing import Any

import pytest

from eventsaga import (
    ChildSaga,
    ForEach,
    InDoubtError,
    PermanentError,
    Saga,
    SagaHandle,
    Sleep,
    Status,
    Step,
    StepContext,
    WaitForSignal,
)
from eventsaga.testing import Crash, Fault, Plan, Simulator
from tests.testing.sagas import ORDER, TWICE, Order, never, undoable


def test_a_saga_without_script_completes_and_calls_nothing() -> None:
    simulated = Simulator(ORDER).run(Order())

    assert simulated.status is Status.COMPLETED
    assert simulated.state.completed_steps == ("reserve", "charge", "ship", "confirm")
    assert [effect.step for effect in simulated.effects] == ["reserve", "charge", "ship", "confirm"]


def test_results_errors_and_functions_are_scripted_by_attempt() -> None:
    def ship(order: Order, step: StepContext) -> None:
        assert order.reservation_id == "r-1"
        assert step.attempt == 1

    outcomes = {
        "reserve": {"reservation_id": "r-1"},
        "charge": [InDoubtError("lost"), {"transaction_id": "t-1"}],
        "ship": ship,
    }

    simulated = Simulator(ORDER, outcomes).run(Order())

    assert simulated.context == Order(reservation_id="r-1", transaction_id="t-1")
    assert "charge  execute  in doubt" in simulated.timeline()


def test_a_failure_is_compensated_and_nothing_stands() -> None:
    simulated = Simulator(ORDER, {"confirm": PermanentError("no")}).run(Order())

    assert simulated.status is Status.COMPENSATED
    assert not any(map(simulated.stands, ("reserve", "charge", "ship")))
    assert simulated.state.error is not None
    assert simulated.state.error.message == "no"


def test_months_pass_at_once() -> None:
    patient = Saga("patient", context=Order, steps=[Sleep("wait", timedelta(days=180))])
    began = time.monotonic()

    simulated = Simulator(patient).run(Order())

    assert simulated.status is Status.COMPLETED
    assert simulated.state.updated_at - simulated.state.created_at == timedelta(days=180)
    assert time.monotonic() - began < timedelta(days=180).total_seconds() / 1_000_000


def test_somebody_outside_acts_in_virtual_time() -> None:
    waiting = Saga("waiting", context=Order, steps=[WaitForSignal("approval", timeout=3600)])

    async def script(handle: SagaHandle) -> None:
        await asyncio.sleep(3000)
        await handle.signal("approval", {"by": "ada"})

    approved = Simulator(waiting).run(Order(), script)
    alone = Simulator(waiting).run(Order())

    assert approved.context.approval == {"by": "ada"}
    assert alone.status is Status.COMPENSATED


def test_a_saga_that_waits_for_ever_is_returned_as_it_stands() -> None:
    waiting = Saga("waiting", context=Order, steps=[WaitForSignal("approval")])

    simulated = Simulator(waiting).run(Order(), until=timedelta(days=2))

    assert simulated.status is Status.RUNNING
    assert simulated.state.current_steps == ("approval",)


def test_an_error_of_the_script_is_the_test_s_error() -> None:
    waiting = Saga("waiting", context=Order, steps=[WaitForSignal("approval")])

    async def script(handle: SagaHandle) -> None:
        await handle.signal("no_such_signal")

    with pytest.raises(Exception, match="no_such_signal"):
        Simulator(waiting).run(Order(), script, until=timedelta(days=1))


def test_children_and_items_are_simulated_too() -> None:
    child = Saga("child", context=Order, steps=[undoable("inner")])
    parent = Saga(
        "parent",
        context=Order,
        steps=[
            ForEach("each", lambda _order: ["a", "b", "c"], undoable("one"), 2),
            ChildSaga("first", child, lambda order: order),
            ChildSaga("second", child, lambda order: order),
            Step("last", never),
        ],
    )

    done = Simulator(parent).run(Order())
    undone = Simulator(parent, {"last": PermanentError("no")}).run(Order())

    assert done.status is Status.COMPLETED
    assert [effect.step for effect in done.effects].count("inner") == 2
    assert undone.status is Status.COMPENSATED
    undos = [effect.step for effect in undone.effects if effect.operation == "compensate"]
    assert undos[:2] == ["inner", "inner"]
    assert set(undos[2:]) == {"each[0]", "each[1]", "each[2]"}


@pytest.mark.parametrize("crash", list(Crash))
@pytest.mark.parametrize("number", range(1, 6))
def test_a_worker_that_dies_at_an_append_is_replaced(crash: Crash, number: int) -> None:
    simulated = Simulator(ORDER).run(Order(), plan=Plan({}, {number: crash}))

    assert simulated.status is Status.COMPLETED
    assert len(simulated.effects) == len({effect.key for effect in simulated.effects})
    types = [stored.type for stored in simulated.history]
    # Before the first append there is no saga yet, and after the last one nothing to recover.
    outside = (number, crash) in {(1, Crash.BEFORE), (5, Crash.AFTER)}
    assert ("SagaRecovered" in types) != outside


def test_a_late_effect_lands_when_all_is_over() -> None:
    late = Plan({1: Fault.LATE}, {})
    once = Saga("once", context=Order, steps=[Step("pay", never, retry=TWICE)])

    honest = Simulator(once).run(Order(), plan=late)
    careless = Simulator(once, honest=False).run(Order(), plan=late)

    assert [effect.step for effect in honest.effects] == ["pay"]
    assert [effect.step for effect in careless.effects] == ["pay", "pay"]


async def test_it_runs_inside_an_async_test() -> None:
    assert Simulator(ORDER).run(Order()).status is Status.COMPLETED


def test_the_same_seed_gives_the_same_history() -> None:
    def told(seed: int) -> list[tuple[str, Any]]:
        outcomes = {"charge": [TimeoutError("x"), None]}
        history = Simulator(ORDER, outcomes, seed=seed).run(Order()).history
        return [(stored.type, stored.event.at) for stored in history]

    assert told(1) == told(1)
    assert told(1) != told(2)

from datetime import timedelta

import pytest

from eventsaga.core.commands import RecordFailure, Wake
from eventsaga.core.decide import decide
from eventsaga.core.events import (
    CompensationStarted,
    Operation,
    SagaCompensated,
    SagaCompleted,
    SagaStarted,
    StepCompensationStarted,
    StepFailed,
    StepStarted,
    StepSucceeded,
    TurnReason,
)
from eventsaga.core.state import Phase, Status
from eventsaga.errors import IllegalCommandError
from tests.core.histories import (
    COMPENSATE,
    EXECUTE,
    SAGA,
    SECOND,
    T0,
    TWICE,
    Story,
    begun,
    drive,
    fail,
    kinds,
    saga,
    start,
    step,
    succeed,
)

THREE = saga(step("a"), step("b"), step("c"))


def test_a_start_records_what_the_saga_is_bound_to() -> None:
    definition = saga(step("a"), deadline=timedelta(hours=1))

    events = Story(definition).send(start({"amount": 5}))

    assert events == (
        SagaStarted(
            at=T0,
            saga_name="order",
            version=1,
            fingerprint=definition.fingerprint,
            context={"amount": 5},
            correlation_id="trace-1",
            deadline_at=T0 + timedelta(hours=1),
        ),
    )


def test_a_second_start_changes_nothing() -> None:
    assert begun(THREE).send(start()) == ()


def test_only_the_first_step_starts() -> None:
    story = Story(THREE)
    story.send(start())

    assert story.send(Wake(at=T0)) == (
        StepStarted(at=T0, step="a", attempt=1, idempotency_key=f"{SAGA}/a"),
    )


def test_the_result_of_a_step_and_the_intent_of_the_next_are_one_decision() -> None:
    """One append holds both, so a crash finds no gap between them."""
    story = begun(THREE)

    assert story.send(succeed("a", {"x": 1})) == (
        StepSucceeded(at=T0, step="a", attempt=1, result={"x": 1}),
        StepStarted(at=T0, step="b", attempt=1, idempotency_key=f"{SAGA}/b"),
    )


def test_the_result_of_the_last_step_completes_the_saga() -> None:
    story = begun(THREE)
    story.send(succeed("a"), succeed("b"))

    assert story.send(succeed("c")) == (
        StepSucceeded(at=T0, step="c", attempt=1),
        SagaCompleted(at=T0),
    )
    assert story.state.status is Status.COMPLETED


def test_n_steps_take_n_plus_one_decisions() -> None:
    story = begun(THREE)
    decisions = 1 + sum(bool(story.send(succeed(name))) for name in THREE.order)

    assert decisions == 4
    assert story.state.status is Status.COMPLETED


def test_results_are_merged_into_the_context() -> None:
    story = drive(
        THREE,
        {("a", EXECUTE, 1): {"x": 1, "y": 1}, ("b", EXECUTE, 1): {"y": 2}},
        context={"x": 0, "z": 0},
    )

    assert story.state.context == {"x": 1, "y": 2, "z": 0}


def test_the_last_failed_attempt_turns_the_saga_back_at_once() -> None:
    """One decision records the failure and turns around; no gap for a crash."""
    story = begun(THREE)

    assert story.send(fail("a")) == (
        StepFailed(at=T0, step="a", attempt=1, error_type="DeclinedError", message="a declined"),
        CompensationStarted(
            at=T0, reason=TurnReason.STEP_FAILED, because_of="a", message="a declined"
        ),
        SagaCompensated(at=T0),
    )


def test_a_permanent_failure_is_not_tried_again() -> None:
    story = begun(saga(step("a", retry=TWICE)))

    assert kinds(story.send(fail("a", retryable=False))) == [
        "StepFailed a",
        "CompensationStarted",
        "SagaCompensated",
    ]


def test_all_attempts_of_a_step_carry_one_key() -> None:
    definition = saga(step("a", retry=TWICE, compensate_retry=TWICE), step("b"))

    story = drive(
        definition,
        {
            ("a", EXECUTE, 1): "fail",
            ("a", EXECUTE, 2): "crash",
            ("a", EXECUTE, 3): "handover",
            ("b", EXECUTE, 1): "permanent",
            ("a", COMPENSATE, 1): "crash",
            ("a", COMPENSATE, 2): "fail",
        },
    )

    keys = [event.idempotency_key for event in story.of(StepStarted) if event.step == "a"]
    assert keys == [f"{SAGA}/a"] * 4
    undo_keys = [event.idempotency_key for event in story.of(StepCompensationStarted)]
    assert undo_keys == [f"{SAGA}/a/compensate"] * 3
    assert story.state.status is Status.COMPENSATED


def test_a_waiting_step_is_not_started_early() -> None:
    story = begun(saga(step("a", retry=TWICE)))
    story.send(fail("a"))

    assert story.send(Wake(at=T0)) == ()
    assert kinds(story.send(Wake(at=T0 + SECOND / 2))) == ["StepStarted a"]


def test_a_redelivered_result_changes_nothing() -> None:
    story = begun(THREE)
    story.send(succeed("a"))

    assert story.send(succeed("a")) == ()
    assert story.send(fail("a")) == ()


def test_a_result_of_an_attempt_that_was_followed_by_another_changes_nothing() -> None:
    story = begun(saga(step("a", retry=TWICE)))
    story.send(fail("a", retry_after=timedelta(0)))

    assert story.send(succeed("a", attempt=1)) == ()
    assert story.state.steps["a"].phase is Phase.RUNNING


@pytest.mark.parametrize(
    ("name", "attempt", "operation"),
    [
        ("a", 2, EXECUTE),
        ("a", 0, EXECUTE),
        ("a", 0, COMPENSATE),
        ("b", 1, EXECUTE),
        ("a", 1, COMPENSATE),
        ("nobody", 1, EXECUTE),
    ],
)
def test_a_result_of_an_attempt_that_never_started_is_refused(
    name: str, attempt: int, operation: Operation
) -> None:
    story = begun(THREE)

    with pytest.raises(IllegalCommandError, match="never started"):
        story.send(succeed(name, attempt=attempt, operation=operation))


def test_nothing_but_a_start_is_taken_by_a_saga_that_was_never_started() -> None:
    for command in (Wake(at=T0), succeed("a")):
        with pytest.raises(IllegalCommandError, match="saga was never started"):
            Story(THREE).send(command)


def test_a_wake_that_comes_after_the_end_changes_nothing() -> None:
    assert drive(THREE).send(Wake(at=T0)) == ()


def test_a_result_that_comes_after_the_end_changes_nothing() -> None:
    assert drive(THREE).send(succeed("c")) == ()


def test_a_step_that_did_happen_though_it_failed_is_compensated() -> None:
    """Its function returned, and the result was refused."""
    story = begun(saga(step("a")))

    assert kinds(story.send(fail("a", retryable=False, effect_happened=True))) == [
        "StepFailed a",
        "CompensationStarted",
        "StepCompensationStarted a",
    ]


def test_a_failure_carries_what_was_reported() -> None:
    command = RecordFailure(
        at=T0,
        step="a",
        attempt=1,
        operation=EXECUTE,
        error_type="CardError",
        message="no funds",
        jitter=0.0,
    )
    story = begun(saga(step("a")))

    story.send(command)

    assert story.of(StepFailed) == [
        StepFailed(at=T0, step="a", attempt=1, error_type="CardError", message="no funds")
    ]
    assert story.state.turn is not None
    assert (story.state.turn.step, story.state.turn.message) == ("a", "no funds")


def test_deciding_returns_the_events_and_leaves_the_state_alone() -> None:
    story = begun(THREE)
    before = repr(story.state)

    events = decide(THREE, story.state, succeed("a"))

    assert repr(story.state) == before
    assert events == story.send(succeed("a"))

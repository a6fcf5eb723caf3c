from datetime import timedelta

import pytest

from eventsaga.core.commands import Wake
from eventsaga.core.events import (
    CompensationStarted,
    Outcome,
    SagaCancelRequested,
    SagaDeadlineExceeded,
    TurnReason,
)
from eventsaga.core.state import Phase, Status
from eventsaga.errors import IllegalCommandError
from tests.core.histories import (
    COMPENSATE,
    EXECUTE,
    SECOND,
    T0,
    TWICE,
    Script,
    Story,
    begun,
    cancel,
    doubt,
    drive,
    fail,
    kinds,
    parallel,
    saga,
    start,
    step,
    succeed,
)

TWO = saga(step("a"), step("b"))
LIMITED = saga(step("a", retry=TWICE), step("b"), deadline=10 * SECOND)
LATE = T0 + 10 * SECOND


def test_a_cancelled_saga_waits_for_the_running_step() -> None:
    story = begun(TWO)

    assert story.send(cancel()) == (
        SagaCancelRequested(at=T0, reason="changed my mind", actor="alice"),
    )
    assert story.state.status is Status.RUNNING


def test_a_result_that_comes_after_a_cancel_is_recorded_and_then_compensated() -> None:
    story = begun(TWO)
    story.send(cancel())

    assert kinds(story.send(succeed("a", {"x": 1}))) == [
        "StepSucceeded a",
        "CompensationStarted",
        "StepCompensationStarted a",
    ]
    assert story.state.context == {"x": 1}


def test_the_canceller_is_the_reason() -> None:
    story = begun(TWO)
    story.send(cancel(), succeed("a"))

    assert story.of(CompensationStarted) == [
        CompensationStarted(at=T0, reason=TurnReason.CANCELLED, message="changed my mind")
    ]


def test_a_step_that_fails_after_a_cancel_is_not_tried_again() -> None:
    story = begun(saga(step("a", retry=TWICE)))
    story.send(cancel())

    assert kinds(story.send(fail("a"))) == [
        "StepFailed a",
        "CompensationStarted",
        "SagaCompensated",
    ]


def test_a_step_in_doubt_after_a_cancel_is_compensated_as_unknown() -> None:
    story = begun(saga(step("a", retry=TWICE)))
    story.send(cancel(), doubt("a"))

    assert story.state.steps["a"].phase is Phase.COMPENSATING
    assert story.state.steps["a"].outcome is Outcome.UNKNOWN


def test_a_cancel_ends_a_waiting_retry_at_once() -> None:
    story = begun(saga(step("a", retry=TWICE)))
    story.send(fail("a"))

    assert kinds(story.send(cancel())) == [
        "SagaCancelRequested",
        "CompensationStarted",
        "SagaCompensated",
    ]


def test_a_saga_cancelled_before_its_first_step_has_nothing_to_undo() -> None:
    story = Story(TWO)
    story.send(start())

    assert kinds(story.send(cancel())) == [
        "SagaCancelRequested",
        "CompensationStarted",
        "SagaCompensated",
    ]


def test_a_second_cancel_changes_nothing() -> None:
    story = begun(TWO)
    story.send(cancel())

    assert story.send(cancel()) == ()


def test_a_cancel_on_the_way_back_changes_nothing() -> None:
    story = begun(TWO)
    story.send(succeed("a"), fail("b"))

    assert story.state.status is Status.COMPENSATING
    assert story.send(cancel()) == ()


def test_a_cancel_while_a_failed_group_settles_changes_nothing() -> None:
    story = begun(saga(parallel(step("a"), step("b"))))
    story.send(fail("a"))

    assert story.send(cancel()) == ()
    assert story.state.turn is not None
    assert story.state.turn.reason is TurnReason.STEP_FAILED


@pytest.mark.parametrize(
    "script",
    [
        {},
        {("b", EXECUTE, 1): "fail"},
        {("b", EXECUTE, 1): "fail", ("a", COMPENSATE, 1): "fail"},
    ],
)
def test_a_settled_saga_cannot_be_cancelled(script: Script) -> None:
    story = drive(TWO, script)

    with pytest.raises(IllegalCommandError, match=f"the saga is {story.state.status}"):
        story.send(cancel())


def test_the_saga_asks_to_be_woken_at_its_deadline() -> None:
    assert begun(LIMITED).wake_at() == LATE


def test_a_deadline_that_has_passed_turns_the_saga_back_when_the_running_step_has_settled() -> None:
    story = begun(LIMITED)

    assert story.send(Wake(at=LATE)) == (SagaDeadlineExceeded(at=LATE, deadline_at=LATE),)
    _, turned, undoing = story.send(succeed("a", at=LATE))

    assert turned == CompensationStarted(
        at=LATE, reason=TurnReason.DEADLINE, message="the saga's deadline has passed"
    )
    assert kinds([undoing]) == ["StepCompensationStarted a"]


def test_a_wake_before_the_deadline_changes_nothing() -> None:
    assert begun(LIMITED).send(Wake(at=LATE - SECOND / 1000)) == ()


def test_a_deadline_passes_once() -> None:
    story = begun(LIMITED)
    story.send(Wake(at=LATE))

    assert story.send(Wake(at=LATE + SECOND)) == ()


def test_a_deadline_ends_a_waiting_retry() -> None:
    story = begun(LIMITED)
    story.send(fail("a"))

    assert kinds(story.send(Wake(at=LATE))) == [
        "SagaDeadlineExceeded",
        "CompensationStarted",
        "SagaCompensated",
    ]


def test_a_deadline_passes_before_the_first_step() -> None:
    story = Story(LIMITED)
    story.send(start())

    assert kinds(story.send(Wake(at=LATE))) == [
        "SagaDeadlineExceeded",
        "CompensationStarted",
        "SagaCompensated",
    ]


def test_a_deadline_does_not_pass_after_a_cancel() -> None:
    story = begun(LIMITED)
    story.send(cancel())

    assert story.send(Wake(at=LATE)) == ()


def test_a_deadline_does_not_pass_on_the_way_back() -> None:
    story = begun(LIMITED)
    story.send(succeed("a"), fail("b"))

    assert story.send(Wake(at=LATE)) == ()


def test_a_cancel_after_the_deadline_changes_nothing() -> None:
    story = begun(LIMITED)
    story.send(Wake(at=LATE))

    assert story.send(cancel(LATE)) == ()


def test_a_result_that_comes_after_the_deadline_is_recorded_and_starts_no_step() -> None:
    """The timer that says so may be late; time is up all the same."""
    story = begun(LIMITED)

    assert kinds(story.send(succeed("a", at=LATE))) == [
        "StepSucceeded a",
        "SagaDeadlineExceeded",
        "CompensationStarted",
        "StepCompensationStarted a",
    ]


def test_a_failure_that_comes_after_the_deadline_is_not_tried_again() -> None:
    story = begun(LIMITED)

    assert kinds(story.send(fail("a", at=LATE, retry_after=timedelta(0)))) == [
        "StepFailed a",
        "SagaDeadlineExceeded",
        "CompensationStarted",
        "SagaCompensated",
    ]


def test_the_last_result_completes_the_saga_even_after_the_deadline() -> None:
    story = begun(LIMITED)
    story.send(succeed("a"))

    assert kinds(story.send(succeed("b", at=LATE))) == ["StepSucceeded b", "SagaCompleted"]


def test_a_deadline_beyond_all_calendars_is_far_away() -> None:
    deadline_at = begun(saga(step("a"), deadline=timedelta.max)).state.deadline_at

    assert deadline_at is not None
    assert deadline_at.year > T0.year + 90

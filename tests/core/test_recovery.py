from eventsaga.core.commands import HandOver, Wake
from eventsaga.core.events import (
    Outcome,
    SagaRecovered,
    StepCompensationStarted,
    StepInDoubt,
    StepStarted,
)
from eventsaga.core.react import RunStep
from eventsaga.core.state import Phase, Status
from tests.core.histories import (
    COMPENSATE,
    EXECUTE,
    OTHER_WORKER,
    SECOND,
    T0,
    TWICE,
    WORKER,
    Story,
    begun,
    cancel,
    doubt,
    drive,
    fail,
    kinds,
    parallel,
    recover,
    saga,
    start,
    step,
    succeed,
)

TWO = saga(step("a"), step("b"))
TRIED_TWICE = saga(step("a", retry=TWICE))


def test_a_new_owner_tries_again_at_once_what_the_old_one_left() -> None:
    story = begun(TWO)

    recovered, doubted, started = story.send(recover())

    assert recovered == SagaRecovered(at=T0, worker_id=OTHER_WORKER, previous_worker_id=WORKER)
    assert doubted == StepInDoubt(
        at=T0,
        step="a",
        attempt=1,
        operation=EXECUTE,
        error_type="WorkerLost",
        message="the worker's lease ended during the attempt",
        interrupted=True,
        retry_at=T0,
    )
    assert kinds([started]) == ["StepStarted a"]
    assert story.due() == (RunStep("a", 2, EXECUTE, Outcome.UNKNOWN),)


def test_attempts_cut_short_raise_the_number_and_spend_no_budget() -> None:
    story = begun(TRIED_TWICE)
    for _ in range(5):
        story.send(recover())
        story.send(HandOver(at=T0), Wake(at=T0))

    assert [event.attempt for event in story.of(StepStarted)] == list(range(1, 12))
    assert story.state.steps["a"].spent == 0
    story.send(fail("a", attempt=11))
    assert story.state.steps["a"].phase is Phase.WAITING


def test_compensations_cut_short_raise_the_number_and_spend_no_budget() -> None:
    story = begun(TWO)
    story.send(succeed("a"), fail("b"), recover(), recover())

    assert story.state.steps["a"].undo_attempt == 3
    assert story.state.steps["a"].undo_spent == 0
    story.send(succeed("a", attempt=3, operation=COMPENSATE))
    assert story.state.status is Status.COMPENSATED


def test_a_step_cut_short_that_then_fails_is_compensated() -> None:
    """Nobody knows what the attempt did before its worker was lost."""
    story = drive(TWO, {("a", EXECUTE, 1): "crash", ("a", EXECUTE, 2): "fail"})

    assert [event.outcome for event in story.of(StepCompensationStarted)] == [Outcome.UNKNOWN]


def test_an_attempt_cut_short_is_not_repeated_on_the_way_back() -> None:
    story = begun(TWO)
    story.send(cancel())

    assert kinds(story.send(recover())) == [
        "SagaRecovered",
        "StepInDoubt a",
        "CompensationStarted",
        "StepCompensationStarted a",
    ]


def test_a_new_owner_leaves_waiting_steps_waiting() -> None:
    story = begun(saga(parallel(step("a", retry=TWICE), step("b"))))
    story.send(fail("a"))

    assert kinds(story.send(recover())) == ["SagaRecovered", "StepInDoubt b", "StepStarted b"]


def test_a_new_owner_notices_a_deadline_before_it_tries_anything_again() -> None:
    story = begun(saga(step("a"), step("b"), deadline=SECOND))

    assert kinds(story.send(recover(at=T0 + 2 * SECOND))) == [
        "SagaRecovered",
        "SagaDeadlineExceeded",
        "StepInDoubt a",
        "CompensationStarted",
        "StepCompensationStarted a",
    ]


def test_a_new_owner_goes_on_with_the_way_back_whatever_the_deadline() -> None:
    story = begun(saga(step("a"), step("b"), deadline=SECOND))
    story.send(succeed("a"), fail("b"))

    assert kinds(story.send(recover(at=T0 + 2 * SECOND))) == [
        "SagaRecovered",
        "StepInDoubt a",
        "StepCompensationStarted a",
    ]


def test_a_late_result_of_the_old_owner_changes_nothing() -> None:
    story = begun(TWO)
    story.send(recover())

    assert story.send(succeed("a", attempt=1)) == ()


def test_a_new_owner_begins_a_saga_that_was_only_started() -> None:
    story = Story(TWO)
    story.send(start())

    assert kinds(story.send(recover())) == ["SagaRecovered", "StepStarted a"]


def test_a_settled_saga_is_not_recovered() -> None:
    assert drive(TWO).send(recover()) == ()


def test_a_worker_that_stops_leaves_its_attempts_due_at_once() -> None:
    story = begun(TWO)

    assert story.send(HandOver(at=T0)) == (
        StepInDoubt(
            at=T0,
            step="a",
            attempt=1,
            operation=EXECUTE,
            error_type="Shutdown",
            message="the worker was shut down",
            interrupted=True,
            retry_at=T0,
        ),
    )
    assert story.wake_at() == T0
    assert kinds(story.send(Wake(at=T0))) == ["StepStarted a"]


def test_a_worker_that_stops_on_the_way_back_leaves_the_compensation_due() -> None:
    story = begun(TWO)
    story.send(succeed("a"), fail("b"))

    assert kinds(story.send(HandOver(at=T0))) == ["StepInDoubt a"]
    assert kinds(story.send(Wake(at=T0))) == ["StepCompensationStarted a"]


def test_a_worker_that_stops_during_a_cancel_leaves_the_turn_due() -> None:
    story = begun(TWO)
    story.send(cancel(), HandOver(at=T0))

    assert story.wake_at() == T0
    assert kinds(story.send(Wake(at=T0))) == ["CompensationStarted", "StepCompensationStarted a"]


def test_a_worker_that_stops_with_nothing_running_records_nothing() -> None:
    story = begun(TRIED_TWICE)
    story.send(fail("a"))

    assert story.send(HandOver(at=T0)) == ()
    assert drive(TWO).send(HandOver(at=T0)) == ()


def test_a_stopping_worker_records_a_result_and_starts_nothing() -> None:
    story = begun(TWO)

    assert kinds(story.send(succeed("a", hold=True))) == ["StepSucceeded a"]
    assert story.due() == ()


def test_what_a_stopping_worker_held_back_is_due_at_once() -> None:
    story = begun(TWO)
    story.send(succeed("a", hold=True))

    assert story.wake_at() == T0
    assert kinds(story.send(Wake(at=T0))) == ["StepStarted b"]


def test_a_stopping_worker_does_not_turn_the_saga_back() -> None:
    story = begun(TWO)
    story.send(succeed("a"))

    assert kinds(story.send(fail("b", hold=True))) == ["StepFailed b"]
    assert story.wake_at() == T0
    assert kinds(story.send(Wake(at=T0))) == ["CompensationStarted", "StepCompensationStarted a"]


def test_a_stopping_worker_starts_no_compensation() -> None:
    story = begun(saga(step("a"), step("b"), step("c")))
    story.send(succeed("a"), succeed("b"), fail("c"))

    assert kinds(story.send(succeed("b", operation=COMPENSATE, hold=True))) == ["StepCompensated b"]
    assert story.wake_at() == T0
    assert kinds(story.send(Wake(at=T0))) == ["StepCompensationStarted a"]


def test_a_stopping_worker_starts_no_retry() -> None:
    story = begun(TRIED_TWICE)

    assert kinds(story.send(fail("a", retry_after=0 * SECOND, hold=True))) == ["StepFailed a"]
    assert kinds(story.send(Wake(at=T0))) == ["StepStarted a"]


def test_a_stopping_worker_records_a_doubt_and_starts_nothing() -> None:
    story = begun(TWO)

    assert kinds(story.send(doubt("a", hold=True))) == ["StepInDoubt a"]


def test_a_stopping_worker_records_an_end_that_was_reached() -> None:
    story = begun(saga(step("a")))

    assert kinds(story.send(succeed("a", hold=True))) == ["StepSucceeded a", "SagaCompleted"]


def test_a_stopping_worker_records_the_end_of_the_way_back() -> None:
    story = begun(TWO)
    story.send(succeed("a"), fail("b"))

    assert kinds(story.send(succeed("a", operation=COMPENSATE, hold=True))) == [
        "StepCompensated a",
        "SagaCompensated",
    ]

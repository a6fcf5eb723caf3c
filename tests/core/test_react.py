from eventsaga.core.commands import Wake
from eventsaga.core.events import Outcome
from eventsaga.core.react import RunStep, WakeAt, react
from eventsaga.core.state import State
from tests.core.histories import (
    COMPENSATE,
    EXECUTE,
    SAGA,
    SECOND,
    T0,
    TWICE,
    Story,
    begun,
    cancel,
    drive,
    fail,
    kinds,
    parallel,
    saga,
    sequence,
    start,
    step,
    succeed,
)

PAIR = saga(parallel(step("a", retry=TWICE, compensate_retry=TWICE), step("b")), step("c"))


def test_nothing_is_due_before_the_start() -> None:
    assert react(PAIR, State(SAGA)) == ()


def test_a_saga_that_was_only_started_is_due_at_once() -> None:
    story = Story(PAIR)
    story.send(start())

    assert react(PAIR, story.state) == (WakeAt(T0),)


def test_running_attempts_are_due_in_order_of_their_start() -> None:
    assert react(PAIR, begun(PAIR).state) == (
        RunStep("a", 1, EXECUTE, Outcome.SUCCEEDED),
        RunStep("b", 1, EXECUTE, Outcome.SUCCEEDED),
    )


def test_a_waiting_step_is_due_at_its_time() -> None:
    story = begun(PAIR)
    story.send(fail("a"))

    assert react(PAIR, story.state) == (
        RunStep("b", 1, EXECUTE, Outcome.SUCCEEDED),
        WakeAt(T0 + SECOND / 2),
    )


def test_the_earliest_instant_counts() -> None:
    definition = saga(parallel(step("a", retry=TWICE), step("b", retry=TWICE)), deadline=5 * SECOND)
    story = begun(definition)
    story.send(fail("a", retry_after=9 * SECOND))
    assert story.wake_at() == T0 + 5 * SECOND

    story.send(fail("b"))

    assert react(definition, story.state) == (WakeAt(T0 + SECOND / 2),)


def test_a_cancelled_saga_is_not_woken_while_an_attempt_runs() -> None:
    story = begun(saga(parallel(step("a", retry=TWICE), step("b")), deadline=5 * SECOND))
    story.send(fail("a"), cancel())

    assert story.wake_at() is None
    assert [effect.step for effect in story.due()] == ["b"]


def test_compensations_are_told_what_is_known() -> None:
    story = begun(PAIR)
    story.send(succeed("a"), succeed("b"), fail("c"))

    assert set(react(PAIR, story.state)) == {
        RunStep("a", 1, COMPENSATE, Outcome.SUCCEEDED),
        RunStep("b", 1, COMPENSATE, Outcome.SUCCEEDED),
    }


def test_a_waiting_compensation_is_due_at_its_time() -> None:
    story = begun(PAIR)
    story.send(succeed("a"), succeed("b"), fail("c"))
    story.send(succeed("b", operation=COMPENSATE), fail("a", operation=COMPENSATE))

    assert react(PAIR, story.state) == (WakeAt(T0 + SECOND / 2),)


def test_the_deadline_means_nothing_on_the_way_back() -> None:
    story = begun(saga(step("a"), step("b"), deadline=5 * SECOND))
    story.send(succeed("a"), fail("b"))

    assert story.wake_at() is None


def test_nothing_is_due_in_a_settled_saga() -> None:
    assert react(PAIR, drive(PAIR).state) == ()


def test_recovery_is_told_what_the_live_worker_was_told() -> None:
    story = begun(PAIR)
    story.send(fail("a"), succeed("b"), Wake(at=T0 + SECOND))
    live = react(PAIR, story.state)

    story.reload()

    assert react(PAIR, story.state) == live


def test_a_step_that_was_held_back_does_not_wait_for_the_retry_of_another() -> None:
    story = begun(saga(parallel(step("a", retry=TWICE), sequence(step("b"), step("c")))))
    story.send(fail("a", retry_after=9 * SECOND), succeed("b", hold=True))

    assert react(story.definition, story.state) == (WakeAt(T0),)
    assert kinds(story.send(Wake(at=T0))) == ["StepStarted c"]


def test_a_compensation_that_was_held_back_does_not_wait_for_the_retry_of_another() -> None:
    undone_late = step("a", compensate_retry=TWICE)
    story = begun(saga(parallel(undone_late, sequence(step("b"), step("c"))), step("d")))
    story.send(succeed("a"), succeed("b"), succeed("c"), fail("d"))
    story.send(fail("a", operation=COMPENSATE), succeed("c", operation=COMPENSATE, hold=True))

    assert react(story.definition, story.state) == (WakeAt(T0),)
    assert kinds(story.send(Wake(at=T0))) == ["StepCompensationStarted b"]

from eventsaga.core.answers import AnswerError
from eventsaga.core.commands import Wake
from eventsaga.core.events import CompensationStarted, StepSucceeded, TurnReason
from eventsaga.core.state import Phase, Status
from tests.core.histories import (
    COMPENSATE,
    EXECUTE,
    SECOND,
    T0,
    TWICE,
    Says,
    begun,
    drive,
    fail,
    kinds,
    parallel,
    saga,
    sequence,
    step,
    succeed,
)

PAIR = saga(parallel(step("a"), step("b")), step("c"))
WAITING_PAIR = saga(parallel(step("a", retry=TWICE), step("b")))


def test_branches_start_in_one_decision() -> None:
    assert kinds(begun(PAIR).events) == ["SagaStarted", "StepStarted a", "StepStarted b"]


def test_what_follows_a_group_waits_for_all_branches() -> None:
    story = begun(PAIR)

    assert kinds(story.send(succeed("b"))) == ["StepSucceeded b"]
    assert kinds(story.send(succeed("a"))) == ["StepSucceeded a", "StepStarted c"]


def test_branches_go_on_without_waiting_for_each_other() -> None:
    story = begun(saga(parallel(sequence(step("a"), step("b")), step("c"))))

    assert kinds(story.send(succeed("a"))) == ["StepSucceeded a", "StepStarted b"]


def test_a_failed_branch_waits_until_its_siblings_have_settled() -> None:
    story = begun(PAIR)

    assert kinds(story.send(fail("a"))) == ["StepFailed a"]
    assert story.state.status is Status.RUNNING
    assert kinds(story.send(succeed("b"))) == [
        "StepSucceeded b",
        "CompensationStarted",
        "StepCompensationStarted b",
    ]


def test_a_sibling_starts_nothing_after_another_branch_has_failed() -> None:
    story = begun(saga(parallel(step("a"), sequence(step("b"), step("c")))))
    story.send(fail("a"))

    story.send(succeed("b"))

    assert "c" not in story.state.steps


def test_a_sibling_that_fails_later_is_not_tried_again() -> None:
    story = begun(saga(parallel(step("a"), step("b", retry=TWICE))))
    story.send(fail("a"))

    assert kinds(story.send(fail("b"))) == [
        "StepFailed b",
        "CompensationStarted",
        "SagaCompensated",
    ]


def test_the_first_failure_is_the_reason() -> None:
    story = begun(saga(parallel(step("a"), step("b"))))
    story.send(fail("b"), fail("a"))

    (turned,) = story.of(CompensationStarted)
    assert (turned.because_of, turned.message) == ("b", "b declined")


def test_a_waiting_retry_never_happens_once_the_saga_goes_back() -> None:
    story = begun(WAITING_PAIR)
    story.send(fail("a"))

    assert kinds(story.send(fail("b"))) == [
        "StepFailed b",
        "CompensationStarted",
        "SagaCompensated",
    ]
    assert story.state.steps["a"].phase is Phase.FAILED
    assert story.send(Wake(at=T0 + 9 * SECOND)) == ()


def test_a_waiting_retry_does_not_hold_up_its_siblings() -> None:
    story = begun(saga(parallel(step("a", retry=TWICE), sequence(step("b"), step("c")))))
    story.send(fail("a"))

    assert kinds(story.send(succeed("b"))) == ["StepSucceeded b", "StepStarted c"]


def test_different_values_for_one_field_turn_the_saga_back_naming_steps_and_fields() -> None:
    story = begun(PAIR)
    story.send(succeed("a", {"price": 1, "place": "A", "same": 0}))

    events = story.send(succeed("b", {"price": 2, "place": "B", "same": 0, "own": 1}))

    told = "'b' and 'a' returned different values for price, place"
    assert events[0] == StepSucceeded(
        at=T0,
        step="b",
        attempt=1,
        result={"price": 2, "place": "B", "same": 0, "own": 1},
        conflict=told,
    )
    assert events[1] == CompensationStarted(
        at=T0, reason=TurnReason.CONFLICT, because_of="b", message=told
    )
    assert kinds(events[2:]) == ["StepCompensationStarted b", "StepCompensationStarted a"]


def test_a_patch_that_conflicts_is_not_applied() -> None:
    story = begun(PAIR, {"price": 0})
    story.send(succeed("a", {"price": 1}), succeed("b", {"price": 2, "own": 1}))

    assert story.state.context == {"price": 1}


def test_a_conflict_that_completes_the_steps_does_not_complete_the_saga() -> None:
    story = drive(
        saga(parallel(step("a"), step("b"))),
        {("a", EXECUTE, 1): {"x": 1}, ("b", EXECUTE, 1): {"x": 2}},
    )

    assert story.state.status is Status.COMPENSATED


def test_what_does_not_fit_beside_the_others_turns_the_saga_back() -> None:
    story = begun(PAIR, answers=Says(fit_x=AnswerError("PayloadError", "x is too long")))
    story.send(succeed("b"))

    assert kinds(story.send(succeed("a", {"x": 1}))) == [
        "StepSucceeded a",
        "CompensationStarted",
        "StepCompensationStarted b",
        "StepCompensationStarted a",
    ]
    assert story.state.context == {}
    assert story.state.turn is not None
    assert story.state.turn.message == "the result of 'a' cannot be recorded: x is too long"


def test_equal_values_for_one_field_are_no_conflict() -> None:
    story = drive(PAIR, {("a", EXECUTE, 1): {"x": 1}, ("b", EXECUTE, 1): {"x": 1, "y": 2}})

    assert story.state.status is Status.COMPLETED
    assert story.state.context == {"x": 1, "y": 2}


def test_true_and_one_are_different_values() -> None:
    story = drive(PAIR, {("a", EXECUTE, 1): {"x": 1}, ("b", EXECUTE, 1): {"x": True}})

    assert story.state.turn is not None
    assert story.state.turn.reason is TurnReason.CONFLICT


def test_true_and_one_are_different_values_at_any_depth() -> None:
    story = drive(
        PAIR, {("a", EXECUTE, 1): {"x": {"y": [1]}}, ("b", EXECUTE, 1): {"x": {"y": [True]}}}
    )

    assert story.state.turn is not None
    assert story.state.turn.reason is TurnReason.CONFLICT


def test_steps_in_sequence_may_overwrite_each_other() -> None:
    story = drive(
        saga(step("a"), step("b")), {("a", EXECUTE, 1): {"x": 1}, ("b", EXECUTE, 1): {"x": 2}}
    )

    assert story.state.context == {"x": 2}


def test_a_branch_that_returned_nothing_conflicts_with_nobody() -> None:
    story = drive(PAIR, {("b", EXECUTE, 1): {"x": 2}})

    assert story.state.status is Status.COMPLETED


def test_branches_are_compensated_at_the_same_time() -> None:
    story = begun(PAIR)
    story.send(succeed("a"), succeed("b"))

    assert kinds(story.send(fail("c"))) == [
        "StepFailed c",
        "CompensationStarted",
        "StepCompensationStarted b",
        "StepCompensationStarted a",
    ]


def test_what_stands_before_a_group_is_compensated_after_all_its_branches() -> None:
    story = begun(saga(step("a"), parallel(step("b"), step("c")), step("d")))
    story.send(succeed("a"), succeed("b"), succeed("c"), fail("d"))

    assert kinds(story.send(succeed("c", operation=COMPENSATE))) == ["StepCompensated c"]
    assert kinds(story.send(succeed("b", operation=COMPENSATE))) == [
        "StepCompensated b",
        "StepCompensationStarted a",
    ]

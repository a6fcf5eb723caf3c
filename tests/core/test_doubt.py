from eventsaga.core.events import Outcome, StepCompensationStarted, StepInDoubt
from eventsaga.core.state import Phase, Status
from tests.core.histories import (
    COMPENSATE,
    EXECUTE,
    SECOND,
    T0,
    TWICE,
    begun,
    doubt,
    drive,
    fail,
    kinds,
    saga,
    step,
    succeed,
)

TRIED_TWICE = saga(step("a", retry=TWICE))


def test_a_step_that_did_not_answer_is_tried_again_with_the_same_key() -> None:
    story = begun(TRIED_TWICE)

    assert story.send(doubt("a")) == (
        StepInDoubt(
            at=T0,
            step="a",
            attempt=1,
            operation=EXECUTE,
            error_type="TimeoutError",
            message="a did not answer",
            retry_at=T0 + SECOND / 2,
        ),
    )


def test_a_step_that_stays_in_doubt_is_compensated_as_unknown() -> None:
    story = drive(TRIED_TWICE, {("a", EXECUTE, 1): "doubt", ("a", EXECUTE, 2): "doubt"})

    assert [event.outcome for event in story.of(StepCompensationStarted)] == [Outcome.UNKNOWN]
    assert story.state.status is Status.COMPENSATED


def test_a_failure_after_a_doubt_does_not_end_the_doubt() -> None:
    """The second attempt did not happen; nobody knows about the first."""
    story = drive(TRIED_TWICE, {("a", EXECUTE, 1): "doubt", ("a", EXECUTE, 2): "fail"})

    assert [event.outcome for event in story.of(StepCompensationStarted)] == [Outcome.UNKNOWN]


def test_a_success_after_a_doubt_ends_the_doubt() -> None:
    definition = saga(step("a", retry=TWICE), step("b"))

    story = drive(definition, {("a", EXECUTE, 1): "doubt", ("b", EXECUTE, 1): "fail"})

    assert [event.outcome for event in story.of(StepCompensationStarted)] == [Outcome.SUCCEEDED]


def test_a_step_that_definitely_failed_is_not_compensated() -> None:
    story = drive(TRIED_TWICE, {("a", EXECUTE, 1): "fail", ("a", EXECUTE, 2): "fail"})

    assert story.of(StepCompensationStarted) == []
    assert story.state.steps["a"].phase is Phase.FAILED


def test_a_doubt_that_is_not_worth_another_attempt_turns_the_saga_back() -> None:
    story = begun(TRIED_TWICE)

    assert kinds(story.send(doubt("a", retryable=False))) == [
        "StepInDoubt a",
        "CompensationStarted",
        "StepCompensationStarted a",
    ]


def test_a_step_in_doubt_says_so_until_it_is_compensated() -> None:
    story = begun(saga(step("a")))
    story.send(doubt("a"))
    assert story.state.steps["a"].is_in_doubt

    story.send(succeed("a", operation=COMPENSATE))

    assert not story.state.steps["a"].is_in_doubt


def test_a_step_without_compensation_stays_in_doubt() -> None:
    story = drive(saga(step("a", compensable=False)), {("a", EXECUTE, 1): "doubt"})

    assert story.state.status is Status.COMPENSATED
    assert story.state.steps["a"].phase is Phase.IN_DOUBT
    assert story.state.steps["a"].is_in_doubt


def test_a_refused_result_is_compensated_as_unknown() -> None:
    story = begun(saga(step("a")))

    story.send(fail("a", effect_happened=True))

    assert [event.outcome for event in story.of(StepCompensationStarted)] == [Outcome.UNKNOWN]


def test_a_doubtful_compensation_is_tried_again() -> None:
    definition = saga(step("a", compensate_retry=TWICE), step("b"))

    story = drive(definition, {("b", EXECUTE, 1): "fail", ("a", COMPENSATE, 1): "doubt"})

    assert [event.attempt for event in story.of(StepCompensationStarted)] == [1, 2]
    assert story.state.status is Status.COMPENSATED


def test_a_compensation_that_stays_in_doubt_parks_the_saga() -> None:
    story = drive(
        saga(step("a"), step("b")), {("b", EXECUTE, 1): "fail", ("a", COMPENSATE, 1): "doubt"}
    )

    assert story.state.status is Status.PARKED
    assert story.state.park_message == "compensation gave up on a: a did not answer"

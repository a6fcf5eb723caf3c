from eventsaga.core.events import (
    Outcome,
    ParkReason,
    SagaParked,
    StepCompensated,
    StepCompensationFailed,
    StepCompensationStarted,
)
from eventsaga.core.state import Phase, Status
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
    parallel,
    saga,
    sequence,
    step,
    succeed,
)

CHAIN = saga(step("a"), step("b"), step("c"), step("last", compensable=False))
GONE_WRONG = {("last", EXECUTE, 1): "fail"}


def turned_back() -> Story:
    story = begun(CHAIN)
    story.send(succeed("a"), succeed("b"), succeed("c"), fail("last"))
    return story


def undo_order(story: Story) -> list[str]:
    return [event.step for event in story.of(StepCompensationStarted) if event.attempt == 1]


def test_the_intent_to_compensate_is_recorded_with_its_own_key() -> None:
    assert turned_back().events[-1] == StepCompensationStarted(
        at=T0,
        step="c",
        attempt=1,
        idempotency_key=f"{SAGA}/c/compensate",
        outcome=Outcome.SUCCEEDED,
    )


def test_steps_are_compensated_in_reverse_order() -> None:
    story = drive(CHAIN, GONE_WRONG)

    assert undo_order(story) == ["c", "b", "a"]
    assert story.state.status is Status.COMPENSATED


def test_a_compensation_and_the_intent_of_the_next_are_one_decision() -> None:
    assert kinds(turned_back().send(succeed("c", operation=COMPENSATE))) == [
        "StepCompensated c",
        "StepCompensationStarted b",
    ]


def test_the_last_compensation_ends_the_saga() -> None:
    story = turned_back()
    story.send(succeed("c", operation=COMPENSATE), succeed("b", operation=COMPENSATE))

    assert kinds(story.send(succeed("a", operation=COMPENSATE))) == [
        "StepCompensated a",
        "SagaCompensated",
    ]


def test_a_step_without_compensation_is_passed_over() -> None:
    definition = saga(step("a"), step("b", compensable=False), step("c"), step("d"))

    assert undo_order(drive(definition, {("d", EXECUTE, 1): "fail"})) == ["c", "a"]


def test_a_saga_without_compensations_goes_back_all_the_same() -> None:
    definition = saga(step("a", compensable=False), step("b"))

    story = drive(definition, {("b", EXECUTE, 1): "fail"})

    assert kinds(story.events[-2:]) == ["CompensationStarted", "SagaCompensated"]


def test_independent_branches_are_compensated_each_in_its_own_order() -> None:
    definition = saga(
        parallel(sequence(step("a1"), step("a2")), sequence(step("b1"), step("b2"))), step("c")
    )
    story = begun(definition)
    story.send(*(succeed(name) for name in ("a1", "b1", "a2", "b2")))

    assert kinds(story.send(fail("c")))[2:] == [
        "StepCompensationStarted b2",
        "StepCompensationStarted a2",
    ]
    assert kinds(story.send(succeed("a2", operation=COMPENSATE))) == [
        "StepCompensated a2",
        "StepCompensationStarted a1",
    ]


def test_a_result_of_a_compensation_is_merged_into_the_context() -> None:
    story = drive(
        CHAIN, {**GONE_WRONG, ("c", COMPENSATE, 1): {"refund": 7}}, context={"refund": None}
    )

    assert story.state.context == {"refund": 7}
    assert StepCompensated(at=T0, step="c", attempt=1, result={"refund": 7}) in story.events


def test_a_failed_compensation_is_tried_again_by_its_own_policy() -> None:
    story = begun(saga(step("a", compensate_retry=TWICE), step("b")))
    story.send(succeed("a"), fail("b"))

    assert story.send(fail("a", operation=COMPENSATE)) == (
        StepCompensationFailed(
            at=T0,
            step="a",
            attempt=1,
            error_type="DeclinedError",
            message="a declined",
            retry_at=T0 + SECOND / 2,
        ),
    )
    assert story.state.steps["a"].phase is Phase.COMPENSATION_WAITING


def test_an_exhausted_compensation_parks_the_saga_naming_the_step() -> None:
    story = drive(CHAIN, {**GONE_WRONG, ("b", COMPENSATE, 1): "fail"})

    assert story.events[-1] == SagaParked(
        at=T0,
        reason=ParkReason.COMPENSATION_FAILED,
        steps=("b",),
        message="compensation gave up on b: b declined",
        remedy=(
            "retry the compensation when its cause is mended; or undo by hand what the step left "
            "behind, and resolve it; or skip it"
        ),
    )
    assert story.state.status is Status.PARKED


def test_an_exhausted_compensation_does_not_stop_the_others() -> None:
    story = drive(CHAIN, {**GONE_WRONG, ("c", COMPENSATE, 1): "fail"})

    assert [event.step for event in story.of(StepCompensated)] == ["b", "a"]


def test_all_exhausted_compensations_are_named() -> None:
    story = drive(CHAIN, {**GONE_WRONG, ("c", COMPENSATE, 1): "fail", ("a", COMPENSATE, 1): "fail"})

    assert story.of(SagaParked)[0].steps == ("c", "a")


def test_a_permanent_failure_of_a_compensation_is_not_tried_again() -> None:
    story = drive(
        saga(step("a", compensate_retry=TWICE), step("b")),
        {("b", EXECUTE, 1): "fail", ("a", COMPENSATE, 1): "permanent"},
    )

    assert len(story.of(StepCompensationStarted)) == 1
    assert story.state.status is Status.PARKED


def test_a_redelivered_compensation_changes_nothing() -> None:
    story = turned_back()
    story.send(succeed("c", operation=COMPENSATE))

    assert story.send(succeed("c", operation=COMPENSATE)) == ()


def test_a_redelivered_result_of_the_effect_changes_nothing_on_the_way_back() -> None:
    assert turned_back().send(succeed("c")) == ()

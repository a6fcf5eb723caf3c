from eventsaga.core.commands import Wake
from eventsaga.core.decide import transition
from eventsaga.core.events import StepFailed, StepSkipped, StepStarted
from eventsaga.core.evolve import replay
from eventsaga.core.state import Phase, State, Status
from tests.core.histories import (
    BAD,
    EXECUTE,
    SAGA,
    T0,
    Says,
    begun,
    child,
    drive,
    for_each,
    kinds,
    parallel,
    pivot,
    retry,
    saga,
    sleep,
    step,
    wait,
)

MAYBE = saga(step("a"), step("b", conditional=True), step("c"))


def test_a_step_whose_condition_holds_is_run() -> None:
    story = drive(MAYBE, answers=Says(b=True))

    assert [event.step for event in story.of(StepStarted)] == ["a", "b", "c"]


def test_a_step_whose_condition_does_not_hold_is_skipped_in_the_same_append() -> None:
    story = begun(MAYBE, answers=Says(b=False))

    assert kinds(story.finish(story.due()[0], "ok")) == [
        "StepSucceeded a",
        "StepSkipped b",
        "StepStarted c",
    ]
    assert story.of(StepSkipped) == [StepSkipped(at=T0, step="b")]


def test_a_saga_of_skipped_steps_is_completed_at_once() -> None:
    story = drive(saga(step("b", conditional=True)), answers=Says(b=False))

    assert kinds(story.events) == ["SagaStarted", "StepSkipped b", "SagaCompleted"]


def test_a_condition_is_asked_once_however_often_the_step_is_tried() -> None:
    story = drive(MAYBE, {("b", EXECUTE, 1): "crash"}, answers=Says())

    assert story.answers.asked == ["b"]


def test_a_skipped_step_is_not_compensated() -> None:
    story = drive(MAYBE, {("c", EXECUTE, 1): "fail"}, answers=Says(b=False))

    assert story.state.status is Status.COMPENSATED
    assert story.state.steps["b"].phase is Phase.SKIPPED
    assert [e for e in kinds(story.events) if e.startswith("StepCompensationS")] == [
        "StepCompensationStarted a"
    ]


def test_what_stands_behind_a_skipped_step_is_compensated_first() -> None:
    definition = saga(step("a"), step("b", conditional=True), step("c"), step("d"))

    story = drive(definition, {("d", EXECUTE, 1): "fail"}, answers=Says(b=False))

    assert kinds(story.events)[-6:] == [
        "CompensationStarted",
        "StepCompensationStarted c",
        "StepCompensated c",
        "StepCompensationStarted a",
        "StepCompensated a",
        "SagaCompensated",
    ]


def test_what_stands_behind_two_skipped_branches_is_compensated_once() -> None:
    maybe = parallel(step("b", conditional=True), step("c", conditional=True))
    definition = saga(step("a"), maybe, step("d"), step("e"))

    story = drive(definition, {("e", EXECUTE, 1): "fail"}, answers=Says(b=False, c=False))

    assert kinds(story.events)[-5:] == [
        "StepCompensationStarted d",
        "StepCompensated d",
        "StepCompensationStarted a",
        "StepCompensated a",
        "SagaCompensated",
    ]


def test_every_kind_of_node_can_be_conditional() -> None:
    definition = saga(
        sleep("a", conditional=True),
        wait("b", conditional=True),
        child("c", conditional=True),
        for_each("d", conditional=True),
    )

    story = drive(definition, answers=Says(a=False, b=False, c=False, d=False))

    assert [event.step for event in story.of(StepSkipped)] == ["a", "b", "c", "d"]
    assert story.state.status is Status.COMPLETED


def test_a_skipped_branch_makes_room_for_the_next_one() -> None:
    definition = saga(parallel(step("a", conditional=True), step("b"), at_once=1))

    assert kinds(begun(definition, answers=Says(a=False)).events)[1:] == [
        "StepSkipped a",
        "StepStarted b",
    ]


def test_a_condition_that_raises_fails_the_step_before_it_was_begun() -> None:
    story = drive(MAYBE, answers=Says(b=BAD))

    assert story.of(StepFailed) == [
        StepFailed(at=T0, step="b", attempt=0, error_type="KeyError", message="'total'")
    ]
    assert story.state.status is Status.COMPENSATED


def test_a_condition_that_raises_after_the_pivot_parks_the_saga_and_is_asked_again() -> None:
    definition = saga(pivot(), step("b", conditional=True))
    story = drive(definition, answers=Says(b=BAD))
    assert story.state.status is Status.PARKED

    story.answers = Says(b=False)

    assert kinds(story.send(retry("b"))) == ["SagaRetried", "StepSkipped b", "SagaCompleted"]


def test_a_condition_of_an_item_that_raises_after_the_pivot_is_asked_again() -> None:
    definition = saga(pivot(), for_each(of=step("item", conditional=True)))
    story = drive(definition, answers=Says(**{"each[1]": BAD}))
    assert story.state.status is Status.PARKED

    story.answers = Says(**{"each[1]": False})

    assert kinds(story.send(retry())) == [
        "SagaRetried",
        "StepSkipped each[1]",
        "StepSucceeded each",
        "SagaCompleted",
    ]


def test_whatever_else_the_user_answers_may_raise_too() -> None:
    for node in (sleep(duration=None), child(), for_each()):
        story = drive(saga(step("a"), node), answers=Says(nap=BAD, child=BAD, each=BAD))

        assert [event.attempt for event in story.of(StepFailed)] == [0]
        assert story.state.status is Status.COMPENSATED


def test_what_nobody_answers_fails() -> None:
    """A worker that has the wrong code decides nothing by guessing."""
    nodes = (
        step("a", conditional=True),
        sleep(duration=None),
        child(),
        for_each(),
    )
    for node in nodes:
        state = replay(begun(saga(step("z"), node)).events[:1], State(SAGA))
        state = transition(saga(node), state, Wake(at=T0)).state

        assert state.steps[node.name].message == f"nobody is here to answer for {node.name!r}"

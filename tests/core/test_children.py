from dataclasses import replace
from uuid import UUID

import pytest

from eventsaga.core.commands import HandOver
from eventsaga.core.draft import child_id
from eventsaga.core.events import (
    ChildEnded,
    ChildStarted,
    ParkReason,
    Resolution,
    StepCompensationFailed,
    StepCompensationStarted,
    StepFailed,
    StepSucceeded,
)
from eventsaga.core.react import StartChild, WakeAt, react
from eventsaga.core.state import Phase, Status
from eventsaga.core.verbs import legal_verbs
from eventsaga.errors import IllegalCommandError
from tests.core.histories import (
    COMPENSATE,
    POISON,
    SAGA,
    T0,
    Story,
    begun,
    cancel,
    child,
    child_ended,
    fail,
    kinds,
    parallel,
    pivot,
    recover,
    resolve,
    retry,
    saga,
    sequence,
    skip,
    start,
    step,
    succeed,
)

DELIVERY = saga(step("a"), child(into="delivery"), step("b"))
COMPENSATED, FAILED = Status.COMPENSATED, Status.FAILED


def waiting() -> Story:
    story = begun(DELIVERY)
    story.send(succeed("a"))
    return story


def undoing() -> Story:
    story = waiting()
    story.send(child_ended(), fail("b"))
    return story


def test_the_intent_to_start_a_child_names_its_definition_and_its_id() -> None:
    assert waiting().of(ChildStarted) == [
        ChildStarted(
            at=T0,
            step="child",
            child_id=child_id(SAGA, "child", 1),
            saga_name="delivery",
            version=2,
            context={"for": "child"},
        )
    ]


def test_the_id_of_a_child_follows_from_its_parent_step_and_attempt() -> None:
    parent = UUID("01890000-1234-7000-8000-000000000001")

    ids = {child_id(parent, name, attempt) for name in ("a", "b") for attempt in (1, 2)}

    assert len(ids) == 4
    assert child_id(parent, "a", 1) in ids
    assert {one.bytes[:6] for one in ids} == {parent.bytes[:6]}


def test_a_child_is_started_by_whoever_owns_the_parent() -> None:
    story = waiting()
    assert react(DELIVERY, story.state) == (StartChild("child", 1),)

    story.reload()

    assert react(DELIVERY, story.state) == (StartChild("child", 1),)
    assert kinds(story.send(recover())) == ["SagaRecovered"]


def test_a_completed_child_gives_its_context() -> None:
    story = waiting()

    assert kinds(story.send(child_ended(context={"parcel": 7}))) == [
        "ChildEnded child",
        "StepSucceeded child",
        "StepStarted b",
    ]
    assert story.state.context == {"delivery": {"parcel": 7}}


def test_the_context_of_a_child_may_be_left_with_it() -> None:
    story = begun(saga(child()))
    story.send(child_ended(context={"parcel": 7}))

    assert story.state.context == {}
    assert story.of(StepSucceeded)[0].result is None


@pytest.mark.parametrize(("status", "undone"), [(COMPENSATED, "a"), (FAILED, "child")])
def test_a_child_that_did_not_complete_fails_its_step(status: Status, undone: str) -> None:
    # What a child that was given up has left behind must not pass as undone.
    story = waiting()

    assert kinds(story.send(child_ended(status=status))) == [
        "ChildEnded child",
        "StepFailed child",
        "CompensationStarted",
        f"StepCompensationStarted {undone}",
    ]
    assert story.of(StepFailed)[0].message == f"child saga is {status}: no driver"
    assert story.of(ChildEnded)[0].status == status.value


def test_a_person_says_what_a_child_behind_the_pivot_would_have_returned() -> None:
    story = begun(saga(step("a", pivot=True), child(into="delivery")))
    story.send(succeed("a"), child_ended(status=FAILED))
    assert story.state.status is Status.PARKED

    story.send(resolve("child", Resolution.SUCCEEDED, {"parcel": 7}))

    assert story.state.context == {"delivery": {"parcel": 7}}
    assert kinds(story.events)[-1] == "SagaCompleted"


def test_an_end_is_told_once() -> None:
    story = waiting()
    story.send(child_ended())

    assert story.send(child_ended()) == ()
    assert story.send(child_ended(status=COMPENSATED)) == ()


def test_the_end_of_a_stranger_means_nothing() -> None:
    assert waiting().send(child_ended(attempt=2)) == ()
    assert waiting().send(child_ended("nobody")) == ()
    assert waiting().send(child_ended("a")) == ()


def test_an_ended_parent_is_told_nothing() -> None:
    story = undoing()
    story.send(child_ended(status=COMPENSATED), succeed("a", operation=COMPENSATE))
    assert story.state.status is COMPENSATED

    assert story.send(child_ended(status=COMPENSATED)) == ()


def test_a_child_is_compensated_by_its_undo() -> None:
    story = undoing()
    (started,) = story.of(StepCompensationStarted)
    assert started.child_id == child_id(SAGA, "child", 1)
    assert react(DELIVERY, story.state) == ()

    assert kinds(story.send(child_ended(status=COMPENSATED))) == [
        "ChildEnded child",
        "StepCompensated child",
        "StepCompensationStarted a",
    ]


def test_that_it_had_completed_is_no_answer_to_an_undo() -> None:
    assert undoing().send(child_ended()) == ()


@pytest.mark.parametrize("refused", [True, False])
def test_a_child_that_is_not_undone_parks_its_parent(*, refused: bool) -> None:
    story = undoing()

    status = Status.COMPLETED if refused else FAILED
    decided = kinds(story.send(child_ended(status=status, refused=refused, message="it is late")))

    assert decided == [
        *(() if refused else ("ChildEnded child",)),
        "StepCompensationFailed child",
        "StepCompensationStarted a",
    ]
    assert story.of(StepCompensationFailed)[0].message == "it is late"
    story.send(succeed("a", operation=COMPENSATE))
    assert story.state.park_reason is ParkReason.COMPENSATION_FAILED


def test_a_child_that_is_not_undone_may_be_asked_again() -> None:
    story = undoing()
    story.send(child_ended(status=FAILED, message=""), succeed("a", operation=COMPENSATE))
    assert story.state.park_message == "compensation gave up on child: child saga is FAILED"

    assert kinds(story.send(retry("child"))) == ["SagaRetried", "StepCompensationStarted child"]
    story.send(child_ended(status=COMPENSATED))

    assert story.state.status is COMPENSATED


def test_a_refusal_before_an_undo_means_nothing() -> None:
    assert waiting().send(child_ended(refused=True)) == ()


def test_a_cancel_waits_for_the_child() -> None:
    story = waiting()
    assert kinds(story.send(cancel())) == ["SagaCancelRequested"]
    assert react(DELIVERY, story.state) == (StartChild("child", 1),)

    assert kinds(story.send(child_ended(status=COMPENSATED))) == [
        "ChildEnded child",
        "StepFailed child",
        "CompensationStarted",
        "StepCompensationStarted a",
    ]


def test_a_child_that_completed_in_spite_of_a_cancel_is_undone() -> None:
    story = waiting()
    story.send(cancel())

    assert kinds(story.send(child_ended()))[1:] == [
        "StepSucceeded child",
        "CompensationStarted",
        "StepCompensationStarted child",
    ]


def test_a_child_that_failed_after_the_pivot_parks_and_another_one_is_started() -> None:
    story = begun(saga(pivot(), child()))
    story.send(succeed("pivot"), child_ended(status=FAILED))
    assert story.state.park_reason is ParkReason.RETRIES_EXHAUSTED

    assert kinds(story.send(retry())) == ["SagaRetried", "ChildStarted child"]
    assert story.of(ChildStarted)[1].child_id == child_id(SAGA, "child", 2)
    assert story.send(child_ended(status=FAILED)) == ()
    assert kinds(story.send(child_ended(attempt=2)))[-1] == "SagaCompleted"


def test_a_child_whose_result_contradicts_after_the_pivot_is_not_started_again() -> None:
    story = begun(saga(pivot(), parallel(child(into="p"), step("a"))))
    story.send(succeed("pivot"), succeed("a", {"p": 1}), child_ended(context={"x": 1}))
    assert story.state.steps["child"].phase is Phase.STUCK

    assert "retry child" not in map(str, legal_verbs(story.definition, story.state))
    with pytest.raises(IllegalCommandError):
        story.send(retry())
    story.send(skip("child"))
    assert story.state.status is Status.COMPLETED


def test_the_children_of_a_parked_parent_are_heard() -> None:
    story = waiting()
    story.send(POISON)
    assert kinds(story.send(child_ended())) == ["ChildEnded child", "StepSucceeded child"]

    assert kinds(story.send(retry())) == ["SagaRetried", "StepStarted b"]


def test_a_step_that_was_held_back_does_not_wait_for_a_child() -> None:
    definition = saga(parallel(child(), sequence(step("b"), step("c"))))
    story = begun(definition)
    story.send(succeed("b", hold=True), HandOver(at=T0))
    story.reload()

    assert react(definition, story.state) == (StartChild("child", 1), WakeAt(T0))
    assert kinds(story.wake()) == ["StepStarted c"]


def test_a_child_that_was_found_to_have_completed_is_undone_on_the_way_back() -> None:
    story = begun(saga(pivot(), child()))
    story.send(succeed("pivot"), child_ended(status=FAILED))

    story.send(resolve("child", Resolution.SUCCEEDED))

    assert story.state.status is Status.COMPLETED


def test_a_child_knows_its_parent() -> None:
    story = Story(DELIVERY)
    story.send(replace(start(), parent_id=SAGA, parent_step="child"))

    assert (story.state.parent_id, story.state.parent_step) == (SAGA, "child")

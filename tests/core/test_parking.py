import pytest

from eventsaga.core.commands import HandOver, Park, Wake
from eventsaga.core.events import ParkReason, SagaParked
from eventsaga.core.react import react
from eventsaga.core.state import Status
from eventsaga.errors import IllegalCommandError
from tests.core.histories import (
    T0,
    Story,
    begun,
    cancel,
    drive,
    fail,
    kinds,
    parallel,
    recover,
    retry,
    saga,
    step,
    succeed,
)

PAIR = saga(parallel(step("a"), step("b")), step("c"))
PARK = Park(at=T0, reason=ParkReason.POISON, message="taken over 9 times", remedy="find out why")


def parked() -> Story:
    story = begun(PAIR)
    story.send(PARK)
    return story


def test_the_engine_parks_a_saga_naming_what_was_open() -> None:
    story = begun(PAIR)

    assert story.send(PARK) == (
        SagaParked(
            at=T0,
            reason=ParkReason.POISON,
            steps=("a", "b"),
            message="taken over 9 times",
            remedy="find out why",
        ),
    )
    assert story.state.status is Status.PARKED
    assert story.state.park_reason is ParkReason.POISON
    assert story.state.park_message == "taken over 9 times"


def test_nothing_is_due_in_a_parked_saga() -> None:
    assert react(PAIR, parked().state) == ()


def test_a_saga_is_parked_once() -> None:
    assert parked().send(PARK) == ()


def test_an_ended_saga_is_not_parked() -> None:
    assert drive(PAIR).send(PARK) == ()


def test_a_saga_is_parked_on_its_way_back_too() -> None:
    story = begun(PAIR)
    story.send(succeed("a"), fail("b"), PARK)

    assert story.of(SagaParked)[0].steps == ("a",)


def test_the_attempts_of_a_parked_saga_were_given_up() -> None:
    """Their results and their worker's end add nothing after `SagaParked`."""
    for command in (succeed("a"), fail("b"), HandOver(at=T0), Wake(at=T0), recover()):
        assert parked().send(command) == ()


def test_a_parked_saga_is_cancelled_and_what_ran_in_it_is_not_run_again() -> None:
    story = parked()

    assert kinds(story.send(cancel())) == [
        "SagaCancelRequested",
        "StepInDoubt a",
        "StepInDoubt b",
        "CompensationStarted",
        "StepCompensationStarted b",
        "StepCompensationStarted a",
    ]


def test_a_saga_that_was_parked_on_its_way_back_cannot_be_cancelled() -> None:
    story = begun(PAIR)
    story.send(succeed("a"), fail("b"), PARK)

    with pytest.raises(IllegalCommandError, match="the saga is PARKED"):
        story.send(cancel())


def test_a_retried_poison_saga_runs_its_attempts_again_under_new_numbers() -> None:
    story = parked()

    assert kinds(story.send(retry())) == [
        "SagaRetried",
        "StepInDoubt a",
        "StepInDoubt b",
        "StepStarted a",
        "StepStarted b",
    ]
    assert [effect.attempt for effect in story.due()] == [2, 2]


def test_only_ended_sagas_are_terminal() -> None:
    settled = {status for status in Status if status.is_settled}

    assert settled - {status for status in Status if status.is_terminal} == {Status.PARKED}

"""Parallel groups that admit only some of their branches at a time."""

import pytest

from eventsaga.core.events import StepCompensationStarted, StepStarted
from eventsaga.core.state import Status
from eventsaga.errors import DefinitionError
from tests.core.histories import (
    SECOND,
    T0,
    TWICE,
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

THREE = saga(parallel(sequence(step("a"), step("b")), step("c"), step("d"), at_once=2), step("e"))


def test_only_so_many_branches_are_begun() -> None:
    assert kinds(begun(THREE).events)[1:] == ["StepStarted a", "StepStarted c"]


def test_a_branch_that_goes_on_takes_no_room_of_another() -> None:
    story = begun(THREE)

    assert kinds(story.send(succeed("a"))) == ["StepSucceeded a", "StepStarted b"]


def test_a_branch_that_ends_lets_the_next_one_in() -> None:
    story = begun(THREE)

    assert kinds(story.send(succeed("c"))) == ["StepSucceeded c", "StepStarted d"]


def test_a_branch_that_waits_for_a_retry_keeps_its_room() -> None:
    definition = saga(parallel(step("a", retry=TWICE), step("b"), at_once=1))
    story = begun(definition)

    assert kinds(story.send(fail("a"))) == ["StepFailed a"]
    assert kinds(story.wake(SECOND)) == ["StepStarted a"]
    assert kinds(story.send(succeed("a", attempt=2))) == ["StepSucceeded a", "StepStarted b"]


def test_what_follows_the_group_waits_for_all_branches() -> None:
    story = drive(THREE)

    assert [event.step for event in story.of(StepStarted)] == ["a", "c", "b", "d", "e"]
    assert story.state.status is Status.COMPLETED


def test_a_failed_branch_lets_nobody_in() -> None:
    story = begun(THREE)
    story.send(fail("c"), succeed("a"))

    assert [event.step for event in story.of(StepStarted)] == ["a", "c"]
    assert [event.step for event in story.of(StepCompensationStarted)] == ["a"]


def test_limits_nest() -> None:
    inner = parallel(step("a"), step("b"), step("c"), name="inner", at_once=1)
    definition = saga(parallel(inner, step("d"), step("e"), at_once=2))
    story = begun(definition)
    assert kinds(story.events)[1:] == ["StepStarted a", "StepStarted d"]

    assert kinds(story.send(succeed("a"))) == ["StepSucceeded a", "StepStarted b"]
    assert kinds(story.send(succeed("d"))) == ["StepSucceeded d", "StepStarted e"]
    assert kinds(story.send(succeed("b"))) == ["StepSucceeded b", "StepStarted c"]


def test_a_branch_that_was_held_back_is_begun_by_the_next_worker() -> None:
    definition = saga(parallel(step("a"), step("b"), at_once=1))
    story = begun(definition)
    story.send(succeed("a", hold=True))
    story.reload()

    assert story.wake_at() == T0
    assert kinds(story.wake()) == ["StepStarted b"]


def test_a_limit_that_nobody_reaches_is_none() -> None:
    assert dict(saga(parallel(step("a"), step("b"), at_once=2)).gates) == {}


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(DefinitionError, match="'group': max_concurrency must be at least 1"):
        parallel(step("a"), at_once=0)

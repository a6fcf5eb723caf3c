from dataclasses import replace

import pytest

from eventsaga.core.definition import Hook
from eventsaga.core.events import DataRedacted, HookDelivered, HookFailed
from eventsaga.core.evolve import evolve
from eventsaga.core.react import RunHook, react
from eventsaga.core.ready import is_at_rest
from eventsaga.core.requests import HOOK_POLICY
from eventsaga.core.state import Status
from tests.core.histories import (
    EXECUTE,
    POISON,
    SECOND,
    T0,
    Script,
    Story,
    begun,
    drive,
    hook_told,
    kinds,
    recover,
    retry,
    saga,
    step,
    undo,
)

DONE, UNDONE, PARKED = Hook.ON_COMPLETED, Hook.ON_COMPENSATED, Hook.ON_PARKED
TOLD = saga(step("a"), hooks=Hook)


def parked() -> Story:
    story = begun(TOLD)
    story.send(POISON)
    return story


@pytest.mark.parametrize(("script", "hook"), [({}, DONE), ({("a", EXECUTE, 1): "fail"}, UNDONE)])
def test_a_settled_saga_owes_its_hook_until_it_is_delivered(script: Script, hook: Hook) -> None:
    story = drive(TOLD, script)
    assert react(TOLD, story.state) == (RunHook(hook, story.state.settled_seq, 1),)
    assert not is_at_rest(TOLD, story.state)

    assert story.tell(hook) == (HookDelivered(at=T0, hook=hook, attempt=1),)
    assert react(TOLD, story.state) == ()
    assert is_at_rest(TOLD, story.state)


def test_a_value_that_is_taken_out_afterwards_asks_for_nothing() -> None:
    story = drive(TOLD)
    story.tell(DONE)
    before = story.state
    redacted = DataRedacted(at=T0, path="total", reason="r", actor="bob", events={1: "00" * 32})
    after = evolve(before, redacted)

    assert replace(after, seq=before.seq, is_redacted=False) == before
    assert is_at_rest(TOLD, after)


def test_a_parked_saga_owes_a_hook_too() -> None:
    story = parked()

    assert react(TOLD, story.state) == (RunHook(PARKED, story.state.settled_seq, 1),)


def test_a_crash_forgets_no_hook() -> None:
    story = drive(TOLD)
    story.reload()
    assert story.send(recover()) == ()

    assert story.hook() == RunHook(DONE, story.state.settled_seq, 1)


def test_nobody_is_told_without_a_hook() -> None:
    story = drive(saga(step("a"), hooks=[PARKED]))

    assert react(story.definition, story.state) == ()
    assert story.tell(DONE) == ()


def test_a_hook_is_delivered_once_and_an_unowed_one_not_at_all() -> None:
    story = drive(TOLD)
    story.tell(DONE)

    assert story.tell(DONE) == ()
    assert drive(TOLD).tell(UNDONE) == ()
    assert begun(TOLD).tell(DONE) == ()


def test_a_hook_that_failed_is_tried_again_after_a_while() -> None:
    story = drive(TOLD)

    assert story.tell(DONE, failed=True) == (
        HookFailed(
            at=T0,
            hook=DONE,
            attempt=1,
            error_type="ConnectError",
            message="no answer",
            retry_at=T0 + SECOND / 2,
        ),
    )
    assert story.hook() == RunHook(DONE, story.state.settled_seq, 2, T0 + SECOND / 2)
    assert kinds(story.tell(DONE)) == ["HookDelivered"]


def test_a_hook_is_given_up_in_the_end_and_the_saga_stays_as_it_is() -> None:
    story = drive(TOLD)
    for _ in range(HOOK_POLICY.max_attempts):
        assert story.hook() is not None
        story.tell(DONE, failed=True)

    assert story.hook() is None
    assert story.of(HookFailed)[-1].retry_at is None
    assert story.state.status is Status.COMPLETED


def test_a_hook_whose_failure_is_permanent_is_given_up_at_once() -> None:
    story = drive(TOLD)
    story.tell(DONE, failed=True, retryable=False)

    assert story.hook() is None


def test_a_hook_that_kills_whoever_runs_it_is_given_up() -> None:
    story = drive(TOLD)

    (given_up,) = story.send(POISON)
    assert isinstance(given_up, HookFailed)
    assert (given_up.error_type, given_up.retry_at) == ("Poison", None)
    assert story.hook() is None
    assert story.send(POISON) == ()


def test_each_end_has_a_hook_of_its_own() -> None:
    story = drive(TOLD)
    story.tell(DONE, failed=True)
    story.send(undo())
    assert story.hook() is None

    story.go_on(lambda _: "ok")

    assert story.hook() == RunHook(UNDONE, story.state.settled_seq, 1)


def test_each_parking_is_told() -> None:
    story = parked()
    story.tell(PARKED)
    story.send(retry(), POISON)

    assert story.hook() == RunHook(PARKED, story.state.settled_seq, 1)


def test_a_hook_that_was_told_of_an_earlier_end_is_owed_still() -> None:
    story = parked()
    late = hook_told(PARKED, settled_seq=story.state.settled_seq)
    story.send(retry(), POISON)

    assert story.send(late) == ()

    assert story.hook() == RunHook(PARKED, story.state.settled_seq, 1)

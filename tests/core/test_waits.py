"""Sleeps and signals."""

import pytest

from eventsaga.core.definition import OnDoubt, OnTimeout
from eventsaga.core.events import (
    ParkReason,
    SignalAwaited,
    SignalReceived,
    StepFailed,
    StepSucceeded,
    TimerStarted,
)
from eventsaga.core.react import WakeAt, react
from eventsaga.core.state import Status
from eventsaga.errors import IllegalCommandError
from tests.core.histories import (
    POISON,
    SECOND,
    T0,
    Says,
    begun,
    cancel,
    doubt,
    fail,
    kinds,
    parallel,
    retry,
    saga,
    signal,
    sleep,
    step,
    succeed,
    wait,
)

NAP = saga(sleep(duration=10 * SECOND), step("b"))
APPROVAL = saga(step("a"), wait(timeout=10 * SECOND, into="approval"), step("b"))


# -- sleeps ---------------------------------------------------------------------------------


def test_a_sleep_is_over_at_its_time_and_not_before() -> None:
    story = begun(NAP)
    assert react(NAP, story.state) == (WakeAt(T0 + 10 * SECOND),)

    assert story.wake(9 * SECOND) == ()
    assert kinds(story.wake(SECOND)) == ["TimerFired nap", "StepSucceeded nap", "StepStarted b"]


def test_a_sleep_outlives_its_worker() -> None:
    story = begun(NAP)
    story.reload()

    assert story.wake_at() == T0 + 10 * SECOND


def test_the_end_of_a_sleep_may_be_computed() -> None:
    story = begun(saga(sleep(duration=None)), answers=Says(nap=7 * SECOND))

    assert story.of(TimerStarted) == [TimerStarted(at=T0, step="nap", fire_at=T0 + 7 * SECOND)]


def test_a_sleep_that_is_over_at_once_costs_no_append() -> None:
    assert kinds(begun(saga(sleep(duration=0 * SECOND), step("b"))).events) == [
        "SagaStarted",
        "TimerStarted nap",
        "TimerFired nap",
        "StepSucceeded nap",
        "StepStarted b",
    ]


def test_a_cancel_does_not_wait_for_a_sleep() -> None:
    story = begun(saga(step("a"), sleep(duration=10 * SECOND)))
    story.send(succeed("a"))

    assert kinds(story.send(cancel())) == [
        "SagaCancelRequested",
        "CompensationStarted",
        "StepCompensationStarted a",
    ]


def test_a_failure_beside_a_sleep_does_not_wait_for_it() -> None:
    story = begun(saga(parallel(step("a"), sleep(duration=10 * SECOND))))

    assert kinds(story.send(fail("a"))) == [
        "StepFailed a",
        "CompensationStarted",
        "SagaCompensated",
    ]


# -- signals --------------------------------------------------------------------------------


def test_a_signal_ends_the_wait_and_its_payload_is_merged() -> None:
    story = begun(APPROVAL)
    story.send(succeed("a"))
    assert story.of(SignalAwaited) == [
        SignalAwaited(at=T0, step="approval", signal="approved", timeout_at=T0 + 10 * SECOND)
    ]

    assert kinds(story.send(signal({"by": "Grace"}))) == [
        "SignalReceived",
        "StepSucceeded approval",
        "StepStarted b",
    ]
    assert story.state.context == {"approval": {"by": "Grace"}}


def test_a_signal_that_comes_before_the_wait_is_kept() -> None:
    story = begun(APPROVAL)
    assert kinds(story.send(signal({"by": "Grace"}))) == ["SignalReceived"]

    assert kinds(story.send(succeed("a"))) == [
        "StepSucceeded a",
        "SignalAwaited approval",
        "StepSucceeded approval",
        "StepStarted b",
    ]


def test_signals_are_taken_in_the_order_of_their_coming() -> None:
    story = begun(saga(wait("one", into="one"), wait("two", into="two")))
    story.send(signal({"n": 1}, number=1), signal({"n": 2}, number=2))

    assert story.state.context == {"one": {"n": 1}, "two": {"n": 2}}


def test_a_signal_ends_one_of_two_waits_for_it() -> None:
    story = begun(saga(parallel(wait("one"), wait("two"))))
    story.send(signal())

    assert [event.step for event in story.of(StepSucceeded)] == ["one"]
    assert kinds(story.send(signal(number=2)))[1:] == ["StepSucceeded two", "SagaCompleted"]


def test_a_signal_with_the_same_id_is_taken_once() -> None:
    story = begun(APPROVAL)
    story.send(signal())

    assert story.send(signal()) == ()
    assert story.send(succeed("a"), succeed("b"), signal()) == ()
    assert len(story.of(SignalReceived)) == 1


def test_only_named_fields_of_a_payload_are_merged() -> None:
    story = begun(saga(wait(fields=("by", "limit"))))

    story.send(signal({"by": "Grace", "noise": 1}))

    assert story.state.context == {"by": "Grace"}


def test_a_signal_may_carry_nothing() -> None:
    story = begun(saga(wait()))
    story.send(signal({"noise": 1}))

    assert story.of(StepSucceeded) == [StepSucceeded(at=T0, step="approval", attempt=1)]


def test_a_signal_that_nobody_waits_for_is_refused_naming_the_known_ones() -> None:
    with pytest.raises(IllegalCommandError, match=r"no such signal \(it knows: approved\)"):
        begun(APPROVAL).send(signal(name="approve"))
    with pytest.raises(IllegalCommandError, match=r"\(it knows: none\)"):
        begun(NAP).send(signal())


def test_an_ended_saga_takes_no_signal() -> None:
    story = begun(saga(wait()))
    story.send(signal())

    with pytest.raises(IllegalCommandError, match="the saga is COMPLETED"):
        story.send(signal(number=2))


def test_a_wait_that_takes_too_long_turns_the_saga_back() -> None:
    story = begun(APPROVAL)
    story.send(succeed("a"))

    assert story.wake(9 * SECOND) == ()
    assert kinds(story.wake(SECOND)) == [
        "TimerFired approval",
        "StepFailed approval",
        "CompensationStarted",
        "StepCompensationStarted a",
    ]
    assert story.of(StepFailed)[0].message == "signal 'approved' did not come within 0:00:10"


def test_a_wait_that_takes_too_long_goes_on_with_its_default() -> None:
    definition = saga(
        wait(timeout=SECOND, on_timeout=OnTimeout.CONTINUE, default={"by": "nobody"}, into="who")
    )
    story = begun(definition)
    story.wake(SECOND)

    assert story.state.status is Status.COMPLETED
    assert story.state.context == {"who": {"by": "nobody"}}


def test_without_a_default_a_wait_goes_on_with_nothing() -> None:
    story = begun(saga(wait(timeout=SECOND, on_timeout=OnTimeout.CONTINUE, fields=("by",))))
    story.wake(SECOND)

    assert story.state.status is Status.COMPLETED
    assert story.state.context == {}


def test_a_wait_that_takes_too_long_parks_the_saga_and_is_begun_again_by_a_retry() -> None:
    story = begun(saga(wait(timeout=SECOND, on_timeout=OnTimeout.PARK)))
    assert kinds(story.wake(SECOND)) == [
        "TimerFired approval",
        "StepFailed approval",
        "SagaParked",
    ]
    assert story.state.park_reason is ParkReason.SIGNAL_TIMEOUT

    assert kinds(story.send(retry(at=story.at))) == ["SagaRetried", "SignalAwaited approval"]
    assert story.wake_at() == story.at + SECOND


def test_a_signal_that_comes_too_late_is_kept_for_the_retry() -> None:
    story = begun(saga(wait(timeout=SECOND, on_timeout=OnTimeout.PARK)))
    story.wake(SECOND)
    assert kinds(story.send(signal())) == ["SignalReceived"]

    assert kinds(story.send(retry())) == [
        "SagaRetried",
        "SignalAwaited approval",
        "StepSucceeded approval",
        "SagaCompleted",
    ]


def test_a_signal_wins_over_a_timeout_that_is_noticed_at_the_same_time() -> None:
    story = begun(saga(wait(timeout=SECOND)))

    assert kinds(story.send(signal(at=T0 + 5 * SECOND))) == [
        "SignalReceived",
        "StepSucceeded approval",
        "SagaCompleted",
    ]


def test_a_signal_is_kept_while_the_saga_is_parked() -> None:
    story = begun(saga(parallel(wait(), step("b"))))
    story.send(POISON)
    assert kinds(story.send(signal())) == ["SignalReceived"]

    assert "StepSucceeded approval" in kinds(story.send(retry()))


def test_a_signal_on_the_way_back_is_kept_and_changes_nothing() -> None:
    story = begun(APPROVAL)
    story.send(succeed("a"), cancel())

    assert kinds(story.send(signal())) == ["SignalReceived"]
    assert story.state.status is Status.COMPENSATING


def test_a_wait_settles_beside_a_step_that_gave_up() -> None:
    """What was begun goes on; nothing new begins until the person has decided."""
    definition = saga(parallel(step("a", on_doubt=OnDoubt.PARK), wait("w"), step("c")), step("d"))
    story = begun(definition)
    story.send(doubt("a"))

    assert kinds(story.send(signal())) == ["SignalReceived", "StepSucceeded w"]
    assert kinds(story.send(succeed("c"))) == ["StepSucceeded c", "SagaParked"]


def test_two_branches_that_heard_different_things_contradict_each_other() -> None:
    story = begun(saga(parallel(wait("one", into="who"), wait("two", into="who"))))
    story.send(signal({"by": "Ada"}), signal({"by": "Grace"}, number=2))

    assert "different values for who" in str(story.of(StepSucceeded)[1].conflict)
    assert story.state.status is Status.COMPENSATED

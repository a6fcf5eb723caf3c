"""What follows when nobody knows, and for how long a key is good."""

import pytest

from eventsaga.core.commands import HandOver
from eventsaga.core.definition import OnDoubt, StepDefinition
from eventsaga.core.events import (
    Next,
    Operation,
    Outcome,
    ParkReason,
    StepCompensationFailed,
    StepCompensationStarted,
    StepFailed,
    StepInDoubt,
    StepStarted,
    VerificationStarted,
)
from eventsaga.core.grammar import first_violation
from eventsaga.core.react import RunStep
from eventsaga.core.state import Phase, Status
from eventsaga.errors import DefinitionError
from tests.core.histories import (
    COMPENSATE,
    SECOND,
    T0,
    TWICE,
    VERIFY,
    Story,
    begun,
    cancel,
    doubt,
    fail,
    kinds,
    parallel,
    pivot,
    recover,
    retry,
    saga,
    sequence,
    step,
    succeed,
)

NOTHING_IS_TRIED = ["SagaParked"]
GONE_BACK = ["CompensationStarted", "StepCompensationStarted a"]

# (on_doubt, how it came about) -> what follows StepInDoubt in the same append
FOLLOWS: dict[tuple[OnDoubt, str], list[str]] = {
    (OnDoubt.RETRY, "timeout"): [],
    (OnDoubt.VERIFY, "timeout"): [],
    (OnDoubt.COMPENSATE, "timeout"): GONE_BACK,
    (OnDoubt.PARK, "timeout"): NOTHING_IS_TRIED,
    (OnDoubt.RETRY, "crash"): ["StepStarted a"],
    (OnDoubt.VERIFY, "crash"): ["VerificationStarted a"],
    (OnDoubt.COMPENSATE, "crash"): GONE_BACK,
    (OnDoubt.PARK, "crash"): NOTHING_IS_TRIED,
}


def doubtful(on_doubt: OnDoubt, how: str = "timeout") -> Story:
    story = begun(saga(step("a", on_doubt=on_doubt, retry=TWICE)))
    story.send(doubt("a") if how == "timeout" else recover())
    return story


@pytest.mark.parametrize(("on_doubt", "how"), FOLLOWS)
def test_what_follows_a_doubt_is_as_the_step_says(on_doubt: OnDoubt, how: str) -> None:
    story = doubtful(on_doubt, how)

    after = kinds(story.events)
    assert after[after.index("StepInDoubt a") + 1 :] == FOLLOWS[on_doubt, how]


def test_a_retry_or_a_question_after_a_timeout_waits_by_the_policy() -> None:
    for on_doubt, started in ((OnDoubt.RETRY, "StepStarted"), (OnDoubt.VERIFY, "Verification")):
        story = doubtful(on_doubt)
        assert story.wake_at() == T0 + SECOND / 2
        assert kinds(story.wake(SECOND))[0].startswith(started)


def test_to_compensate_what_cannot_be_compensated_is_refused() -> None:
    with pytest.raises(DefinitionError, match="on_doubt='compensate' needs a compensation"):
        StepDefinition(name="a", on_doubt=OnDoubt.COMPENSATE)


def test_a_step_in_doubt_that_is_compensated_is_told_so() -> None:
    story = doubtful(OnDoubt.COMPENSATE)

    assert story.of(StepCompensationStarted)[0].outcome is Outcome.UNKNOWN


# -- asking the other side ------------------------------------------------------------------


def asked() -> Story:
    story = doubtful(OnDoubt.VERIFY, "crash")
    assert story.due() == (RunStep("a", 1, VERIFY, Outcome.UNKNOWN),)
    return story


def test_the_other_side_says_that_it_happened() -> None:
    story = asked()

    assert kinds(story.send(succeed("a", {"p": 1}, operation=VERIFY))) == [
        "StepSucceeded a",
        "SagaCompleted",
    ]
    assert story.state.context == {"p": 1}
    assert not story.state.steps["a"].doubted


def test_the_other_side_says_that_it_did_not_happen_and_it_is_sent_again() -> None:
    story = asked()

    story.send(fail("a", operation=VERIFY))

    assert story.of(StepFailed)[0].effect_happened is False
    assert not story.state.steps["a"].doubted
    assert kinds(story.wake(SECOND)) == ["StepStarted a"]
    assert [event.attempt for event in story.of(StepStarted)] == [1, 2]


def test_a_denial_of_the_last_attempt_turns_back_with_nothing_to_compensate() -> None:
    story = begun(saga(step("a", on_doubt=OnDoubt.VERIFY, retry=TWICE)))
    story.send(doubt("a"))
    story.wake(SECOND)
    story.send(fail("a", operation=VERIFY))
    story.wake(SECOND)
    story.send(fail("a", attempt=2, retryable=False))

    assert story.state.status is Status.COMPENSATED
    assert story.of(StepCompensationStarted) == []


def test_a_denial_when_no_attempt_is_left_turns_the_saga_back() -> None:
    story = begun(saga(step("a", on_doubt=OnDoubt.VERIFY)))
    story.send(recover(), fail("a", operation=VERIFY))

    assert story.state.status is Status.COMPENSATED
    assert story.of(StepCompensationStarted) == []


def test_a_denial_when_no_attempt_is_left_parks_after_the_pivot() -> None:
    story = begun(saga(pivot(), step("a", on_doubt=OnDoubt.VERIFY)))
    story.send(succeed("pivot"), recover(), fail("a", operation=VERIFY))

    assert story.state.park_reason is ParkReason.RETRIES_EXHAUSTED


def test_the_other_side_does_not_know_and_is_asked_again() -> None:
    story = asked()

    story.send(doubt("a", operation=VERIFY))

    assert story.of(StepInDoubt)[-1].then is Next.VERIFY
    assert kinds(story.wake(SECOND)) == ["VerificationStarted a"]
    assert len(story.of(StepStarted)) == 1


def test_a_question_that_is_never_answered_parks_the_saga() -> None:
    story = asked()
    story.send(doubt("a", operation=VERIFY))
    story.wake(SECOND)
    story.send(doubt("a", operation=VERIFY))

    assert story.state.status is Status.PARKED
    assert story.state.park_reason is ParkReason.IN_DOUBT


def test_a_question_that_is_cut_short_is_asked_again_and_spends_nothing() -> None:
    story = asked()
    for _ in range(5):
        assert kinds(story.send(recover()))[1:] == ["StepInDoubt a", "VerificationStarted a"]

    assert story.state.steps["a"].spent == 0
    assert len(story.of(VerificationStarted)) == 6


def test_a_cancel_waits_for_the_answer() -> None:
    story = asked()
    assert kinds(story.send(cancel())) == ["SagaCancelRequested"]

    assert kinds(story.send(fail("a", operation=VERIFY)))[:2] == [
        "StepFailed a",
        "CompensationStarted",
    ]
    assert story.of(StepCompensationStarted) == []


def test_on_the_way_back_nobody_is_asked() -> None:
    story = begun(saga(parallel(step("a", on_doubt=OnDoubt.VERIFY, retry=TWICE), step("b"))))
    story.send(fail("b"), recover())

    assert story.of(VerificationStarted) == []
    assert [event.outcome for event in story.of(StepCompensationStarted)] == [Outcome.UNKNOWN]


def test_a_timeout_on_the_way_back_is_compensated_or_parked_as_the_step_says() -> None:
    for on_doubt in OnDoubt:
        story = begun(saga(parallel(step("a", on_doubt=on_doubt, retry=TWICE), step("b"))))
        story.send(fail("b"), doubt("a"))

        parks = on_doubt is OnDoubt.PARK
        assert story.state.status is (Status.PARKED if parks else Status.COMPENSATING)


def test_a_late_answer_of_the_attempt_that_is_asked_about_is_too_late() -> None:
    assert asked().send(succeed("a")) == ()


# -- how long a key is good -----------------------------------------------------------------

SHORT = step("a", key_ttl=10 * SECOND, retry=TWICE, compensate_retry=TWICE)


def test_a_step_in_doubt_is_sent_again_while_its_key_is_good() -> None:
    story = begun(saga(SHORT))

    assert kinds(story.send(recover(T0 + 10 * SECOND)))[-1] == "StepStarted a"


def test_a_step_in_doubt_with_a_dead_key_is_parked_and_never_sent_again() -> None:
    story = begun(saga(SHORT))

    assert kinds(story.send(recover(T0 + 11 * SECOND))) == [
        "SagaRecovered",
        "StepInDoubt a",
        "StepInDoubt a",
        "SagaParked",
    ]
    assert story.of(StepInDoubt)[-1].error_type == "KeyExpired"
    assert story.state.park_reason is ParkReason.IN_DOUBT
    assert first_violation(story.events) is None


def test_a_step_that_definitely_failed_does_not_care_for_the_age_of_its_key() -> None:
    story = begun(saga(SHORT))
    story.send(fail("a", retry_after=60 * SECOND))

    assert kinds(story.wake(60 * SECOND)) == ["StepStarted a"]


def test_a_person_may_send_a_dead_key_again_and_then_it_is_good_for_as_long() -> None:
    story = begun(saga(SHORT))
    story.send(recover(T0 + 11 * SECOND))

    assert kinds(story.send(retry(at=T0 + 20 * SECOND))) == ["SagaRetried", "StepStarted a"]
    assert kinds(story.send(recover(T0 + 29 * SECOND)))[-1] == "StepStarted a"
    assert kinds(story.send(recover(T0 + 31 * SECOND)))[-1] == "SagaParked"


def test_a_compensation_in_doubt_with_a_dead_key_is_given_up() -> None:
    story = begun(saga(SHORT, step("b")))
    story.send(succeed("a"), fail("b"))

    assert kinds(story.send(recover(T0 + 11 * SECOND))) == [
        "SagaRecovered",
        "StepInDoubt a",
        "StepCompensationFailed a",
        "SagaParked",
    ]
    assert story.of(StepCompensationFailed)[0].error_type == "KeyExpired"
    story.send(retry(at=T0 + 20 * SECOND))
    assert [effect.operation for effect in story.due()] == [COMPENSATE]


def test_a_compensation_that_failed_does_not_care_for_the_age_of_its_key() -> None:
    story = begun(saga(SHORT, step("b")))
    story.send(succeed("a"), fail("b"), fail("a", operation=COMPENSATE, retry_after=60 * SECOND))

    assert kinds(story.wake(60 * SECOND)) == ["StepCompensationStarted a"]


def test_a_compensation_that_is_given_up_does_not_hold_up_the_others() -> None:
    definition = saga(parallel(sequence(step("x"), SHORT), step("y")), step("z"))
    story = begun(definition)
    story.send(succeed("x"), succeed("a"), succeed("y"), fail("z"))
    story.send(doubt("a", operation=COMPENSATE))

    decided = story.send(succeed("y", operation=COMPENSATE, at=T0 + 30 * SECOND))

    assert kinds(decided) == [
        "StepCompensated y",
        "StepCompensationFailed a",
        "StepCompensationStarted x",
    ]


def test_a_worker_that_stops_gives_up_no_compensation() -> None:
    story = begun(saga(parallel(SHORT, step("y")), step("z")))
    story.send(succeed("a"), succeed("y"), fail("z"), doubt("a", operation=COMPENSATE))

    late = T0 + 30 * SECOND
    assert kinds(story.send(succeed("y", operation=COMPENSATE, at=late, hold=True))) == [
        "StepCompensated y"
    ]


def test_a_key_is_good_for_some_time() -> None:
    with pytest.raises(DefinitionError, match="key_ttl must be positive"):
        step("a", key_ttl=0 * SECOND)


# -- transactional steps --------------------------------------------------------------------

ATOMIC = saga(step("a", transactional=True), step("b"))


def test_a_transaction_that_died_with_its_process_did_not_happen() -> None:
    story = begun(ATOMIC)

    assert kinds(story.send(recover())) == ["SagaRecovered", "StepFailed a", "StepStarted a"]
    failed = story.of(StepFailed)[0]
    assert failed.interrupted
    assert failed.retry_at == T0
    assert story.state.steps["a"].spent == 0
    assert not story.state.steps["a"].doubted


def test_a_transaction_that_died_on_the_way_back_has_nothing_to_compensate() -> None:
    story = begun(saga(parallel(step("a", transactional=True), step("b"))))
    story.send(fail("b"), recover())

    assert story.state.steps["a"].phase is Phase.FAILED
    assert story.state.status is Status.COMPENSATED


def test_a_compensating_transaction_that_died_is_tried_again_without_a_doubt() -> None:
    story = begun(ATOMIC)
    story.send(succeed("a"), fail("b"))

    for _ in range(3):
        assert kinds(story.send(HandOver(at=T0))) == ["StepCompensationFailed a"]
        assert kinds(story.wake()) == ["StepCompensationStarted a"]

    assert story.of(StepCompensationFailed)[0].interrupted
    assert story.of(StepInDoubt) == []
    assert story.state.steps["a"].undo_spent == 0


def test_a_transaction_that_the_database_refused_spends_nothing() -> None:
    story = begun(ATOMIC)
    for attempt in (1, 2, 3):
        story.send(fail("a", attempt=attempt, interrupted=True, retry_after=SECOND, at=story.at))
        assert kinds(story.wake(SECOND)) == ["StepStarted a"]

    story.send(succeed("a", attempt=4), fail("b"))
    for attempt in (1, 2):
        again = fail("a", attempt=attempt, operation=COMPENSATE, interrupted=True, at=story.at)
        assert kinds(story.send(again))[1:] == ["StepCompensationStarted a"]
    assert story.state.status is Status.COMPENSATING
    assert Operation.COMPENSATE in {effect.operation for effect in story.due()}

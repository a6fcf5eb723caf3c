import math
from datetime import timedelta

import pytest

from eventsaga.core.definition import RetryPolicy
from eventsaga.core.events import StepFailed, StepStarted
from eventsaga.errors import DefinitionError
from tests.core.histories import SECOND, T0, begun, fail, saga, step

NEARLY_ONE = math.nextafter(1.0, 0.0)


def test_the_bound_of_the_wait_doubles() -> None:
    policy = RetryPolicy(max_attempts=5)

    waits = [policy.wait_after(spent, 0.5) for spent in (1, 2, 3, 4)]

    assert waits == [SECOND / 2, SECOND, 2 * SECOND, 4 * SECOND]


def test_the_wait_lies_anywhere_between_nothing_and_the_bound() -> None:
    policy = RetryPolicy(delay=4 * SECOND)

    assert policy.wait_after(1, 0.0) == timedelta(0)
    assert policy.wait_after(1, NEARLY_ONE) == 4 * SECOND


def test_no_attempt_is_left_when_all_are_spent() -> None:
    policy = RetryPolicy(max_attempts=2)

    assert policy.wait_after(1, 0.5) is not None
    assert policy.wait_after(2, 0.5) is None
    assert policy.wait_after(3, 0.5) is None


def test_no_wait_is_longer_than_the_longest() -> None:
    policy = RetryPolicy(max_attempts=100, max_delay=3 * SECOND)

    assert policy.wait_after(99, NEARLY_ONE) == 3 * SECOND


@pytest.mark.parametrize("multiplier", [10**6, 1e300])
def test_growth_beyond_all_numbers_ends_at_the_longest_wait(multiplier: float) -> None:
    policy = RetryPolicy(max_attempts=10**9, multiplier=multiplier)

    assert policy.wait_after(10**9 - 1, 0.5) == timedelta(seconds=30)


def test_no_delay_stays_none_however_it_grows() -> None:
    policy = RetryPolicy(max_attempts=100, delay=timedelta(0), multiplier=1e300)

    assert policy.wait_after(99, 0.5) == timedelta(0)


@pytest.mark.parametrize("attempts", [0, -1])
def test_fewer_attempts_than_one_are_refused(attempts: int) -> None:
    with pytest.raises(DefinitionError, match="max_attempts must be at least 1"):
        RetryPolicy(max_attempts=attempts)


def test_negative_waits_are_refused() -> None:
    with pytest.raises(DefinitionError, match="must not be negative"):
        RetryPolicy(delay=-SECOND)
    with pytest.raises(DefinitionError, match="must not be negative"):
        RetryPolicy(max_delay=-SECOND)


@pytest.mark.parametrize("multiplier", [0.5, math.nan, math.inf])
def test_a_multiplier_that_shrinks_or_is_no_number_is_refused(multiplier: float) -> None:
    with pytest.raises(DefinitionError, match="multiplier must be at least 1"):
        RetryPolicy(multiplier=multiplier)


def test_a_failed_attempt_is_tried_again_after_the_policys_wait() -> None:
    story = begun(saga(step("a", retry=RetryPolicy(max_attempts=2))))

    (failed,) = story.send(fail("a"))

    assert isinstance(failed, StepFailed)
    assert failed.retry_at == T0 + SECOND / 2
    assert story.wake_at() == failed.retry_at


def test_a_step_that_says_when_is_taken_at_its_word() -> None:
    story = begun(saga(step("a", retry=RetryPolicy(max_attempts=2))))

    (failed,) = story.send(fail("a", retry_after=timedelta(hours=1)))

    assert isinstance(failed, StepFailed)
    assert failed.retry_at == T0 + timedelta(hours=1)


def test_a_wait_that_ended_before_it_began_is_over_at_once() -> None:
    story = begun(saga(step("a", retry=RetryPolicy(max_attempts=2))))

    failed, started = story.send(fail("a", retry_after=-SECOND))

    assert isinstance(failed, StepFailed)
    assert failed.retry_at == T0
    assert isinstance(started, StepStarted)
    assert started.attempt == 2


def test_the_word_of_a_step_does_not_add_attempts() -> None:
    story = begun(saga(step("a", retry=RetryPolicy(max_attempts=1))))

    failed, *_ = story.send(fail("a", retry_after=SECOND))

    assert isinstance(failed, StepFailed)
    assert failed.retry_at is None


def test_a_wait_beyond_all_calendars_is_long() -> None:
    """A participant may ask to come back in the year 9999 and later."""
    story = begun(saga(step("a", retry=RetryPolicy(max_attempts=2))))

    (failed,) = story.send(fail("a", retry_after=timedelta.max))

    assert isinstance(failed, StepFailed)
    assert failed.retry_at is not None
    assert failed.retry_at.year > T0.year + 90


def test_waits_that_stay_the_same_or_are_none_are_taken() -> None:
    assert RetryPolicy(multiplier=1).wait_after(2, 0.5) == SECOND / 2
    assert RetryPolicy(max_delay=timedelta(0)).wait_after(1, 0.5) == timedelta(0)

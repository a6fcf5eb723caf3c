"""Does the explorer find what is wrong, and only that?"""

import pytest

from eventsaga import Saga, Status, Step
from eventsaga.testing import Fault, InvariantBrokenError, Simulated, explore
from tests.testing.sagas import ORDER, TWICE, Order, never, undoable


def nothing_half_done(end: Simulated) -> bool:
    """Charged if and only if shipped."""
    return end.stands("charge") == end.stands("ship")


def test_a_sound_saga_stands_every_single_fault() -> None:
    explored = explore(ORDER, Order(), nothing_half_done)

    faults = 4 * len(Fault)  # four attempts
    assert explored.runs > 1 + faults
    assert sum(explored.statuses.values()) == explored.runs
    assert set(explored.statuses) == {Status.COMPLETED, Status.COMPENSATED}


def test_two_faults_can_park_it_and_the_shortest_history_is_told() -> None:
    def never_parked(end: Simulated) -> None:
        assert end.status is not Status.PARKED, "a person is needed"

    with pytest.raises(InvariantBrokenError, match="a person is needed") as broken:
        explore(ORDER, Order(), never_parked, faults=2)

    error = broken.value
    assert len(error.faults) == 2
    assert error.simulated.status is Status.PARKED
    assert "compensate  failed" in str(error)
    assert error.runs > 100


def test_a_missing_compensation_is_found() -> None:
    forgetful = Saga(
        "forgetful", context=Order, steps=[Step("charge", never), undoable("ship", retry=TWICE)]
    )

    with pytest.raises(InvariantBrokenError) as broken:
        explore(forgetful, Order(), nothing_half_done)

    assert broken.value.faults == ("attempt 2 fails",)
    assert "Charged if and only if shipped." in str(broken.value)


def test_a_participant_that_ignores_keys_is_found() -> None:
    def charged_once(end: Simulated) -> bool:
        requests = [(effect.step, effect.operation) for effect in end.effects]
        return requests.count(("charge", "execute")) <= 1

    explore(ORDER, Order(), charged_once)
    with pytest.raises(InvariantBrokenError, match="charge"):
        explore(ORDER, Order(), charged_once, honest=False)


def test_faults_are_at_most_two() -> None:
    with pytest.raises(ValueError, match="0, 1 or 2"):
        explore(ORDER, Order(), nothing_half_done, faults=3)

"""Which faults are put where?"""

from eventsaga.drill import Boundary, Case, Mode
from eventsaga.drill.plan import Point, cases

COMMIT = Boundary(1, "before_append", "StepStarted/charge", 1, back=False)
EFFECT = Boundary(2, "after_effect", "execute/charge", 2, back=False)


def places(found: list[Case]) -> list[tuple[str, str]]:
    return [(case.fault.place, case.fault.action) for case in found]


def test_each_mode_strikes_at_each_boundary() -> None:
    assert places(cases([COMMIT, EFFECT], [Mode.KILL, Mode.PAUSE])) == [
        ("before_append", "kill9"),
        ("after_effect", "kill9"),
        ("before_append", "stop"),
        ("after_effect", "stop"),
    ]


def test_a_mode_that_is_asked_for_twice_is_tried_once() -> None:
    found = cases([COMMIT], [Mode.KILL, Mode.KILL])

    assert [case.number for case in found] == [1]


def test_only_commits_are_lost_on_their_way_or_under_way() -> None:
    assert places(cases([COMMIT, EFFECT], [Mode.COMMIT_LOST])) == [
        ("during_append", "error"),
        ("before_append", "error"),
    ]


def test_the_second_worker_dies_somewhere_else_each_time() -> None:
    seconds = [case.second for case in cases([COMMIT] * 5, [Mode.DOUBLE])]

    assert len({second.place for second in seconds if second is not None}) == 4
    assert seconds[4] == seconds[0]


def test_the_fault_strikes_at_the_same_passing_as_in_the_clean_run() -> None:
    (case,) = cases([EFFECT], [Mode.KILL])

    assert case.fault == Point("after_effect", "kill9", "execute/charge", at=2)

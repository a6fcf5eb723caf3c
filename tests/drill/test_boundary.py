"""Are the boundaries of a run those that it passed, and are they found again?"""

from eventsaga.drill.boundary import Boundary, Passing, boundaries, cut_of

START = Passing("before_append", "StepStarted/charge")
CHARGE = Passing("before_effect", "execute/charge")
CHARGED = Passing("before_append", "StepSucceeded/charge StepStarted/ship")
SHIP = Passing("before_effect", "execute/ship")
RUN = [Passing("before_renew", ""), START, Passing("during_append", START.text), CHARGE, CHARGED]


def test_polls_heartbeats_and_what_is_under_way_make_no_boundary() -> None:
    assert [one.title for one in boundaries(RUN)] == [
        "before commit: charge started",
        "before doing charge",
        "before commit: charge succeeded, ship started",
    ]


def test_a_place_that_is_passed_again_is_told_apart_by_its_number() -> None:
    assert [one.nth for one in boundaries([CHARGE, SHIP, CHARGE])] == [1, 1, 2]


def test_an_armed_text_is_counted_as_the_failpoint_counts_it() -> None:
    """It strikes where its text is a part of what is passed, such as ``s`` in ``ship``."""
    part = Passing("before_effect", "execute/s")

    assert boundaries([SHIP, part])[-1].nth == 2


def test_the_way_back_begins_where_the_saga_was_held() -> None:
    back = boundaries(RUN, first=10, back=True, after=4)

    assert [(one.number, one.title) for one in back] == [
        (11, "before commit: charge succeeded, ship started")
    ]


def test_a_boundary_can_be_armed_by_the_variable() -> None:
    assert Boundary(1, CHARGE.place, CHARGE.text, 2, back=False).point == (
        "before_effect[execute/charge]@2"
    )


def test_a_saga_is_cancelled_at_its_last_effect() -> None:
    assert cut_of([CHARGE, SHIP], ["charge", "ship"], pivot=None) == (SHIP, 1)


def test_a_saga_is_cancelled_before_its_pivot_and_never_in_a_child() -> None:
    child = Passing("before_effect", "execute/of_a_child")

    assert cut_of([CHARGE, child, SHIP], ["charge", "ship"], pivot="ship") == (CHARGE, 1)
    assert cut_of([SHIP], ["ship"], pivot="ship") is None

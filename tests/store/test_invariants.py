"""Is each invariant named when a history breaks it, and none when all is well?"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings

from eventsaga.core.events import (
    CompensationStarted,
    Outcome,
    ParkReason,
    SagaCancelRequested,
    SagaCompensated,
    SagaCompleted,
    SagaEvent,
    SagaFailed,
    SagaParked,
    SagaRecovered,
    StepCompensated,
    StepCompensationFailed,
    StepCompensationStarted,
    StepFailed,
    StepStarted,
    TurnReason,
)
from eventsaga.core.graph import SagaDefinition
from eventsaga.store.examine import EventRecord, SagaRecord
from eventsaga.store.invariants import (
    INVARIANTS,
    How,
    Told,
    judge,
    judge_history,
    known_definitions,
)
from tests.core.histories import (
    COMPENSATE,
    EXECUTE,
    ONCE,
    OTHER_WORKER,
    SAGA,
    T0,
    TWICE,
    WORKER,
    Script,
    begun,
    drive,
    recover,
    saga,
    step,
    wait,
)
from tests.core.plots import Player, Plot, played, plots
from tests.store.rows import (
    CHAIN,
    COMPLETED,
    CRASHED,
    GROUPED,
    GROUPED_SAGA,
    PARENT,
    PAST_THE_PIVOT,
    PIVOTED,
    RESOLVED,
    RETRIED,
    REVOKED,
    SKIPPED,
    STUCK,
    UNDONE,
    Events,
    at,
    judged,
    known,
    named,
    records_of,
    row_of,
)

BOUNDED = settings(
    max_examples=100,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)


@BOUNDED
@given(plots())
def test_no_beginning_of_any_story_breaks_an_invariant(plot: Plot) -> None:
    """Crashes, verbs, groups, children, pivots, doubt: the store may be read at any time."""
    for story in Player(plot).play():
        told = Told(SAGA, story.events, known=known(plot.definition))
        assert judge_history(told) == []


@BOUNDED
@given(plots())
def test_the_rows_of_any_story_are_in_order(plot: Plot) -> None:
    assert judged(plot.definition, played(plot).events) == []


STORIES = {
    "recovered": CRASHED,
    "a compensation retried by a person": RETRIED,
    "a compensation done by hand": RESOLVED,
    "a compensation skipped": SKIPPED,
    "undone on request": REVOKED,
    "groups": GROUPED,
    "a child undone": PARENT,
    "parked": drive(CHAIN, {("c", EXECUTE, 1): "fail", ("a", COMPENSATE, 1): "fail"}),
    "past its pivot": drive(PIVOTED, {("c", EXECUTE, 1): "doubt"}),
    "waiting": drive(saga(step("a"), wait())),
}


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_stories_of_many_shapes_are_in_order(story: Any) -> None:
    assert judged(story.definition, story.events) == []


# -- what is broken is named, and nothing else


def without(events: Events, kind: type[SagaEvent], about: str = "") -> list[SagaEvent]:
    index = at(events, kind, about)
    return [*events[:index], *events[index + 1 :]]


def changed(
    events: Events, kind: type[SagaEvent], about: str = "", **changes: Any
) -> list[SagaEvent]:
    index = at(events, kind, about)
    return [*events[:index], replace(events[index], **changes), *events[index + 1 :]]


def swapped(events: Events, one: str, other: str) -> list[SagaEvent]:
    names = {one: other, other: one}
    return [
        replace(event, step=names.get(event.step, event.step))
        if isinstance(event, StepCompensationStarted | StepCompensationFailed | StepCompensated)
        else event
        for event in events
    ]


def started(name: str, attempt: int = 1) -> StepStarted:
    return StepStarted(at=T0, step=name, attempt=attempt, idempotency_key=f"{SAGA}/{name}")


def undoing(name: str, attempt: int = 1) -> StepCompensationStarted:
    return StepCompensationStarted(
        at=T0,
        step=name,
        attempt=attempt,
        idempotency_key=f"{SAGA}/{name}/compensate",
        outcome=Outcome.SUCCEEDED,
    )


AGAIN_SAGA = saga(step("a", retry=TWICE))
AGAIN = drive(AGAIN_SAGA, {("a", EXECUTE, 1): "fail"}).events
END = SagaCompensated(at=T0)
CANCELLED = SagaCancelRequested(at=T0, reason="r", actor="ada")
TURN = CompensationStarted(at=T0, reason=TurnReason.CANCELLED, message="m")
REVERSED = swapped(drive(CHAIN, {("c", EXECUTE, 1): "fail"}).events, "a", "b")
ALONE = saga(step("a"))
IN_DOUBT = [*drive(ALONE, {("a", EXECUTE, 1): "doubt"}).events[:-3], END]
GROUPS_SWAPPED = swapped(GROUPED.events, "first", "right")
ITEMS_SWAPPED = swapped(GROUPED.events, "left", "each[0]")
TURNED = [*COMPLETED[:3], CANCELLED]

# Name, definition, events, the part that can be folded, what is named.
Case = tuple[SagaDefinition, Events, Events, tuple[int, int | None]]
BROKEN: dict[str, Case] = {
    "two beginnings": (CHAIN, [*COMPLETED[:1], *COMPLETED], COMPLETED, (2, 2)),
    "a step that does not stand in the definition": (
        CHAIN,
        [*COMPLETED[:1], started("z")],
        [*COMPLETED[:1], started("z")],
        (2, 2),
    ),
    "the key changed on a retry": (
        AGAIN_SAGA,
        changed(AGAIN[::-1], StepStarted, idempotency_key="another")[::-1],
        AGAIN,
        (7, 4),
    ),
    "an undo has the key of the effect": (
        CHAIN,
        changed(UNDONE, StepCompensationStarted, "a", idempotency_key=f"{SAGA}/a"),
        UNDONE,
        (7, at(UNDONE, StepCompensationStarted, "a") + 1),
    ),
    "a step begins after the compensation began": (
        CHAIN,
        [*UNDONE[: at(UNDONE, CompensationStarted) + 1], started("c", 2)],
        UNDONE,
        (10, at(UNDONE, CompensationStarted) + 2),
    ),
    "a step begins after a cancel": (CHAIN, [*TURNED, started("b")], TURNED, (10, 5)),
    "a cancel after the pivot": (
        PIVOTED,
        [*PAST_THE_PIVOT[:5], CANCELLED],
        PAST_THE_PIVOT[:5],
        (10, 6),
    ),
    "completed without a step": (
        CHAIN,
        [*COMPLETED[:5], SagaCompleted(at=T0)],
        [*COMPLETED[:5], SagaCompleted(at=T0)],
        (11, 6),
    ),
    "compensated, and a step is left": (
        CHAIN,
        [*UNDONE[: at(UNDONE, StepCompensationStarted, "a")], END],
        [*UNDONE[: at(UNDONE, StepCompensationStarted, "a")], END],
        (11, at(UNDONE, StepCompensationStarted, "a") + 1),
    ),
    "compensated, and what is in doubt is left": (
        ALONE,
        IN_DOUBT,
        IN_DOUBT,
        (11, len(IN_DOUBT)),
    ),
    "undone in the wrong order": (
        CHAIN,
        REVERSED,
        REVERSED,
        (12, at(REVERSED, StepCompensationStarted, "a") + 1),
    ),
    "undone before its own branch": (
        GROUPED_SAGA,
        GROUPS_SWAPPED,
        GROUPS_SWAPPED,
        (12, at(GROUPS_SWAPPED, StepCompensationStarted, "first") + 1),
    ),
    "undone twice": (CHAIN, [*UNDONE[:-1], undoing("a", 2)], UNDONE, (13, len(UNDONE))),
    "undone before the saga goes back": (
        CHAIN,
        [*COMPLETED[:3], undoing("a")],
        COMPLETED,
        (13, 4),
    ),
    "undone without a start": (
        CHAIN,
        [*TURNED, TURN, undoing("c")],
        [*TURNED, TURN],
        (13, 6),
    ),
    "compensated although a compensation was given up": (
        CHAIN,
        [*STUCK[:-1], END],
        STUCK,
        (18, len(STUCK)),
    ),
    "parked without a remedy": (
        CHAIN,
        changed(STUCK, SagaParked, remedy=""),
        STUCK,
        (18, len(STUCK)),
    ),
    "parked for another step": (
        CHAIN,
        changed(STUCK, SagaParked, steps=("b",)),
        STUCK,
        (18, len(STUCK)),
    ),
    "given up without naming what is left": (
        CHAIN,
        [*STUCK, SagaFailed(at=T0, uncompensated=(), reason="r", actor="ada")],
        [*STUCK, SagaFailed(at=T0, uncompensated=(), reason="r", actor="ada")],
        (18, len(STUCK) + 1),
    ),
}


@pytest.mark.parametrize("case", BROKEN.values(), ids=BROKEN)
def test_a_broken_history_is_named(case: Case) -> None:
    definition, events, believed, expected = case

    assert named(judged(definition, events, believed=believed)) == [expected]


def test_an_attempt_too_many_is_named() -> None:
    """By the policy that the saga has now, which is another one than that of its history."""
    many = saga(step("a", retry=TWICE), step("b"))
    events = drive(many, {("a", EXECUTE, 1): "fail"}).events
    few = saga(step("a", retry=ONCE), step("b"))
    (violation,) = judged(few, events)
    assert (violation.invariant, violation.seq) == (17, 5)
    assert "2 attempts to execute step 'a', 1 allowed" in violation.message


def test_attempts_of_a_recorded_shape_are_not_judged() -> None:
    """A shape has no policies."""
    definition = saga(step("a", retry=replace(TWICE, max_attempts=9)), step("b"))
    script: Script = {("a", EXECUTE, number): "fail" for number in range(1, 9)}
    events = drive(definition, script).events
    key = (definition.name, definition.version, definition.fingerprint)
    shapes = known_definitions({key: definition.shape()})
    assert not shapes[key].has_policies
    records = records_of(events, lambda _seq: WORKER)
    assert judge(SAGA, row_of(events, records[-1].hash), records, known=shapes) == []


def test_a_saga_that_is_taken_over_again_and_again_is_named() -> None:
    story = begun(CHAIN)
    for _ in range(3):
        story.send(recover())

    assert judged(CHAIN, story.events, most_takeovers=3) == []
    (violation,) = judged(CHAIN, story.events, most_takeovers=2)
    assert violation.invariant == 17
    assert "3 times" in violation.message


def test_an_intruder_is_named() -> None:
    """A worker that lost the saga writes while another one runs it."""

    def intruding(seq: int) -> UUID:
        return OTHER_WORKER if seq == 3 else WORKER

    assert named(judged(CHAIN, COMPLETED, worker_of=intruding)) == [(14, 3)]


def changing_hands(first: int, seq: int) -> UUID:
    """Return who wrote an event, if another worker wrote all from *first* on."""
    return OTHER_WORKER if seq >= first else WORKER


def test_a_takeover_that_another_one_wrote_is_named() -> None:
    taken = at(CRASHED.events, SagaRecovered) + 1
    late = partial(changing_hands, taken + 1)

    assert named(judged(CHAIN, CRASHED.events, worker_of=late)) == [(14, taken)]


def test_a_takeover_and_a_poisoned_saga_change_hands() -> None:
    taken = at(CRASHED.events, SagaRecovered) + 1
    poisoned = [
        *COMPLETED[:2],
        SagaParked(at=T0, reason=ParkReason.POISON, steps=("a",), message="m", remedy="r"),
    ]

    assert judged(CHAIN, CRASHED.events, worker_of=partial(changing_hands, taken)) == []
    assert judged(CHAIN, poisoned, worker_of=partial(changing_hands, 3)) == []


def test_a_saga_that_slept_changes_hands_without_an_event() -> None:
    definition = saga(step("a", retry=TWICE))
    events = drive(definition, {("a", EXECUTE, 1): "fail"}).events
    woken = partial(changing_hands, at(events, StepFailed) + 2)

    assert judged(definition, events, worker_of=woken) == []


Change = Callable[[SagaRecord, list[EventRecord]], tuple[SagaRecord, list[EventRecord]]]
ROWS: dict[str, tuple[Change, set[tuple[int, int | None]]]] = {
    "its row counts one more": (
        lambda row, all_: (row._replace(last_seq=9), all_),
        {(1, 9)},
    ),
    "its status is another": (
        lambda row, all_: (row._replace(status="FAILED"), all_),
        {(3, None)},
    ),
    "an event was edited": (
        lambda row, all_: (row, [*all_[:4], all_[4]._replace(salt=b"x"), *all_[5:]]),
        {(19, 5)},
    ),
    "what was tampered with is not judged by what it says": (
        lambda row, all_: (row, [*all_[:4], all_[4]._replace(type="StepCompensated"), *all_[5:]]),
        {(2, 5), (19, 5)},
    ),
}


@pytest.mark.parametrize("change", ROWS)
def test_broken_rows_are_named(change: str) -> None:
    alter, expected = ROWS[change]
    records = records_of(COMPLETED, lambda _seq: WORKER)
    row, altered = alter(row_of(COMPLETED, records[-1].hash), records)
    assert set(named(judge(SAGA, row, altered))) == expected


@pytest.mark.parametrize("name", ["", "]", "a[x]"])
def test_a_step_that_can_have_no_name_ends_no_run(name: str) -> None:
    """Whoever knows the formula can link any event."""
    forged = changed(COMPLETED[:2], StepStarted, step=name)

    found = judged(CHAIN, forged, believed=COMPLETED[:1])

    assert {violation.invariant for violation in found} == {2}


def test_a_saga_that_nobody_goes_on_with_is_named() -> None:
    records = records_of(COMPLETED[:4], lambda _seq: WORKER)
    row = row_of(COMPLETED[:4], records[-1].hash)._replace(owner=None, is_held=False)
    assert named(judge(SAGA, row, records)) == [(16, None)]


# -- the list

_ROOT = Path(__file__).resolve().parents[2]
_PAGE = _ROOT / "docs" / "reference" / "invariants.md"


def test_there_are_26_and_each_says_where_it_is_proved() -> None:
    assert list(INVARIANTS) == list(range(1, 27))
    for number, invariant in INVARIANTS.items():
        assert invariant.number == number
        assert invariant.tests or invariant.gap.startswith("not yet")
        assert all((_ROOT / path).is_file() for path in invariant.tests)
        if invariant.how is not How.TEST:
            assert "tests/store/test_invariants.py" in invariant.tests


def test_the_page_says_what_the_list_says() -> None:
    lines = [line.split(" | ") for line in _PAGE.read_text().splitlines() if line.startswith("| ")]
    table = {int(cells[0].strip("| ")): cells for cells in lines if cells[0].strip("| ").isdigit()}
    assert list(table) == list(INVARIANTS)
    for number, invariant in INVARIANTS.items():
        _, name, statement, how, tests = (cell.strip(" |") for cell in table[number])
        assert (name, statement, how) == (invariant.name, invariant.statement, invariant.how)
        assert all(path in tests for path in invariant.tests)
        assert not invariant.gap or invariant.gap in tests

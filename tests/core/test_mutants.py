"""Does each checker see what it is there to see? Each gets a history that is broken for it.

The rules of the grammar have theirs in `test_grammar`.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any
from unittest.mock import patch

import pytest

from eventsaga.core import ready
from eventsaga.core.conflict import conflict_of
from eventsaga.core.definition import OnTimeout
from eventsaga.core.events import (
    CompensationStarted,
    Operation,
    Outcome,
    SagaCompensated,
    SagaCompleted,
    SagaEvent,
    SagaFailed,
    SagaParked,
    SignalReceived,
    StepCompensated,
    StepCompensationFailed,
    StepCompensationStarted,
    StepFailed,
    StepInDoubt,
    StepSkipped,
    StepStarted,
    StepSucceeded,
    TimerFired,
    TurnReason,
    UndoRequested,
    VerificationStarted,
)
from eventsaga.core.evolve import apply
from eventsaga.core.graph import SagaDefinition
from eventsaga.core.state import Phase, State
from tests.core import invariants
from tests.core.histories import (
    COMPENSATE,
    EXECUTE,
    SECOND,
    T0,
    TWICE,
    Says,
    Script,
    begun,
    drive,
    for_each,
    parallel,
    pivot,
    saga,
    signal,
    step,
    wait,
)
from tests.core.invariants import CHECKERS, Checker

CHAIN = saga(step("a"), step("b", compensate_retry=TWICE), step("c"))
COMPLETED = drive(CHAIN).events
UNDONE = drive(CHAIN, {("c", EXECUTE, 1): "fail", ("b", COMPENSATE, 1): "fail"}).events
UNKNOWN = drive(CHAIN, {("c", EXECUTE, 1): "doubt"}).events
REFUSED: list[SagaEvent] = [
    replace(event, effect_happened=True) if isinstance(event, StepFailed) else event
    for event in UNDONE
]
PARKED = drive(CHAIN, {("c", EXECUTE, 1): "fail", ("a", COMPENSATE, 1): "fail"}).events
DOUBTFUL = drive(CHAIN, {("c", EXECUTE, 1): "fail", ("a", COMPENSATE, 1): "doubt"}).events

END = SagaCompensated(at=T0)
STARTED_LATE = StepStarted(at=T0, step="c", attempt=2, idempotency_key="c")
UNDONE_WITHOUT_A_START = StepCompensated(at=T0, step="z", attempt=1)
ONE_FAILURE = StepFailed(at=T0, step="a", attempt=1, error_type="E", message="m", retry_at=T0)
ONE_FAILED_UNDO = StepCompensationFailed(
    at=T0, step="b", attempt=1, error_type="E", message="m", retry_at=T0
)
WITH_ANOTHER_KEY = StepStarted(at=T0, step="a", attempt=2, idempotency_key="another")
UNDO_BY_THE_SAME_KEY = StepCompensationStarted(
    at=T0,
    step="a",
    attempt=1,
    idempotency_key=drive(CHAIN).of(StepStarted)[0].idempotency_key,
    outcome=Outcome.SUCCEEDED,
)


def without(events: list[SagaEvent], *kinds: type[SagaEvent], about: str = "") -> list[SagaEvent]:
    """Return *events* but those of *kinds*; only those about one step if it is named."""
    return [
        event
        for event in events
        if not (isinstance(event, kinds) and about in ("", getattr(event, "step", "")))
    ]


def swapped(events: list[SagaEvent], one: str, other: str) -> list[SagaEvent]:
    """Return *events* with the compensations of two steps exchanged."""
    names = {one: other, other: one}
    return [
        replace(event, step=names.get(event.step, event.step))
        if isinstance(event, StepCompensationStarted | StepCompensationFailed | StepCompensated)
        else event
        for event in events
    ]


def without_remedy(events: list[SagaEvent]) -> list[SagaEvent]:
    return [
        replace(event, remedy="") if isinstance(event, SagaParked) else event for event in events
    ]


def naming_nobody(events: list[SagaEvent]) -> list[SagaEvent]:
    return [
        replace(event, steps=()) if isinstance(event, SagaParked) else event for event in events
    ]


HISTORIES: list[tuple[Checker, list[SagaEvent], str]] = [
    (invariants.grammar, COMPLETED[1:], "begins with SagaStarted"),
    (invariants.no_step_after_turning, [*UNDONE, STARTED_LATE], "'c' started after"),
    (
        invariants.all_or_compensated,
        without(COMPLETED, StepSucceeded, about="b"),
        "completed without ['b']",
    ),
    (
        invariants.all_or_compensated,
        [*COMPLETED, UNDO_BY_THE_SAME_KEY],
        "a completed saga was compensated",
    ),
    (
        invariants.all_or_compensated,
        without(UNDONE, StepCompensated, about="a"),
        "owed ['a', 'b'], undone ['b']",
    ),
    (
        invariants.all_or_compensated,
        without(UNKNOWN, StepCompensated, about="c"),
        "owed ['a', 'b', 'c'], undone ['a', 'b']",
    ),
    (invariants.all_or_compensated, REFUSED, "owed ['a', 'b', 'c'], undone ['a', 'b']"),
    (invariants.reverse_order, swapped(UNDONE, "a", "b"), "'a' was compensated before ['b']"),
    (
        invariants.undone_once,
        without(UNDONE, CompensationStarted),
        "'b' was undone early, twice or without a start",
    ),
    (invariants.undone_once, [*UNDONE, UNDONE[-2]], "'a' was undone early, twice"),
    (invariants.undone_once, [*UNDONE, UNDONE_WITHOUT_A_START], "'z' was undone early"),
    (invariants.bounded_trying, [*UNDONE, ONE_FAILURE], "2 attempts to execute 'a', 1 allowed"),
    (
        invariants.bounded_trying,
        [*UNDONE, ONE_FAILED_UNDO],
        "3 attempts to compensate 'b', 2 allowed",
    ),
    (invariants.no_false_ending, [*PARKED[:-1], END], "SagaCompensated although ['a']"),
    (invariants.no_false_ending, [*DOUBTFUL[:-1], END], "SagaCompensated although ['a']"),
    (
        invariants.no_false_ending,
        [*PARKED[:-1], SagaCompleted(at=T0)],
        "SagaCompleted although ['a']",
    ),
    (invariants.no_false_ending, naming_nobody(PARKED), "parked for ()"),
    (invariants.no_false_ending, without_remedy(PARKED), "parked for ('a',)"),
    (invariants.stable_keys, [*COMPLETED, WITH_ANOTHER_KEY], "'a' changed its key"),
    (invariants.stable_keys, [*COMPLETED, UNDO_BY_THE_SAME_KEY], "two operations share a key"),
]


PIVOTED = saga(pivot("p"), parallel(step("x"), step("y")))
MORTAL = saga(step("a", key_ttl=SECOND, retry=TWICE, compensate_retry=TWICE), step("b"))
ATOMIC = saga(step("a", transactional=True), step("b"))
HEARING = saga(wait("v"), wait("w", timeout=SECOND, on_timeout=OnTimeout.CONTINUE))
MANY = saga(for_each(at_once=2), step("b"), step("c"))


def _heard() -> list[SagaEvent]:
    story = begun(HEARING)
    story.send(signal())
    story.wake(SECOND)
    return story.events


AFTER_PIVOT = drive(PIVOTED).events[:-1]
DOUBTED = drive(MORTAL, {("a", EXECUTE, 1): "doubt"}).events
UNDO_DOUBTED = drive(MORTAL, {("b", EXECUTE, 1): "fail", ("a", COMPENSATE, 1): "doubt"}).events
HEARD = _heard()
ITEMS = drive(MANY, {("c", EXECUTE, 1): "fail"}, answers=Says(each=("x", "y", "z"))).events
SKIPPED = [*PARKED, StepSkipped(at=T0, step="a", reason="r", actor="bob")]
LEFT = SagaFailed(at=T0, uncompensated=("a",), reason="r", actor="bob")
TURNED = CompensationStarted(at=T0, reason=TurnReason.CANCELLED, message="no")
CUT_SHORT = StepInDoubt(
    at=T0,
    step="a",
    attempt=1,
    operation=EXECUTE,
    error_type="WorkerLost",
    message="m",
    interrupted=True,
)


def later(events: list[SagaEvent], kind: type[SagaEvent]) -> list[SagaEvent]:
    """Return *events* with the second and later ones of *kind* a minute late."""
    seen, found = 0, list[SagaEvent]()
    for event in events:
        seen += isinstance(event, kind)
        late = isinstance(event, kind) and seen > 1
        found.append(replace(event, at=event.at + 60 * SECOND) if late else event)
    return found


NEW_RULES: list[tuple[SagaDefinition, Checker, list[SagaEvent], str]] = [
    (
        PIVOTED,
        invariants.no_way_back_from_the_pivot,
        [*AFTER_PIVOT, TURNED],
        "CompensationStarted after the pivot",
    ),
    (
        PIVOTED,
        invariants.no_way_back_from_the_pivot,
        [*AFTER_PIVOT, StepSucceeded(at=T0, step="y", attempt=1, conflict="x")],
        "a conflict after the pivot",
    ),
    (
        PIVOTED,
        invariants.no_way_back_from_the_pivot,
        [*AFTER_PIVOT, UndoRequested(at=T0, reason="r", actor="bob")],
        "UndoRequested after the pivot",
    ),
    (
        MORTAL,
        invariants.nothing_sent_with_a_dead_key,
        later(DOUBTED, StepStarted),
        "the key of 'a' was sent again after 0:01:00",
    ),
    (
        MORTAL,
        invariants.nothing_sent_with_a_dead_key,
        later(UNDO_DOUBTED, StepCompensationStarted),
        "the key of 'a' was sent again after 0:01:00",
    ),
    (
        ATOMIC,
        invariants.transactions_are_never_in_doubt_after_a_crash,
        [*drive(ATOMIC).events[:2], CUT_SHORT],
        "transactional step 'a' is in doubt",
    ),
    (
        HEARING,
        invariants.one_signal_for_one_wait,
        without(HEARD, SignalReceived),
        "'v' heard a signal that was not for it",
    ),
    (
        HEARING,
        invariants.one_signal_for_one_wait,
        without(HEARD, TimerFired),
        "'w' heard a signal that was not for it",
    ),
    (
        HEARING,
        invariants.one_signal_for_one_wait,
        [*HEARD, *(event for event in HEARD if isinstance(event, SignalReceived))],
        "a signal was taken twice",
    ),
    (MANY, invariants.bounded_items, without(ITEMS, StepSucceeded), "3 items of 'each' at once"),
    (
        MANY,
        invariants.bounded_items,
        [*ITEMS, next(event for event in ITEMS if isinstance(event, StepStarted))],
        "item 'each[0]' was begun out of order",
    ),
    (
        MANY,
        invariants.reverse_order,
        swapped(ITEMS, "each[0]", "b"),
        "'each[0]' was compensated before ['b']",
    ),
    (
        MANY,
        invariants.all_or_compensated,
        without(ITEMS, StepCompensated, about="each[1]"),
        "owed ['b', 'each[0]', 'each[1]', 'each[2]'], undone ['b', 'each[0]', 'each[2]']",
    ),
    (
        CHAIN,
        invariants.no_false_ending,
        [*SKIPPED, replace(LEFT, uncompensated=())],
        "given up with ()",
    ),
    (CHAIN, invariants.no_false_ending, [*SKIPPED, END], "SagaCompensated although ['a']"),
    (
        CHAIN,
        invariants.no_step_after_turning,
        [*UNDONE, VerificationStarted(at=T0, step="c", attempt=1)],
        "'c' started after",
    ),
    (
        CHAIN,
        invariants.bounded_trying,
        [*UNDONE, CUT_SHORT, ONE_FAILURE],
        "2 attempts to execute 'a', 1 allowed",
    ),
]


@pytest.mark.parametrize(("definition", "check", "broken", "told"), NEW_RULES)
def test_a_checker_catches_what_breaks_a_rule_of_the_whole_language(
    definition: SagaDefinition, check: Checker, broken: list[SagaEvent], told: str
) -> None:
    complaint = check(definition, broken)

    assert complaint is not None
    assert told in complaint


@pytest.mark.parametrize(
    ("definition", "events"),
    [
        (PIVOTED, AFTER_PIVOT),
        (MORTAL, DOUBTED),
        (MORTAL, UNDO_DOUBTED),
        (ATOMIC, drive(ATOMIC, {("a", EXECUTE, 1): "crash"}).events),
        (HEARING, HEARD),
        (MANY, ITEMS),
        (CHAIN, [*SKIPPED, LEFT]),
    ],
)
def test_no_checker_complains_of_a_whole_language_that_was_not_broken(
    definition: SagaDefinition, events: list[SagaEvent]
) -> None:
    assert invariants.complaints(definition, events) == []


@pytest.mark.parametrize(("check", "broken", "told"), HISTORIES)
def test_a_checker_catches_the_history_that_is_broken_for_it(
    check: Checker, broken: list[SagaEvent], told: str
) -> None:
    complaint = check(CHAIN, broken)

    assert complaint is not None
    assert told in complaint


@pytest.mark.parametrize("events", [COMPLETED, UNDONE, UNKNOWN, PARKED, DOUBTFUL])
def test_no_checker_complains_of_what_was_not_broken(events: list[SagaEvent]) -> None:
    assert invariants.complaints(CHAIN, events) == []


# -- folds that are wrong -----------------------------------------------------------------


def _mutating(events: list[SagaEvent], state: State) -> State:
    for event in events:
        apply(state, event)
    return state


def _forgetting_to_count(events: list[SagaEvent], state: State) -> State:
    after = _mutating(events, state.copy())
    after.seq = after.settled_seq = after.shown_seq = 0
    return after


def _depending_on_how(events: list[SagaEvent], state: State) -> State:
    after = _mutating(events, state.copy())
    after.succeeded += len(events) > 1
    return after


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (_mutating, "replay changed its argument"),
        (_forgetting_to_count, "an event was not counted"),
        (_depending_on_how, "it matters how the events are folded"),
    ],
)
def test_a_wrong_fold_is_caught(
    broken: Callable[[list[SagaEvent], State], State], told: str
) -> None:
    def one_by_one(state: State, event: SagaEvent) -> State:
        return broken([event], state)

    with (
        patch.object(invariants, "replay", broken),
        patch.object(invariants, "evolve", one_by_one),
    ):
        assert invariants.fold(CHAIN, UNDONE) == told


# -- decisions that are wrong -------------------------------------------------------------


def _all_at_once(definition: SagaDefinition, state: State, name: str) -> bool:
    return name not in state.open_steps and ready._is_owed(definition, state, name)


def _doubts_forgotten(definition: SagaDefinition, state: State, name: str) -> bool:
    return name in state.in_phase(Phase.SUCCEEDED)


def _always_again(draft: Any, command: Any, spent: int) -> datetime | None:
    return command.at if max(command.attempt, spent) < 5 else None


def _end_all_the_same(state: State, at: datetime) -> SagaEvent:
    return SagaCompensated(at=at)


def _key_per_attempt(state: State, step: str, operation: Operation) -> str:
    return f"{step}/{operation}/{state.seq}"


WRONG: list[tuple[str, object, Script, str]] = [
    ("backward.may_compensate", _all_at_once, {("c", EXECUTE, 1): "fail"}, "reverse_order"),
    ("ready._is_owed", _doubts_forgotten, {("c", EXECUTE, 1): "doubt"}, "all_or_compensated"),
    ("attempts._retry_at", _always_again, {("a", EXECUTE, 1): "fail"}, "bounded_trying"),
    (
        "backward._parked",
        _end_all_the_same,
        {("c", EXECUTE, 1): "fail", ("a", COMPENSATE, 1): "fail"},
        "no_false_ending",
    ),
    ("forward.idempotency_key", _key_per_attempt, {("a", EXECUTE, 1): "crash"}, "stable_keys"),
]


@pytest.mark.parametrize(("function", "mistake", "script", "caught_by"), WRONG)
def test_a_wrong_decision_is_caught(
    function: str, mistake: object, script: Script, caught_by: str
) -> None:
    with patch(f"eventsaga.core.{function}", mistake):
        events = drive(CHAIN, script).events

    heard = [check.__name__ for check in CHECKERS if check(CHAIN, events) is not None]
    assert caught_by in heard


def test_turning_back_beside_a_running_sibling_is_caught() -> None:
    """Were running siblings not waited for, their results would stand after the turn."""
    pair = saga(parallel(step("a"), step("b")))
    events = drive(pair, {("a", EXECUTE, 1): "fail"}).events
    turned = next(event for event in events if isinstance(event, CompensationStarted))
    late = [*without(events, CompensationStarted)]
    late.insert(4, turned)

    assert invariants.grammar(pair, events) is None
    assert invariants.grammar(pair, late) is not None


def test_every_checker_has_a_mutant() -> None:
    mutated = {check for check, _, _ in HISTORIES} | {check for _, check, _, _ in NEW_RULES}

    assert mutated | {invariants.fold} == set(CHECKERS)


# -- the whole language, decided wrongly ----------------------------------------------------


def _never(*_: object, **__: object) -> bool:
    return False


def _turn_all_the_same(
    draft: Any, at: datetime, step: str, attempt: int, result: Any, **_: Any
) -> SagaEvent:
    conflict = conflict_of(draft.definition, draft.state, step, result)
    return StepSucceeded(
        at=at, step=step, attempt=attempt, result=result, conflict=conflict, pivot=step == "p"
    )


WRONG_LANGUAGE: list[tuple[str, object, SagaDefinition, Script, str]] = [
    (
        "attempts.success_of",
        _turn_all_the_same,
        PIVOTED,
        {("x", EXECUTE, 1): {"f": 1}, ("y", EXECUTE, 1): {"f": 2}},
        "no_way_back_from_the_pivot",
    ),
    (
        "attempts._is_stranded",
        _never,
        PIVOTED,
        {("x", EXECUTE, 1): "doubt"},
        "no_way_back_from_the_pivot",
    ),
    (
        "forward.key_is_dead",
        _never,
        saga(step("a", key_ttl=SECOND / 4, retry=TWICE)),
        {("a", EXECUTE, 1): "doubt"},
        "nothing_sent_with_a_dead_key",
    ),
]


@pytest.mark.parametrize(
    ("function", "mistake", "definition", "script", "caught_by"), WRONG_LANGUAGE
)
def test_a_wrong_decision_in_the_whole_language_is_caught(
    function: str, mistake: object, definition: SagaDefinition, script: Script, caught_by: str
) -> None:
    with patch(f"eventsaga.core.{function}", mistake):
        events = drive(definition, script).events

    heard = [check.__name__ for check in CHECKERS if check(definition, events) is not None]
    assert caught_by in heard


def test_each_of_these_decisions_is_well_taken_without_the_mistake() -> None:
    for _, _, definition, script, _ in WRONG_LANGUAGE:
        assert invariants.complaints(definition, drive(definition, script).events) == []

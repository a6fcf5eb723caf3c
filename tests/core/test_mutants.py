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
from eventsaga.core.definition import SagaDefinition
from eventsaga.core.events import (
    CompensationStarted,
    Operation,
    Outcome,
    SagaCompensated,
    SagaCompleted,
    SagaEvent,
    SagaParked,
    StepCompensated,
    StepCompensationFailed,
    StepCompensationStarted,
    StepFailed,
    StepStarted,
    StepSucceeded,
)
from eventsaga.core.state import Phase, State, StepState, apply
from tests.core import invariants
from tests.core.histories import (
    COMPENSATE,
    EXECUTE,
    T0,
    TWICE,
    Script,
    drive,
    parallel,
    saga,
    step,
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
    after.seq = 0
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
    return name not in state.open_steps and ready._is_owed(state, name)


def _doubts_forgotten(state: State, name: str) -> bool:
    return name in state.in_phase(Phase.SUCCEEDED)


def _always_again(draft: Any, step: StepState, command: Any) -> datetime | None:
    tries = max(command.attempt, step.spent, step.undo_spent)
    return command.at if tries < 5 else None


def _end_all_the_same(state: State, failed: tuple[str, ...], at: datetime) -> SagaEvent:
    return SagaCompensated(at=at)


def _key_per_attempt(state: State, step: str, operation: Operation) -> str:
    return f"{step}/{operation}/{state.seq}"


WRONG: list[tuple[str, object, Script, str]] = [
    ("advance.may_compensate", _all_at_once, {("c", EXECUTE, 1): "fail"}, "reverse_order"),
    ("ready._is_owed", _doubts_forgotten, {("c", EXECUTE, 1): "doubt"}, "all_or_compensated"),
    ("decide._retry_at", _always_again, {("a", EXECUTE, 1): "fail"}, "bounded_trying"),
    (
        "advance._parked",
        _end_all_the_same,
        {("c", EXECUTE, 1): "fail", ("a", COMPENSATE, 1): "fail"},
        "no_false_ending",
    ),
    ("advance.idempotency_key", _key_per_attempt, {("a", EXECUTE, 1): "crash"}, "stable_keys"),
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
    mutated = {check for check, _, _ in HISTORIES} | {invariants.fold}

    assert mutated == set(CHECKERS)

"""What holds for every history? Plain functions that return a complaint, or None.

Each knows a definition and events only. The numbers are those of the reliability notes.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from eventsaga.core.definition import SagaDefinition, StepName
from eventsaga.core.events import (
    CompensationStarted,
    Operation,
    ParkReason,
    SagaCompensated,
    SagaCompleted,
    SagaEvent,
    SagaParked,
    StepCompensated,
    StepCompensationFailed,
    StepCompensationStarted,
    StepFailed,
    StepInDoubt,
    StepStarted,
    StepSucceeded,
)
from eventsaga.core.grammar import first_violation
from eventsaga.core.state import State, evolve, replay
from tests.core.histories import SAGA

History = Sequence[SagaEvent]
Checker = Callable[[SagaDefinition, History], str | None]


def grammar(definition: SagaDefinition, events: History) -> str | None:
    """2: the published automaton accepts the history."""
    del definition
    violation = first_violation(events)
    return None if violation is None else f"event {violation[0]}: {violation[1]}"


def fold(definition: SagaDefinition, events: History) -> str | None:
    """3: folding one by one, at once or in two halves leads to one state."""
    del definition
    at_once, one_by_one, half = replay(events, State(SAGA)), State(SAGA), len(events) // 2
    for event in events:
        one_by_one = evolve(one_by_one, event)
    first = replay(events[:half], State(SAGA))
    before = repr(first)
    in_halves = replay(events[half:], first)
    if repr(first) != before:
        return "replay changed its argument"
    if not at_once == one_by_one == in_halves:
        return "it matters how the events are folded"
    return None if at_once.seq == len(events) else "an event was not counted"


def no_step_after_turning(definition: SagaDefinition, events: History) -> str | None:
    """10: no step starts once the saga goes back."""
    del definition
    turned = False
    for event in events:
        if isinstance(event, StepStarted) and turned:
            return f"step {event.step!r} started after CompensationStarted"
        turned = turned or isinstance(event, CompensationStarted)
    return None


def all_or_compensated(definition: SagaDefinition, events: History) -> str | None:
    """11: at a good end every step has succeeded, or all that may have happened is undone."""
    succeeded = _steps(events, StepSucceeded)
    undone = _steps(events, StepCompensated)
    if any(isinstance(event, SagaCompleted) for event in events):
        if _steps(events, StepCompensationStarted):
            return "a completed saga was compensated"
        missing = set(definition.steps) - succeeded
        return f"completed without {sorted(missing)}" if missing else None
    if any(isinstance(event, SagaCompensated) for event in events):
        owed = {name for name in _may_have_happened(events) if definition.steps[name].compensable}
        if owed != undone:
            return f"owed {sorted(owed)}, undone {sorted(undone)}"
    return None


def reverse_order(definition: SagaDefinition, events: History) -> str | None:
    """12: a compensation starts after those of all steps that depend on it have ended."""
    owed = {name for name in _may_have_happened(events) if definition.steps[name].compensable}
    settled: set[StepName] = set()
    for event in events:
        match event:
            case StepCompensationStarted(step=step):
                early = (_dependants(definition, step) & owed) - settled
                if early:
                    return f"{step!r} was compensated before {sorted(early)}"
            case StepCompensated(step=step) | StepCompensationFailed(step=step, retry_at=None):
                settled.add(step)
            case StepInDoubt(step=step, operation=Operation.COMPENSATE, retry_at=None):
                settled.add(step)
            case _:
                pass
    return None


def undone_once(definition: SagaDefinition, events: History) -> str | None:
    """13: a step that was started is undone at most once, and only on the way back."""
    del definition
    started: set[StepName] = set()
    undone: set[StepName] = set()
    turned = False
    for event in events:
        match event:
            case StepStarted(step=step):
                started.add(step)
            case CompensationStarted():
                turned = True
            case StepCompensated(step=step):
                if not turned or step not in started or step in undone:
                    return f"step {step!r} was undone early, twice or without a start"
                undone.add(step)
            case _:
                pass
    return None


def bounded_trying(definition: SagaDefinition, events: History) -> str | None:
    """17: attempts that were not cut short by the end of their process fit the policy."""
    spent = Counter[tuple[StepName, Operation]]()
    for event in events:
        match event:
            case StepSucceeded() | StepFailed():
                spent[event.step, Operation.EXECUTE] += 1
            case StepCompensated() | StepCompensationFailed():
                spent[event.step, Operation.COMPENSATE] += 1
            case StepInDoubt(interrupted=False):
                spent[event.step, event.operation] += 1
            case _:
                pass
    for (name, operation), count in spent.items():
        step = definition.steps[name]
        policy = step.retry if operation is Operation.EXECUTE else step.compensate_retry
        if count > policy.max_attempts:
            return f"{count} attempts to {operation} {name!r}, {policy.max_attempts} allowed"
    return None


def no_false_ending(definition: SagaDefinition, events: History) -> str | None:
    """18: a compensation that failed for good parks the saga, with its name and a remedy."""
    del definition
    failed: set[StepName] = set()
    for event in events:
        match event:
            case StepCompensationFailed(step=step, retry_at=None):
                failed.add(step)
            case StepInDoubt(step=step, operation=Operation.COMPENSATE, retry_at=None):
                failed.add(step)
            case SagaCompensated() | SagaCompleted() if failed:
                return f"{type(event).__name__} although {sorted(failed)} are not compensated"
            case SagaParked(reason=ParkReason.COMPENSATION_FAILED, steps=named):
                if set(named) != failed or not event.remedy:
                    return f"parked for {named}, but {sorted(failed)} are not compensated"
            case _:
                pass
    return None


def stable_keys(definition: SagaDefinition, events: History) -> str | None:
    """7: all attempts of an operation carry one key, and no two operations share one."""
    del definition
    key_of: dict[tuple[StepName, type[SagaEvent]], str] = {}
    for event in events:
        if isinstance(event, StepStarted | StepCompensationStarted):
            kept = key_of.setdefault((event.step, type(event)), event.idempotency_key)
            if kept != event.idempotency_key:
                return f"step {event.step!r} changed its key"
    return None if len(set(key_of.values())) == len(key_of) else "two operations share a key"


CHECKERS: Final[tuple[Checker, ...]] = (
    grammar,
    fold,
    no_step_after_turning,
    all_or_compensated,
    reverse_order,
    undone_once,
    bounded_trying,
    no_false_ending,
    stable_keys,
)


def complaints(definition: SagaDefinition, events: History) -> list[str]:
    """Return what all checkers have to say; [] if everything holds."""
    heard = ((check.__name__, check(definition, events)) for check in CHECKERS)
    return [f"{name}: {complaint}" for name, complaint in heard if complaint is not None]


def _steps(
    events: History, kind: type[StepSucceeded | StepCompensated | StepCompensationStarted]
) -> set[StepName]:
    return {event.step for event in events if isinstance(event, kind)}


def _may_have_happened(events: History) -> set[StepName]:
    """Return the steps that succeeded, or whose attempts were not all denied."""
    found = _steps(events, StepSucceeded)
    for event in events:
        match event:
            case StepInDoubt(step=step, operation=Operation.EXECUTE):
                found.add(step)
            case StepFailed(step=step, effect_happened=True):
                found.add(step)
            case _:
                pass
    return found


def _dependants(definition: SagaDefinition, name: StepName) -> set[StepName]:
    found: set[StepName] = set()
    ahead = list(definition.successors[name])
    while ahead:
        found.add(following := ahead.pop())
        ahead += definition.successors[following]
    return found

"""What holds for every history? Plain functions that return a complaint, or None.

Each knows a definition and events only. The numbers are those of the reliability notes.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from eventsaga.core.definition import (
    ForEachDefinition,
    SignalDefinition,
    StepDefinition,
    StepName,
    group_of,
    item_index,
)
from eventsaga.core.events import (
    ChildStarted,
    CompensationStarted,
    ForEachStarted,
    Operation,
    ParkReason,
    Resolution,
    SagaCancelRequested,
    SagaCompensated,
    SagaCompleted,
    SagaDeadlineExceeded,
    SagaEvent,
    SagaFailed,
    SagaParked,
    SagaRetried,
    SignalAwaited,
    SignalReceived,
    StepCompensated,
    StepCompensationFailed,
    StepCompensationStarted,
    StepFailed,
    StepInDoubt,
    StepResolved,
    StepSkipped,
    StepStarted,
    StepSucceeded,
    TimerFired,
    TimerStarted,
    UndoRequested,
    VerificationStarted,
)
from eventsaga.core.evolve import evolve, replay
from eventsaga.core.grammar import first_violation
from eventsaga.core.graph import SagaDefinition
from eventsaga.core.state import State
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
        match event:
            case (
                StepStarted(step=step)
                | ChildStarted(step=step)
                | ForEachStarted(step=step)
                | TimerStarted(step=step)
                | SignalAwaited(step=step)
                | VerificationStarted(step=step)
            ) if turned:
                return f"step {step!r} started after CompensationStarted"
            case CompensationStarted():
                turned = True
            case _:
                pass
    return None


def all_or_compensated(definition: SagaDefinition, events: History) -> str | None:  # noqa: C901 - a line for each event
    """11: at a good end every step has succeeded, or all that may have happened is undone."""
    succeeded = _steps(events, StepSucceeded) | _steps(events, StepSkipped)
    undone = _steps(events, StepCompensated)
    for event in events:
        match event:
            case StepResolved(step=step, resolution=Resolution.SUCCEEDED):
                succeeded.add(step)
            case StepResolved(step=step, resolution=Resolution.COMPENSATED):
                undone.add(step)
            case _:
                pass
    if any(isinstance(event, SagaCompleted) for event in events):
        undoing = any(isinstance(event, UndoRequested) for event in events)
        if _steps(events, StepCompensationStarted) and not undoing:
            return "a completed saga was compensated"
        missing = set(definition.steps) - succeeded
        if missing:
            return f"completed without {sorted(missing)}"
    if any(isinstance(event, SagaCompensated) for event in events):
        owed = _owed(definition, events)
        if owed != undone:
            return f"owed {sorted(owed)}, undone {sorted(undone)}"
    return None


def reverse_order(definition: SagaDefinition, events: History) -> str | None:
    """12: a compensation starts after those of all steps that depend on it have ended."""
    owed = _owed(definition, events)
    settled: set[StepName] = set()
    for event in events:
        match event:
            case StepCompensationStarted(step=step):
                early = {
                    name
                    for name in owed - settled
                    if _base(name) in _dependants(definition, _base(step))
                }
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
            case StepStarted(step=step) | ChildStarted(step=step):
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


def bounded_trying(  # noqa: C901, PLR0912 - a line for each event
    definition: SagaDefinition, events: History
) -> str | None:
    """17: attempts that were not cut short by the end of their process fit the policy."""
    spent = Counter[tuple[StepName, Operation]]()
    # Questions that brought no answer; the last attempt is asked about once more.
    in_vain = Counter[StepName]()
    asked: set[StepName] = set()
    for event in events:
        match event:
            case VerificationStarted(step=step):
                asked.add(step)
            case SagaRetried(steps=steps):
                for step in steps:
                    spent[step, Operation.EXECUTE] = spent[step, Operation.COMPENSATE] = 0
                    in_vain[step] = 0
            case StepSucceeded(step=step) | StepFailed(step=step, interrupted=None):
                # The answer to a question was counted with the attempt that it is about.
                spent[step, Operation.EXECUTE] += step not in asked
                asked.discard(step)
            case StepCompensated() | StepCompensationFailed(interrupted=None):
                spent[event.step, Operation.COMPENSATE] += 1
            case StepInDoubt(step=step, interrupted=False) if step in asked:
                in_vain[step] += 1
                asked.discard(step)
            case StepInDoubt(step=step, interrupted=False):
                spent[step, event.operation] += 1
            case StepInDoubt(step=step):
                asked.discard(step)
            case _:
                pass
        for (name, operation), count in spent.items():
            if not isinstance(definition.steps[_base(name)], StepDefinition):
                continue
            task = definition.task(name)
            policy = task.retry if operation is Operation.EXECUTE else task.compensate_retry
            if count > policy.max_attempts or in_vain[name] > policy.max_attempts:
                return f"{count} attempts to {operation} {name!r}, {policy.max_attempts} allowed"
    return None


def no_false_ending(definition: SagaDefinition, events: History) -> str | None:  # noqa: C901 - a line for each event
    """18: a compensation that failed for good parks the saga, with its name and a remedy."""
    del definition
    failed: set[StepName] = set()
    for event in events:
        match event:
            case StepCompensationFailed(step=step, retry_at=None):
                failed.add(step)
            case StepInDoubt(step=step, operation=Operation.COMPENSATE, retry_at=None):
                failed.add(step)
            case StepResolved(step=step, resolution=Resolution.COMPENSATED):
                failed.discard(step)
            case SagaRetried(steps=steps):
                failed -= set(steps)
            case SagaCompensated() | SagaCompleted() if failed:
                return f"{type(event).__name__} although {sorted(failed)} are not compensated"
            case SagaFailed(uncompensated=named) if not failed <= set(named):
                return f"given up with {named}, but {sorted(failed)} are not compensated"
            case SagaParked(reason=ParkReason.COMPENSATION_FAILED, steps=named):
                skipped = failed - _steps(events, StepSkipped)
                if not skipped <= set(named) <= failed or not event.remedy:
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


def no_way_back_from_the_pivot(definition: SagaDefinition, events: History) -> str | None:
    """After the pivot nothing turns the saga, and nothing is compensated."""
    del definition
    passed = False
    for event in events:
        match event:
            case (
                CompensationStarted()
                | StepCompensationStarted()
                | SagaCancelRequested()
                | SagaDeadlineExceeded()
                | UndoRequested()
            ) if passed:
                return f"{type(event).__name__} after the pivot"
            case StepSucceeded(conflict=str()) if passed:
                return "a conflict after the pivot"
            case StepSucceeded(pivot=True) | StepResolved(pivot=True):
                passed = True
            case _:
                pass
    return None


def nothing_sent_with_a_dead_key(definition: SagaDefinition, events: History) -> str | None:  # noqa: C901 - a line for each event
    """An attempt in doubt whose key is older than its `key_ttl` is never followed by another."""
    first_at: dict[tuple[StepName, Operation], datetime] = {}
    doubted: set[tuple[StepName, Operation]] = set()
    for event in events:
        match event:
            case StepStarted(step=step) | StepCompensationStarted(step=step):
                if not isinstance(
                    definition.steps[_base(step)], StepDefinition | ForEachDefinition
                ):
                    continue
                is_effect = isinstance(event, StepStarted)
                asked = step, Operation.EXECUTE if is_effect else Operation.COMPENSATE
                ttl = definition.task(step).key_ttl
                age = event.at - first_at.setdefault(asked, event.at)
                if asked in doubted and ttl is not None and age > ttl:
                    return f"the key of {step!r} was sent again after {age}"
            case StepInDoubt(step=step, operation=operation):
                doubted.add((step, operation))
            case StepFailed(step=step, effect_happened=False):
                doubted.discard((step, Operation.EXECUTE))
            case SagaRetried(steps=steps):
                for key in [key for key in first_at if key[0] in steps]:
                    del first_at[key]
            case _:
                pass
    return None


def transactions_are_never_in_doubt_after_a_crash(
    definition: SagaDefinition, events: History
) -> str | None:
    """A transactional attempt that was cut short has definitely not happened."""
    for event in events:
        match event:
            case StepInDoubt(step=step, interrupted=True, error_type=error_type):
                if error_type != "KeyExpired" and definition.task(step).transactional:
                    return f"transactional step {step!r} is in doubt"
            case _:
                pass
    return None


def one_signal_for_one_wait(definition: SagaDefinition, events: History) -> str | None:
    """A wait is ended by its timeout, or by a signal that ended no other."""
    heard, over = Counter[str](), Counter[StepName]()
    ids = Counter[UUID]()
    for event in events:
        match event:
            case SignalReceived(signal=signal, id=signal_id):
                heard[signal] += 1
                ids[signal_id] += 1
            case TimerFired(step=step):
                over[step] += 1
            case StepSucceeded(step=step) if not over[step]:
                leaf = definition.steps[_base(step)]
                if isinstance(leaf, SignalDefinition):
                    heard[leaf.signal] -= 1
                    if heard[leaf.signal] < 0:
                        return f"step {step!r} heard a signal that was not for it"
            case _:
                pass
    return "a signal was taken twice" if any(count > 1 for count in ids.values()) else None


def bounded_items(definition: SagaDefinition, events: History) -> str | None:
    """No more items of a group are under way than it allows."""
    open_items: dict[StepName, set[StepName]] = {}
    begun = Counter[StepName]()
    for event in events:
        match event:
            case ForEachStarted(step=step):
                open_items[step] = set()
            case StepStarted(step=step) if (group := group_of(step)) is not None:
                if event.attempt == 1:
                    index = item_index(step)
                    if index < begun[group]:
                        return f"item {step!r} was begun out of order"
                    begun[group] = index + 1
                open_items[group].add(step)
                leaf = definition.steps[group]
                assert isinstance(leaf, ForEachDefinition)
                if len(open_items[group]) > leaf.max_concurrency:
                    return f"{len(open_items[group])} items of {group!r} at once"
            case StepSucceeded(step=step) | StepFailed(step=step) | StepInDoubt(step=step):
                open_items.get(group_of(step) or "", set()).discard(step)
            case _:
                pass
    return None


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
    no_way_back_from_the_pivot,
    nothing_sent_with_a_dead_key,
    transactions_are_never_in_doubt_after_a_crash,
    one_signal_for_one_wait,
    bounded_items,
)


def complaints(definition: SagaDefinition, events: History) -> list[str]:
    """Return what all checkers have to say; [] if everything holds."""
    heard = ((check.__name__, check(definition, events)) for check in CHECKERS)
    return [f"{name}: {complaint}" for name, complaint in heard if complaint is not None]


def _base(name: StepName) -> StepName:
    return group_of(name) or name


def _steps(
    events: History,
    kind: type[StepSucceeded | StepSkipped | StepCompensated | StepCompensationStarted],
) -> set[StepName]:
    return {event.step for event in events if isinstance(event, kind)}


def _owed(definition: SagaDefinition, events: History) -> set[StepName]:
    """Return the compensable steps that succeeded, or whose attempts were not all denied."""
    found: set[StepName] = set()
    for event in events:
        match event:
            case StepSucceeded(step=step) | StepFailed(step=step, effect_happened=True):
                found.add(step)
            case StepResolved(step=step, resolution=Resolution.SUCCEEDED):
                found.add(step)
            case StepInDoubt(step=step, operation=Operation.EXECUTE):
                found.add(step)
            case StepFailed(step=step, effect_happened=False):
                found.discard(step)
            case StepResolved(step=step, resolution=Resolution.FAILED):
                found.discard(step)
            case _:
                pass
    return {
        name
        for name in found
        if definition.compensable(name)
        and not isinstance(definition.steps.get(name), ForEachDefinition)
    }


def _dependants(definition: SagaDefinition, name: StepName) -> set[StepName]:
    found: set[StepName] = set()
    ahead = [name]
    while ahead:
        before = ahead.pop()
        for other, needed in definition.predecessors.items():
            if before in needed and other not in found:
                found.add(other)
                ahead.append(other)
    return found

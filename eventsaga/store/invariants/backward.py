"""Does a saga go back, and end, as it must? Invariants 11, 12, 13 and 18."""

from collections.abc import Iterator, Sequence
from typing import Final

from eventsaga.core.definition import StepName
from eventsaga.core.events import (
    ChildStarted,
    CompensationStarted,
    ParkReason,
    Resolution,
    SagaCompensated,
    SagaCompleted,
    SagaEvent,
    SagaFailed,
    SagaParked,
    SagaRetried,
    StepCompensated,
    StepCompensationStarted,
    StepResolved,
    StepSkipped,
    StepStarted,
    StepSucceeded,
)
from eventsaga.core.graph import SagaDefinition
from eventsaga.store.examine import Violation
from eventsaga.store.invariants.catalogue import (
    ALL_OR_COMPENSATED,
    NO_FALSE_ENDING,
    ORDER,
    UNDO_ONCE,
)
from eventsaga.store.invariants.owed import Backlog, Standing, compensation_given_up
from eventsaga.store.invariants.told import Told

_OF_NO_STEP: Final = frozenset({ParkReason.POISON, ParkReason.INVALID_CONTEXT})


def reverse_order(told: Told) -> Iterator[Violation]:
    """12: a compensation starts after those of all steps that depend on it have ended."""
    if told.known is None:
        return
    definition, standing = told.known.definition, Standing()
    backlog: Backlog | None = None
    begun: set[StepName] = set()
    for seq, event in told.numbered():
        standing.read(event)
        if isinstance(event, CompensationStarted):
            backlog = Backlog(definition, standing.owed(definition))
        elif backlog is None:
            continue
        elif isinstance(event, StepCompensationStarted) and event.step not in begun:
            begun.add(event.step)
            waiting = backlog.ahead_of(event.step)
            if waiting:
                names = ", ".join(waiting)
                message = f"step {event.step!r} was compensated before {names}, which came after it"
                yield told.violation(seq, ORDER, message)
        elif (settled := _settled(event)) is not None:
            backlog.settle(settled)


def _settled(event: SagaEvent) -> StepName | None:
    """Return the step whose compensation holds up nobody after *event*."""
    match event:
        case StepCompensated(step=step):
            return step
        case StepResolved(step=step, resolution=Resolution.COMPENSATED):
            return step
        case _:
            return compensation_given_up(event)


def undone_once(told: Told) -> Iterator[Violation]:
    """13: a step that was begun is undone at most once, and only on the way back."""
    begun: set[StepName] = set()
    undone: set[StepName] = set()
    turned = False
    for seq, event in told.numbered():
        match event:
            case StepStarted(step=step) | ChildStarted(step=step):
                begun.add(step)
            case CompensationStarted():
                turned = True
            case StepResolved(step=step, resolution=Resolution.COMPENSATED):
                undone.add(step)
            case StepCompensationStarted(step=step) | StepCompensated(step=step):
                for wrong in _untimely(step, turned=turned, begun=begun, undone=undone):
                    yield told.violation(seq, UNDO_ONCE, f"step {step!r} {wrong}")
                if isinstance(event, StepCompensated):
                    undone.add(step)
            case _:
                pass


def _untimely(
    step: StepName, *, turned: bool, begun: set[StepName], undone: set[StepName]
) -> Iterator[str]:
    if not turned:
        yield "is compensated before the saga goes back"
    elif step not in begun:
        yield "is compensated, and was never begun"
    elif step in undone:
        yield "is compensated again"


def all_or_compensated(told: Told) -> Iterator[Violation]:
    """11: at a good end every step has succeeded, or all that may have happened is undone."""
    if told.known is None:
        return
    definition = told.known.definition
    for seq, event in told.numbered():
        message: str | None = None
        match event:
            case SagaCompleted():
                message = _not_all(definition, told.events[:seq])
            case SagaCompensated():
                message = _not_compensated(definition, told.events[:seq])
            case _:
                pass
        if message is not None:
            yield told.violation(seq, ALL_OR_COMPENSATED, message)


_FINISHES: Final = (StepSucceeded, StepSkipped, StepResolved)


def _not_all(definition: SagaDefinition, events: Sequence[SagaEvent]) -> str | None:
    done = {event.step for event in events if isinstance(event, _FINISHES)}
    missing = sorted(set(definition.order) - done)
    if missing:
        return f"it completed without {', '.join(missing)}"
    if any(isinstance(event, StepCompensationStarted) for event in events):
        return "it completed, and something was compensated"
    return None


def _not_compensated(definition: SagaDefinition, events: Sequence[SagaEvent]) -> str | None:
    standing = Standing()
    for event in events:
        standing.read(event)
    # What was given up is reported as a false ending.
    stays = sorted(standing.owed(definition) - standing.undone - standing.left)
    return f"it is called compensated, and {', '.join(stays)} is not undone" if stays else None


def no_false_ending(told: Told) -> Iterator[Violation]:
    """18: what was not compensated is named at the end; who is parked says why."""
    left: set[StepName] = set()
    skipped: set[StepName] = set()
    for seq, event in told.numbered():
        if (gave_up := compensation_given_up(event)) is not None:
            left.add(gave_up)
            continue
        match event:
            case StepResolved(step=step, resolution=Resolution.COMPENSATED):
                left.discard(step)
            case SagaRetried(steps=steps):
                left.difference_update(steps)
            case StepSkipped(step=step):
                skipped.add(step)
            case SagaCompensated() | SagaCompleted() | SagaFailed() | SagaParked():
                for message in _false(event, left, skipped):
                    yield told.violation(seq, NO_FALSE_ENDING, message)
            case _:
                pass


def _false(
    event: SagaCompensated | SagaCompleted | SagaFailed | SagaParked,
    left: set[StepName],
    skipped: set[StepName],
) -> Iterator[str]:
    names = ", ".join(sorted(left))
    match event:
        case SagaCompensated() | SagaCompleted() if left:
            yield f"{type(event).__name__}, and the compensation of {names} was given up"
        case SagaFailed(uncompensated=named) if not left <= set(named):
            yield f"given up without naming all of what is left: {names}"
        case SagaParked(remedy=""):
            yield "parked without a remedy"
        case SagaParked(reason=reason, steps=()) if reason not in _OF_NO_STEP:
            yield f"parked for {reason}, and no step is named"
        case SagaParked(reason=ParkReason.COMPENSATION_FAILED, steps=named):
            if not left - skipped <= set(named) <= left:
                yield f"parked for {', '.join(named)}, and what failed is {names or 'nothing'}"
        case _:
            pass

"""What begins on the way back? Compensations, each after everything that depends on it."""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Final

from eventsaga.core.definition import (
    ChildDefinition,
    ForEachDefinition,
    StepName,
    group_of,
)
from eventsaga.core.draft import Draft, child_id, due, idempotency_key, key_is_dead
from eventsaga.core.events import (
    Operation,
    ParkReason,
    SagaCompensated,
    SagaFailed,
    SagaParked,
    StepCompensationFailed,
    StepCompensationStarted,
)
from eventsaga.core.graph import SagaDefinition
from eventsaga.core.ready import items_to_undo, may_compensate, seen_through
from eventsaga.core.state import Phase, State

_REMEDY: Final = (
    "retry the compensation when its cause is mended; or undo by hand what the step left behind, "
    "and resolve it; or skip it"
)


def advance_backward(draft: Draft, at: datetime, *, hold: bool, ended: StepName | None) -> None:
    """Emit what is due on the way back; see `eventsaga.core.advance.advance`."""
    definition, state = draft.definition, draft.state
    waiting = _due(state, at)
    again = [name for name in waiting if not _give_up_dead_key(draft, name, at, hold=hold)]
    if len(again) < len(waiting):
        ended = None  # what was given up does not hold up the others
    due_names = [*again, *_ready(definition, state, _candidates(draft, ended))]
    if due_names and hold:
        return
    for name in due_names:
        _start(draft, name, at)
    if state.open_steps:
        return
    if state.stuck_steps:
        draft.emit(_parked(state, at))
        return
    left = tuple(state.in_phase(Phase.UNCOMPENSATED))
    if left:
        reason = f"the compensation of {', '.join(left)} was skipped"
        draft.emit(SagaFailed(at=at, uncompensated=left, reason=reason, actor="eventsaga"))
    else:
        draft.emit(SagaCompensated(at=at))


def _candidates(draft: Draft, ended: StepName | None) -> Iterable[StepName]:
    definition = draft.definition
    if ended is None:
        return reversed(definition.order)
    group = group_of(ended)
    before = seen_through(draft.state, group or ended, definition.compensates_before)
    # In the reverse of the order in which they are written.
    places = definition.order.index
    nearest = sorted(before, key=places, reverse=True)
    return nearest if group is None else (group, *nearest)


def _ready(
    definition: SagaDefinition, state: State, candidates: Iterable[StepName]
) -> Iterator[StepName]:
    for name in candidates:
        if not may_compensate(definition, state, name):
            continue
        if isinstance(definition.steps[name], ForEachDefinition):
            yield from items_to_undo(definition, state, name)
        else:
            yield name


def _due(state: State, at: datetime) -> list[StepName]:
    return [
        name for name in state.open_in(Phase.COMPENSATION_WAITING) if due(state.steps[name], at)
    ]


def _give_up_dead_key(draft: Draft, name: StepName, at: datetime, *, hold: bool) -> bool:
    """Give a compensation up whose key the other side may have forgotten."""
    step, ttl = draft.state.steps[name], _key_ttl(draft.definition, name)
    if hold or not step.undo_doubted or not key_is_dead(ttl, step.undo_first_at, at):
        return False
    draft.emit(
        StepCompensationFailed(
            at=at,
            step=name,
            attempt=step.undo_attempt,
            error_type="KeyExpired",
            message=f"the idempotency key is older than {ttl}: it is not sent again",
        )
    )
    return True


def _key_ttl(definition: SagaDefinition, name: StepName) -> timedelta | None:
    leaf = definition.steps[group_of(name) or name]
    return None if isinstance(leaf, ChildDefinition) else definition.task(name).key_ttl


def _start(draft: Draft, name: StepName, at: datetime) -> None:
    state = draft.state
    step = state.steps[name]
    is_child = isinstance(draft.definition.steps.get(name), ChildDefinition)
    draft.emit(
        StepCompensationStarted(
            at=at,
            step=name,
            attempt=step.undo_attempt + 1,
            idempotency_key=idempotency_key(state, name, Operation.COMPENSATE),
            outcome=step.outcome,
            child_id=child_id(state.saga_id, name, step.attempt) if is_child else None,
        )
    )


def _parked(state: State, at: datetime) -> SagaParked:
    failed = tuple(state.stuck_steps)
    reports = "; ".join(f"{name}: {state.steps[name].message}" for name in failed)
    return SagaParked(
        at=at,
        reason=ParkReason.COMPENSATION_FAILED,
        steps=failed,
        message=f"compensation gave up on {reports}",
        remedy=_REMEDY,
    )

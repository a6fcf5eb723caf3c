"""What is due? The worker asks after every append, recovery asks after a replay.

Because both ask the same question of the same state, a crash between an append and its
effects loses no work: whoever loads the saga next is told of the same effects.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from eventsaga.core.definition import ForEachDefinition, Hook, StepName
from eventsaga.core.events import Operation, Outcome
from eventsaga.core.graph import SagaDefinition
from eventsaga.core.ready import (
    SETTLING,
    items_to_undo,
    may_compensate,
    may_start,
    owed_hook,
    pivot_is_open,
)
from eventsaga.core.state import Phase, State, Status, StepState


@dataclass(frozen=True, slots=True)
class RunStep:
    """Run this attempt of the step; its intent is committed."""

    step: StepName
    attempt: int
    operation: Operation
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class StartChild:
    """See to it that the child of this attempt of the step exists."""

    step: StepName
    attempt: int


@dataclass(frozen=True, slots=True)
class RunHook:
    """Tell a hook how the saga ended, at *not_before* or later; None for now.

    Hooks have no intent of their own: they run at least once.

    Attributes:
        settled_seq: Which end it is told of; a saga can be parked more than once.
    """

    hook: Hook
    settled_seq: int
    attempt: int
    not_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Send `Wake` at this instant, or later."""

    at: datetime


Effect = RunStep | StartChild | RunHook | WakeAt

_OPERATION_IN: Final = {
    Phase.RUNNING: Operation.EXECUTE,
    Phase.VERIFYING: Operation.VERIFY,
    Phase.COMPENSATING: Operation.COMPENSATE,
}


def react(definition: SagaDefinition, state: State) -> tuple[Effect, ...]:
    """Return the I/O that is due in *state*; () if the saga waits for nothing but others.

    Args:
        definition: The definition that the saga was started with.
        state: Where it stands.
    """
    if state.status.is_settled or state.seq == 0:
        return _react_settled(definition, state)
    due: list[Effect] = []
    runs = False
    wake_at: datetime | None = None
    going_back = state.turn is not None and not state.is_backward
    for name in state.open_steps:
        step = state.steps[name]
        if step.phase in _OPERATION_IN:
            due.append(_run(name, step))
            runs = True
        elif step.phase is Phase.CHILD:
            due.append(StartChild(name, step.attempt))
        elif not going_back:
            # On the way back nothing is tried again.
            wake_at = _earlier(wake_at, step.retry_at)
    if not runs and _is_held_back(definition, state):
        return (*due, WakeAt(state.updated_at))
    if state.status is not Status.COMPENSATING and _deadline_counts(definition, state):
        wake_at = _earlier(wake_at, state.deadline_at)
    return tuple(due) if wake_at is None else (*due, WakeAt(wake_at))


def _run(name: StepName, step: StepState) -> RunStep:
    operation = _OPERATION_IN[step.phase]
    attempt = step.undo_attempt if operation is Operation.COMPENSATE else step.attempt
    return RunStep(name, attempt, operation, step.outcome)


def _react_settled(definition: SagaDefinition, state: State) -> tuple[Effect, ...]:
    hook = owed_hook(definition, state)
    if hook is None:
        return ()
    return (RunHook(hook, state.settled_seq, state.hook_attempts + 1, state.hook_at),)


def _deadline_counts(definition: SagaDefinition, state: State) -> bool:
    return state.turn is None and not state.committed and not pivot_is_open(definition, state)


def _is_held_back(definition: SagaDefinition, state: State) -> bool:
    """Whether something is due that waits for nothing: a worker that stopped left it behind."""
    if not state.open_steps:
        return True
    if state.status is Status.COMPENSATING:
        return any(_may_compensate(definition, state, name) for name in definition.order)
    if state.turn is not None or state.stuck_steps:
        return next(state.open_in(*SETTLING), None) is None
    if any(_has_room(definition, state, name) for name in state.open_in(Phase.FANNED)):
        return True
    return any(may_start(definition, state, name) for name in definition.order)


def _may_compensate(definition: SagaDefinition, state: State, name: StepName) -> bool:
    if not may_compensate(definition, state, name):
        return False
    if isinstance(definition.steps[name], ForEachDefinition):
        return bool(items_to_undo(definition, state, name))
    return True


def _has_room(definition: SagaDefinition, state: State, group: StepName) -> bool:
    leaf, items = definition.steps[group], state.items[group]
    assert isinstance(leaf, ForEachDefinition), "only groups have items"
    return items.begun < len(items.values) and items.under_way < leaf.max_concurrency


def _earlier(one: datetime | None, other: datetime | None) -> datetime | None:
    if one is None or other is None:
        return one or other
    return min(one, other)

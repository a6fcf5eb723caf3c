"""What is due? The worker asks after every append, recovery asks after a replay.

Because both ask the same question of the same state, a crash between an append and its
effects loses no work: whoever loads the saga next is told of the same effects.
"""

from dataclasses import dataclass
from datetime import datetime

from eventsaga.core.definition import SagaDefinition, StepName
from eventsaga.core.events import Operation, Outcome
from eventsaga.core.ready import may_compensate, may_start
from eventsaga.core.state import Phase, State, Status


@dataclass(frozen=True, slots=True)
class RunStep:
    """Run this attempt of the step; its intent is committed."""

    step: StepName
    attempt: int
    operation: Operation
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Send `Wake` at this instant, or later."""

    at: datetime


Effect = RunStep | WakeAt


def react(definition: SagaDefinition, state: State) -> tuple[Effect, ...]:
    """Return the I/O that is due in *state*; () if the saga is settled.

    Args:
        definition: The definition that the saga was started with.
        state: Where it stands.
    """
    if state.status.is_settled or state.seq == 0:
        return ()
    running: list[Effect] = []
    wake_at: datetime | None = None
    for name in state.open_steps:
        step = state.steps[name]
        if step.phase is Phase.RUNNING:
            running.append(RunStep(name, step.attempt, Operation.EXECUTE, step.outcome))
        elif step.phase is Phase.COMPENSATING:
            running.append(RunStep(name, step.undo_attempt, Operation.COMPENSATE, step.outcome))
        else:
            wake_at = _earlier(wake_at, step.retry_at)
    if not running and _is_held_back(definition, state):
        return (WakeAt(state.updated_at),)
    if state.status is Status.RUNNING:
        # On the way back nothing is tried again, and the deadline has lost its meaning.
        wake_at = _earlier(wake_at, state.deadline_at) if state.turn is None else None
    return tuple(running) if wake_at is None else (*running, WakeAt(wake_at))


def _is_held_back(definition: SagaDefinition, state: State) -> bool:
    """Whether something is due that waits for nothing: a worker that stopped left it behind."""
    if not state.open_steps:
        return True
    if state.status is Status.COMPENSATING:
        return any(may_compensate(definition, state, name) for name in definition.order)
    return state.turn is not None or any(
        may_start(definition, state, name) for name in definition.order
    )


def _earlier(one: datetime | None, other: datetime | None) -> datetime | None:
    if one is None or other is None:
        return one or other
    return min(one, other)

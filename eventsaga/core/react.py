"""What is due? The worker asks after every append, recovery asks after a replay.

Because both ask the same question of the same state, a crash between an append and its
effects loses no work: whoever loads the saga next is told of the same effects.
"""

from dataclasses import dataclass
from datetime import datetime

from eventsaga.core.definition import SagaDefinition, StepName
from eventsaga.core.events import Operation, Outcome
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
    del definition  # the shapes of this version need the state only
    if state.status.is_settled or state.seq == 0:
        return ()
    effects: list[Effect] = []
    for name in state.open_steps:
        step = state.steps[name]
        if step.phase is Phase.RUNNING:
            effects.append(RunStep(name, step.attempt, Operation.EXECUTE, step.outcome))
        elif step.phase is Phase.COMPENSATING:
            effects.append(RunStep(name, step.undo_attempt, Operation.COMPENSATE, step.outcome))
    wake_at = _wake_at(state)
    if wake_at is not None:
        effects.append(WakeAt(wake_at))
    return tuple(effects)


def _wake_at(state: State) -> datetime | None:
    """Return when the clock matters next; None if only running attempts matter."""
    if state.status is Status.PENDING or not state.open_steps:
        return state.updated_at  # a worker that stopped held back what follows
    instants = [
        retry_at
        for name in state.open_steps
        if (retry_at := state.steps[name].retry_at) is not None
    ]
    if state.status is Status.RUNNING:
        if state.turn is not None:
            # Going back waits for running attempts only; with none, it is due now.
            running = next(state.open_in(Phase.RUNNING), None)
            return None if running else state.updated_at
        if state.deadline_at is not None:
            instants.append(state.deadline_at)
    return min(instants, default=None)

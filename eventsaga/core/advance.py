"""What follows from what was decided? All rules about order stand here.

A draft is a decision being made. `advance` adds to it whatever is due in the state that it
has reached: the next steps, the turn, the compensations, the end. The commands of `decide`
only say what happened.
"""

from datetime import datetime
from typing import Final

from eventsaga.core.definition import SagaDefinition, StepName
from eventsaga.core.events import (
    CompensationStarted,
    Operation,
    ParkReason,
    SagaCompensated,
    SagaCompleted,
    SagaDeadlineExceeded,
    SagaEvent,
    SagaParked,
    StepCompensationStarted,
    StepStarted,
)
from eventsaga.core.ready import may_compensate, may_start
from eventsaga.core.state import Phase, State, Status, apply

_GOING_FORWARD: Final = frozenset({Status.PENDING, Status.RUNNING})


def idempotency_key(state: State, step: StepName, operation: Operation) -> str:
    """Return the key of *operation*; the same for every attempt, process and restart."""
    key = f"{state.saga_id}/{step}"
    return key if operation is Operation.EXECUTE else f"{key}/compensate"


class Draft:
    """A decision being made: the events so far and the state that they lead to."""

    __slots__ = ("definition", "events", "state")

    def __init__(self, definition: SagaDefinition, state: State) -> None:
        self.definition = definition
        self.state = state.copy()
        self.events: list[SagaEvent] = []

    def emit(self, event: SagaEvent) -> None:
        """Decide *event*, and go on from the state that it leads to."""
        self.events.append(event)
        apply(self.state, event)


def advance(
    draft: Draft, at: datetime, *, hold: bool = False, ended: StepName | None = None
) -> None:
    """Emit everything that is due in the state that the draft has reached.

    Args:
        draft: The decision so far.
        at: The time.
        hold: Begin nothing; only an end that has been reached is recorded.
        ended: The step of which an attempt has just ended: of the steps that were not begun
            only its neighbours can have become due. None to look at all of them.
    """
    state = draft.state
    if state.status in _GOING_FORWARD:
        if state.turn is None:
            _advance_forward(draft, at, hold=hold, ended=ended)
        if state.turn is not None and not hold and not any(state.open_in(Phase.RUNNING)):
            draft.emit(
                CompensationStarted(
                    at=at,
                    reason=state.turn.reason,
                    because_of=state.turn.step,
                    message=state.turn.message,
                )
            )
            ended = None
    if state.status is Status.COMPENSATING:
        _advance_backward(draft, at, hold=hold, ended=ended)


def meet_deadline(draft: Draft, at: datetime) -> bool:
    """Turn the saga back if its time is up; return whether that happened."""
    state = draft.state
    if state.deadline_at is None or at < state.deadline_at or state.turn is not None:
        return False
    draft.emit(SagaDeadlineExceeded(at=at, deadline_at=state.deadline_at))
    return True


def _advance_forward(draft: Draft, at: datetime, *, hold: bool, ended: StepName | None) -> None:
    definition, state = draft.definition, draft.state
    if state.succeeded == len(definition.order):
        draft.emit(SagaCompleted(at=at))
        return
    if hold:
        return
    if meet_deadline(draft, at):
        return
    for name in _due(state, Phase.WAITING, at):
        _start_step(draft, name, state.steps[name].attempt + 1, at)
    for name in definition.order if ended is None else definition.successors[ended]:
        if may_start(definition, state, name):
            _start_step(draft, name, 1, at)


def _start_step(draft: Draft, name: StepName, attempt: int, at: datetime) -> None:
    key = idempotency_key(draft.state, name, Operation.EXECUTE)
    draft.emit(StepStarted(at=at, step=name, attempt=attempt, idempotency_key=key))


def _advance_backward(draft: Draft, at: datetime, *, hold: bool, ended: StepName | None) -> None:
    definition, state = draft.definition, draft.state
    candidates = definition.order if ended is None else definition.compensates_before[ended]
    due = [
        *_due(state, Phase.COMPENSATION_WAITING, at),
        *(name for name in reversed(candidates) if may_compensate(definition, state, name)),
    ]
    if due and hold:
        return
    for name in due:
        step = state.steps[name]
        draft.emit(
            StepCompensationStarted(
                at=at,
                step=name,
                attempt=step.undo_attempt + 1,
                idempotency_key=idempotency_key(state, name, Operation.COMPENSATE),
                outcome=step.outcome,
            )
        )
    if state.open_steps:
        return
    failed = tuple(state.in_phase(Phase.COMPENSATION_FAILED))
    draft.emit(_parked(state, failed, at) if failed else SagaCompensated(at=at))


def _due(state: State, phase: Phase, at: datetime) -> list[StepName]:
    due: list[StepName] = []
    for name in state.open_steps:
        step = state.steps[name]
        if step.phase is phase and step.retry_at is not None and step.retry_at <= at:
            due.append(name)
    return due


def _parked(state: State, failed: tuple[StepName, ...], at: datetime) -> SagaParked:
    reports = "; ".join(f"{name}: {state.steps[name].message}" for name in failed)
    return SagaParked(
        at=at,
        reason=ParkReason.COMPENSATION_FAILED,
        steps=failed,
        message=f"compensation gave up on {reports}",
        remedy="undo by hand what these steps left behind",
    )

"""What is recorded next? `decide` turns a command into events, or refuses it.

One decision holds everything that follows at once: the result of step k and the intent of
step k+1 are one append, so a crash finds no gap between them. All rules about order stand
in `_advance`; the commands only say what happened.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_never

from eventsaga.core.commands import (
    Command,
    HandOver,
    Park,
    RecordDoubt,
    RecordFailure,
    RecordSuccess,
    Recover,
    RequestCancel,
    StartSaga,
    Wake,
)
from eventsaga.core.definition import RetryPolicy, SagaDefinition, StepName
from eventsaga.core.events import (
    CompensationStarted,
    JsonObject,
    Operation,
    ParkReason,
    SagaCancelRequested,
    SagaCompensated,
    SagaCompleted,
    SagaDeadlineExceeded,
    SagaEvent,
    SagaParked,
    SagaRecovered,
    SagaStarted,
    StepCompensated,
    StepCompensationFailed,
    StepCompensationStarted,
    StepFailed,
    StepInDoubt,
    StepStarted,
    StepSucceeded,
)
from eventsaga.core.state import Phase, State, Status, StepState, apply
from eventsaga.errors import IllegalCommandError


@dataclass(frozen=True, slots=True)
class Transition:
    """A decision and where it leads.

    Attributes:
        events: What is to be appended; () if the command changes nothing.
        state: The state after them.
    """

    events: tuple[SagaEvent, ...]
    state: State


def decide(definition: SagaDefinition, state: State, command: Command) -> tuple[SagaEvent, ...]:
    """Return the events that *command* causes. Reads nothing but its arguments.

    Raises:
        IllegalCommandError: If *state* does not allow the command.
    """
    return transition(definition, state, command).events


def transition(definition: SagaDefinition, state: State, command: Command) -> Transition:
    """Decide, and return the next state too, so that the caller need not fold again.

    Raises:
        IllegalCommandError: If *state* does not allow the command.
    """
    if state.seq == 0 and not isinstance(command, StartSaga):
        raise IllegalCommandError("go on", "the saga was never started")
    draft = _Draft(definition, state)
    _handle(draft, command)
    return Transition(tuple(draft.events), draft.state)


def idempotency_key(state: State, step: StepName, operation: Operation) -> str:
    """Return the key of *operation*; the same for every attempt, process and restart."""
    key = f"{state.saga_id}/{step}"
    return key if operation is Operation.EXECUTE else f"{key}/compensate"


class _Draft:
    """A decision being made: the events so far and the state that they lead to."""

    __slots__ = ("definition", "events", "state")

    def __init__(self, definition: SagaDefinition, state: State) -> None:
        self.definition = definition
        self.state = state.copy()
        self.events: list[SagaEvent] = []

    def emit(self, event: SagaEvent) -> None:
        self.events.append(event)
        apply(self.state, event)


def _handle(draft: _Draft, command: Command) -> None:
    match command:
        case RecordSuccess() | RecordFailure() | RecordDoubt():
            _on_attempt_ended(draft, command)
        case StartSaga():
            _on_start(draft, command)
        case Wake():
            _on_wake(draft, command)
        case Recover():
            _on_recover(draft, command)
        case HandOver():
            _interrupt(draft, command.at, "Shutdown", "the worker was shut down")
        case RequestCancel():
            _on_cancel(draft, command)
        case Park():
            _on_park(draft, command)
        case _:
            assert_never(command)


def _on_start(draft: _Draft, command: StartSaga) -> None:
    if draft.state.seq:
        return  # delivered again
    definition = draft.definition
    draft.emit(
        SagaStarted(
            at=command.at,
            saga_name=definition.name,
            version=definition.version,
            fingerprint=definition.fingerprint,
            context=command.context,
            correlation_id=command.correlation_id,
            key=command.key,
            deadline_at=command.at + definition.deadline if definition.deadline else None,
        )
    )


def _on_wake(draft: _Draft, command: Wake) -> None:
    _meet_deadline(draft, command.at)
    _advance(draft, command.at)


def _meet_deadline(draft: _Draft, at: datetime) -> None:
    state = draft.state
    deadline_at = state.deadline_at
    going = state.status in (Status.PENDING, Status.RUNNING) and state.turn is None
    if going and deadline_at is not None and deadline_at <= at:
        draft.emit(SagaDeadlineExceeded(at=at, deadline_at=deadline_at))


def _on_recover(draft: _Draft, command: Recover) -> None:
    if draft.state.status.is_settled:
        return
    draft.emit(
        SagaRecovered(
            at=command.at,
            worker_id=command.worker_id,
            previous_worker_id=command.previous_worker_id,
        )
    )
    # Before anything is tried again: the time may have run out while nobody was there.
    _meet_deadline(draft, command.at)
    _interrupt(draft, command.at, "WorkerLost", "the worker's lease ended during the attempt")
    _advance(draft, command.at)


def _on_cancel(draft: _Draft, command: RequestCancel) -> None:
    state = draft.state
    if state.status.is_settled:
        raise IllegalCommandError("cancel", f"the saga is {state.status}")
    if state.turn is not None:
        return  # it goes back already
    draft.emit(
        SagaCancelRequested(at=command.at, reason=command.reason, actor=command.actor),
    )
    _advance(draft, command.at)


def _on_park(draft: _Draft, command: Park) -> None:
    state = draft.state
    if state.status.is_settled:
        return
    draft.emit(
        SagaParked(
            at=command.at,
            reason=command.reason,
            steps=tuple(state.open_steps),
            message=command.message,
            remedy=command.remedy,
        )
    )


def _on_attempt_ended(draft: _Draft, command: RecordSuccess | RecordFailure | RecordDoubt) -> None:
    step = _running(draft, command)
    if step is None:
        return  # an attempt that was given up already; its successor has the same key
    match command:
        case RecordSuccess():
            draft.emit(_succeeded(draft, command))
        case RecordFailure():
            draft.emit(_failed(command, _retry_at(draft, step, command)))
        case RecordDoubt():
            draft.emit(_in_doubt(command, _retry_at(draft, step, command)))
        case _:
            assert_never(command)
    _advance(draft, command.at, hold=command.hold)


def _succeeded(draft: _Draft, command: RecordSuccess) -> SagaEvent:
    if command.operation is Operation.COMPENSATE:
        return StepCompensated(
            at=command.at, step=command.step, attempt=command.attempt, result=command.result
        )
    return StepSucceeded(
        at=command.at,
        step=command.step,
        attempt=command.attempt,
        result=command.result,
        conflict=_conflict(draft, command.step, command.result),
    )


def _failed(command: RecordFailure, retry_at: datetime | None) -> SagaEvent:
    if command.operation is Operation.COMPENSATE:
        return StepCompensationFailed(
            at=command.at,
            step=command.step,
            attempt=command.attempt,
            error_type=command.error_type,
            message=command.message,
            retry_at=retry_at,
        )
    return StepFailed(
        at=command.at,
        step=command.step,
        attempt=command.attempt,
        error_type=command.error_type,
        message=command.message,
        retry_at=retry_at,
        effect_happened=True if command.effect_happened else None,
    )


def _in_doubt(command: RecordDoubt, retry_at: datetime | None) -> SagaEvent:
    return StepInDoubt(
        at=command.at,
        step=command.step,
        attempt=command.attempt,
        operation=command.operation,
        error_type=command.error_type,
        message=command.message,
        retry_at=retry_at,
    )


def _running(
    draft: _Draft, command: RecordSuccess | RecordFailure | RecordDoubt
) -> StepState | None:
    """Return the step if *command* speaks of its running attempt; None if it is stale."""
    step = draft.state.steps.get(command.step)
    if command.operation is Operation.EXECUTE:
        phase, attempt = Phase.RUNNING, step.attempt if step else 0
    else:
        phase, attempt = Phase.COMPENSATING, step.undo_attempt if step else 0
    if step is None or command.attempt > attempt:
        raise IllegalCommandError(
            "record a result",
            f"attempt {command.attempt} to {command.operation} {command.step!r} never started",
        )
    current = step.phase is phase and command.attempt == attempt
    # A parked saga may show an attempt as running; it was given up.
    return step if current and not draft.state.status.is_settled else None


def _retry_at(
    draft: _Draft, step: StepState, command: RecordFailure | RecordDoubt
) -> datetime | None:
    forward = command.operation is Operation.EXECUTE
    if forward and draft.state.turn is not None:
        return None  # the saga goes back: nothing is tried again
    if not command.retryable:
        return None
    wait = _policy(draft, command.step, command.operation).wait_after(
        (step.spent if forward else step.undo_spent) + 1, command.jitter
    )
    if wait is None:
        return None
    asked = command.retry_after
    return command.at + (wait if asked is None else max(asked, timedelta(0)))


def _policy(draft: _Draft, step: StepName, operation: Operation) -> RetryPolicy:
    definition = draft.definition.steps[step]
    return definition.retry if operation is Operation.EXECUTE else definition.compensate_retry


def _conflict(draft: _Draft, step: StepName, result: JsonObject | None) -> str | None:
    """Return what *result* contradicts in a parallel branch, or None."""
    if not result:
        return None
    for other in draft.definition.concurrent[step]:
        theirs = draft.state.steps.get(other)
        if theirs is None or theirs.phase is not Phase.SUCCEEDED or not theirs.result:
            continue
        shared = [name for name in result if name in theirs.result]
        fields = [name for name in shared if not _is_same(theirs.result[name], result[name])]
        if fields:
            return f"{step!r} and {other!r} returned different values for {', '.join(fields)}"
    return None


def _is_same(one: object, other: object) -> bool:
    # To Python True is 1; to JSON it is not.
    return one == other and isinstance(one, bool) is isinstance(other, bool)


def _interrupt(draft: _Draft, at: datetime, error_type: str, message: str) -> None:
    """Record that running attempts were cut short by the end of their process."""
    if draft.state.status.is_settled:
        return  # parked meanwhile: its attempts were given up
    going_back = draft.state.turn is not None
    for name in tuple(draft.state.open_steps):
        step = draft.state.steps[name]
        if step.phase is Phase.RUNNING:
            operation, attempt = Operation.EXECUTE, step.attempt
        elif step.phase is Phase.COMPENSATING:
            operation, attempt = Operation.COMPENSATE, step.undo_attempt
        else:
            continue
        stays = operation is Operation.EXECUTE and going_back
        draft.emit(
            StepInDoubt(
                at=at,
                step=name,
                attempt=attempt,
                operation=operation,
                error_type=error_type,
                message=message,
                interrupted=True,
                retry_at=None if stays else at,
            )
        )


# -- what follows -------------------------------------------------------------------------


def _advance(draft: _Draft, at: datetime, *, hold: bool = False) -> None:
    """Emit everything that is due in the state that the draft has reached.

    Args:
        draft: The decision so far.
        at: The time.
        hold: Begin nothing; only an end that has been reached is recorded.
    """
    state = draft.state
    if state.status in (Status.PENDING, Status.RUNNING):
        if state.turn is None:
            _advance_forward(draft, at, hold=hold)
        elif not hold and next(state.open_in(Phase.RUNNING), None) is None:
            draft.emit(
                CompensationStarted(
                    at=at,
                    reason=state.turn.reason,
                    because_of=state.turn.step,
                    message=state.turn.message,
                )
            )
    if state.status is Status.COMPENSATING:
        _advance_backward(draft, at, hold=hold)


def _advance_forward(draft: _Draft, at: datetime, *, hold: bool) -> None:
    definition, state = draft.definition, draft.state
    if state.succeeded == len(definition.steps):
        draft.emit(SagaCompleted(at=at))
        return
    if hold:
        return
    for name in _due(state, Phase.WAITING, at):
        _start_step(draft, name, state.steps[name].attempt + 1, at)
    for name in definition.steps:
        if name not in state.steps and _may_start(definition, state, name):
            _start_step(draft, name, 1, at)


def _may_start(definition: SagaDefinition, state: State, name: StepName) -> bool:
    return all(
        before in state.steps and state.steps[before].phase is Phase.SUCCEEDED
        for before in definition.predecessors[name]
    )


def _start_step(draft: _Draft, name: StepName, attempt: int, at: datetime) -> None:
    key = idempotency_key(draft.state, name, Operation.EXECUTE)
    draft.emit(StepStarted(at=at, step=name, attempt=attempt, idempotency_key=key))


def _advance_backward(draft: _Draft, at: datetime, *, hold: bool) -> None:
    state = draft.state
    due = (*_due(state, Phase.COMPENSATION_WAITING, at), *_next_to_compensate(draft))
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


def _due(state: State, phase: Phase, at: datetime) -> tuple[StepName, ...]:
    return tuple(
        name
        for name in state.open_in(phase)
        if (retry_at := state.steps[name].retry_at) is not None and retry_at <= at
    )


def _next_to_compensate(draft: _Draft) -> tuple[StepName, ...]:
    """Return the owed compensations that nothing stands before.

    A step is compensated after everything that depends on it. A compensation that has
    failed for good does not hold up the others: it is settled too, and parks the saga.
    """
    definition, state = draft.definition, draft.state
    settled: set[StepName] = set()
    ready: list[StepName] = []
    # The definition's order is topological, so dependants come first in reverse.
    for name in reversed(definition.order):
        if not settled.issuperset(definition.successors[name]):
            continue
        step = state.steps.get(name)
        if step is None or not _is_owed(definition, name, step):
            settled.add(name)
        elif not step.is_open:
            ready.append(name)
    return tuple(ready)


def _is_owed(definition: SagaDefinition, name: StepName, step: StepState) -> bool:
    return (
        definition.steps[name].compensable
        and step.may_have_happened
        and step.phase not in (Phase.COMPENSATED, Phase.COMPENSATION_FAILED)
    )


def _parked(state: State, failed: tuple[StepName, ...], at: datetime) -> SagaParked:
    reports = "; ".join(f"{name}: {state.steps[name].message}" for name in failed)
    return SagaParked(
        at=at,
        reason=ParkReason.COMPENSATION_FAILED,
        steps=failed,
        message=f"compensation gave up on {reports}",
        remedy="undo what is left by hand, or repair the participant and retry",
    )

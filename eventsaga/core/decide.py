"""What is recorded next? `decide` turns a command into events, or refuses it.

One decision holds everything that follows at once: the result of step k and the intent of
step k+1 are one append, so a crash finds no gap between them. All rules about order stand
in `advance`; the commands only say what happened.
"""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, assert_never

from eventsaga.core.advance import Draft, advance, meet_deadline
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
    JsonObject,
    Operation,
    SagaCancelRequested,
    SagaEvent,
    SagaParked,
    SagaRecovered,
    SagaStarted,
    StepCompensated,
    StepCompensationFailed,
    StepFailed,
    StepInDoubt,
    StepSucceeded,
)
from eventsaga.core.state import Phase, State, Status, StepState
from eventsaga.errors import IllegalCommandError

_GOING_FORWARD: Final = frozenset({Status.PENDING, Status.RUNNING})
_LONGEST_WAIT: Final = timedelta(days=100 * 365)


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
    draft = Draft(definition, state)
    _handle(draft, command)
    return Transition(tuple(draft.events), draft.state)


def _handle(draft: Draft, command: Command) -> None:
    match command:
        case RecordSuccess() | RecordFailure() | RecordDoubt():
            _on_attempt_ended(draft, command)
        case StartSaga():
            _on_start(draft, command)
        case Wake():
            advance(draft, command.at)
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


def _on_start(draft: Draft, command: StartSaga) -> None:
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
            deadline_at=_later(command.at, definition.deadline) if definition.deadline else None,
        )
    )


def _on_recover(draft: Draft, command: Recover) -> None:
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
    meet_deadline(draft, command.at)
    _interrupt(draft, command.at, "WorkerLost", "the worker's lease ended during the attempt")
    advance(draft, command.at)


def _on_cancel(draft: Draft, command: RequestCancel) -> None:
    state = draft.state
    if state.status.is_settled:
        raise IllegalCommandError("cancel", f"the saga is {state.status}")
    if state.turn is not None:
        return  # it goes back already
    draft.emit(
        SagaCancelRequested(at=command.at, reason=command.reason, actor=command.actor),
    )
    advance(draft, command.at)


def _on_park(draft: Draft, command: Park) -> None:
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


def _on_attempt_ended(draft: Draft, command: RecordSuccess | RecordFailure | RecordDoubt) -> None:
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
    advance(draft, command.at, hold=command.hold, ended=command.step)


def _succeeded(draft: Draft, command: RecordSuccess) -> SagaEvent:
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
    draft: Draft, command: RecordSuccess | RecordFailure | RecordDoubt
) -> StepState | None:
    """Return the step if *command* speaks of its running attempt; None if it is stale."""
    step = draft.state.steps.get(command.step)
    if command.operation is Operation.EXECUTE:
        phase, attempt = Phase.RUNNING, step.attempt if step else 0
    else:
        phase, attempt = Phase.COMPENSATING, step.undo_attempt if step else 0
    if step is None or not 1 <= command.attempt <= attempt:
        raise IllegalCommandError(
            "record a result",
            f"attempt {command.attempt} to {command.operation} {command.step!r} never started",
        )
    current = step.phase is phase and command.attempt == attempt
    # A parked saga may show an attempt as running; it was given up.
    return step if current and not draft.state.status.is_settled else None


def _retry_at(
    draft: Draft, step: StepState, command: RecordFailure | RecordDoubt
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
    return _later(command.at, wait if asked is None else max(asked, timedelta(0)))


def _later(at: datetime, wait: timedelta) -> datetime:
    # An instant beyond the year 9999 cannot be written.
    return at + min(wait, _LONGEST_WAIT)


def _policy(draft: Draft, step: StepName, operation: Operation) -> RetryPolicy:
    definition = draft.definition.steps[step]
    return definition.retry if operation is Operation.EXECUTE else definition.compensate_retry


def _conflict(draft: Draft, step: StepName, result: JsonObject | None) -> str | None:
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
    # To Python 1 and True are equal, at any depth; to JSON they are not.
    return one == other and json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _interrupt(draft: Draft, at: datetime, error_type: str, message: str) -> None:
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

"""What became of an attempt? It succeeded, definitely failed, or nobody knows."""

from datetime import datetime, timedelta
from typing import NamedTuple, assert_never

from eventsaga.core.advance import advance
from eventsaga.core.commands import RecordDoubt, RecordFailure, RecordSuccess
from eventsaga.core.conflict import success_of
from eventsaga.core.definition import OnDoubt, StepDefinition, StepName
from eventsaga.core.draft import Draft, later
from eventsaga.core.events import (
    Next,
    Operation,
    SagaEvent,
    StepCompensated,
    StepCompensationFailed,
    StepFailed,
    StepInDoubt,
)
from eventsaga.core.state import Phase, StepState
from eventsaga.errors import IllegalCommandError

Ended = RecordSuccess | RecordFailure | RecordDoubt


class _Sequel(NamedTuple):
    """What follows an attempt that did not succeed.

    Attributes:
        retry_at: The next attempt, or question, is due then.
        then: What follows, if not another attempt or the way back.
    """

    retry_at: datetime | None = None
    then: Next | None = None


_WAY_BACK = _Sequel()
_PARKED = _Sequel(then=Next.PARK)
_PHASE_OF = {
    Operation.EXECUTE: Phase.RUNNING,
    Operation.VERIFY: Phase.VERIFYING,
    Operation.COMPENSATE: Phase.COMPENSATING,
}


def on_attempt_ended(draft: Draft, command: Ended) -> None:
    """Record how an attempt ended, and what follows.

    Raises:
        IllegalCommandError: If there never was such an attempt.
    """
    step = _current(draft, command)
    if step is None:
        return  # an attempt that was given up already; its successor has the same key
    draft.emit(_ended(draft, step, command))
    advance(draft, command.at, hold=command.hold, ended=command.step)


def _current(draft: Draft, command: Ended) -> StepState | None:
    """Return the step if *command* speaks of its running attempt; None if it is stale."""
    step = draft.state.steps.get(command.step)
    back = command.operation is Operation.COMPENSATE
    attempt = 0 if step is None else step.undo_attempt if back else step.attempt
    if step is None or not 1 <= command.attempt <= attempt:
        raise IllegalCommandError(
            "record a result",
            f"attempt {command.attempt} to {command.operation} {command.step!r} never started",
        )
    is_current = step.phase is _PHASE_OF[command.operation] and command.attempt == attempt
    # A parked saga may show an attempt as running; it was given up.
    return step if is_current and not draft.state.status.is_settled else None


def _ended(draft: Draft, step: StepState, command: Ended) -> SagaEvent:
    if command.operation is Operation.COMPENSATE:
        return _compensation_ended(draft, step, command)
    match command:
        case RecordSuccess():
            return _succeeded(draft, command)
        case RecordFailure() if command.operation is Operation.VERIFY:
            return _failed(command, _after_denial(draft, step, command), happened=False)
        case RecordFailure():
            happened = True if command.effect_happened else None
            return _failed(command, _after_failure(draft, step, command), happened=happened)
        case RecordDoubt():
            return _in_doubt(command, _after_doubt(draft, step, command))
        case _:
            assert_never(command)


def _succeeded(draft: Draft, command: RecordSuccess) -> SagaEvent:
    return success_of(
        draft,
        command.at,
        command.step,
        command.attempt,
        command.result,
        pivot=command.step == draft.definition.pivot,
    )


def _failed(command: RecordFailure, sequel: _Sequel, *, happened: bool | None) -> SagaEvent:
    return StepFailed(
        at=command.at,
        step=command.step,
        attempt=command.attempt,
        error_type=command.error_type,
        message=command.message,
        retry_at=sequel.retry_at,
        effect_happened=happened,
        interrupted=True if command.interrupted else None,
        then=sequel.then,
    )


def _in_doubt(command: RecordDoubt, sequel: _Sequel) -> SagaEvent:
    return StepInDoubt(
        at=command.at,
        step=command.step,
        attempt=command.attempt,
        operation=Operation.EXECUTE,
        error_type=command.error_type,
        message=command.message,
        retry_at=sequel.retry_at,
        then=sequel.then,
    )


def _compensation_ended(draft: Draft, step: StepState, command: Ended) -> SagaEvent:
    match command:
        case RecordSuccess():
            return StepCompensated(
                at=command.at, step=command.step, attempt=command.attempt, result=command.result
            )
        case RecordFailure():
            return StepCompensationFailed(
                at=command.at,
                step=command.step,
                attempt=command.attempt,
                error_type=command.error_type,
                message=command.message,
                retry_at=_undo_retry_at(draft, step, command),
                interrupted=True if command.interrupted else None,
            )
        case RecordDoubt():
            return StepInDoubt(
                at=command.at,
                step=command.step,
                attempt=command.attempt,
                operation=Operation.COMPENSATE,
                error_type=command.error_type,
                message=command.message,
                retry_at=_undo_retry_at(draft, step, command),
            )
        case _:
            assert_never(command)


# -- what follows ---------------------------------------------------------------------------


def _after_failure(draft: Draft, step: StepState, command: RecordFailure) -> _Sequel:
    if draft.state.turn is not None:
        return _WAY_BACK  # nothing is tried again
    if command.interrupted:
        return _Sequel(later(command.at, command.retry_after or timedelta(0)))
    retry_at = _retry_at(draft, command, step.spent + 1) if command.retryable else None
    if retry_at is not None:
        return _Sequel(retry_at)
    return _given_up(draft, command.step, doubted=step.doubted or command.effect_happened)


def _after_denial(draft: Draft, step: StepState, command: RecordFailure) -> _Sequel:
    """Return what follows when the other side says that it did not happen."""
    if draft.state.turn is not None:
        return _WAY_BACK
    retry_at = _retry_at(draft, command, max(step.spent, 1))
    if retry_at is None:
        return _PARKED if draft.state.committed else _WAY_BACK
    return _Sequel(retry_at)


def _after_doubt(draft: Draft, step: StepState, command: RecordDoubt) -> _Sequel:
    task = draft.definition.task(command.step)
    if task.on_doubt is OnDoubt.PARK:
        return _PARKED
    if draft.state.turn is not None or task.on_doubt is OnDoubt.COMPENSATE:
        return _WAY_BACK
    wanted = command.retryable or task.on_doubt is OnDoubt.VERIFY
    retry_at = _retry_at(draft, command, step.spent + 1) if wanted else None
    if task.on_doubt is OnDoubt.VERIFY:
        if retry_at is None and command.operation is Operation.EXECUTE:
            retry_at = command.at  # the last attempt is asked about too, once
        return _PARKED if retry_at is None else _Sequel(retry_at, Next.VERIFY)
    if retry_at is not None:
        return _Sequel(retry_at)
    # A pivot in doubt is no reason to go back, unless its doubt can be compensated.
    return _PARKED if _is_stranded(draft, task) else _WAY_BACK


def _given_up(draft: Draft, name: StepName, *, doubted: bool) -> _Sequel:
    """Return what follows the last attempt, which failed; an earlier one may be in doubt."""
    task = draft.definition.task(name)
    if draft.state.committed:
        return _PARKED
    return _PARKED if doubted and _is_stranded(draft, task) else _WAY_BACK


def _is_stranded(draft: Draft, task: StepDefinition) -> bool:
    return draft.state.committed or (task.pivot and not task.compensable)


def _retry_at(draft: Draft, command: RecordFailure | RecordDoubt, spent: int) -> datetime | None:
    wait = draft.definition.task(command.step).retry.wait_after(spent, command.jitter)
    return _asked(command, wait)


def _undo_retry_at(
    draft: Draft, step: StepState, command: RecordFailure | RecordDoubt
) -> datetime | None:
    if isinstance(command, RecordFailure) and command.interrupted:
        return later(command.at, command.retry_after or timedelta(0))
    if not command.retryable:
        return None
    policy = draft.definition.task(command.step).compensate_retry
    return _asked(command, policy.wait_after(step.undo_spent + 1, command.jitter))


def _asked(command: RecordFailure | RecordDoubt, wait: timedelta | None) -> datetime | None:
    if wait is None:
        return None
    asked = command.retry_after
    return later(command.at, wait if asked is None else max(asked, timedelta(0)))


# -- attempts cut short ---------------------------------------------------------------------


def interrupt(draft: Draft, at: datetime, error_type: str, message: str) -> None:
    """Record that running attempts were cut short by the end of their process."""
    if draft.state.status.is_settled:
        return  # parked meanwhile: its attempts were given up
    cut_short(draft, at, error_type, message)


def cut_short(draft: Draft, at: datetime, error_type: str, message: str) -> None:
    """Record that attempts which show as running are not, whatever became of them."""
    for name in tuple(draft.state.open_steps):
        step = draft.state.steps[name]
        if step.phase is Phase.COMPENSATING:
            draft.emit(_undo_cut_short(draft, name, step, at, error_type, message))
        elif step.phase is Phase.RUNNING or step.phase is Phase.VERIFYING:
            draft.emit(_cut_short(draft, name, step, at, error_type, message))


def _undo_cut_short(  # noqa: PLR0917 - the fields of the event
    draft: Draft, name: StepName, step: StepState, at: datetime, error_type: str, message: str
) -> SagaEvent:
    if draft.definition.task(name).transactional:
        # Its transaction died with the process: nothing is in doubt.
        return StepCompensationFailed(
            at=at,
            step=name,
            attempt=step.undo_attempt,
            error_type=error_type,
            message=message,
            retry_at=at,
            interrupted=True,
        )
    return StepInDoubt(
        at=at,
        step=name,
        attempt=step.undo_attempt,
        operation=Operation.COMPENSATE,
        error_type=error_type,
        message=message,
        interrupted=True,
        retry_at=at,
    )


def _cut_short(  # noqa: PLR0917 - the fields of the event
    draft: Draft, name: StepName, step: StepState, at: datetime, error_type: str, message: str
) -> SagaEvent:
    task = draft.definition.task(name)
    going_back = draft.state.turn is not None
    if task.transactional:
        return StepFailed(
            at=at,
            step=name,
            attempt=step.attempt,
            error_type=error_type,
            message=message,
            interrupted=True,
            retry_at=None if going_back else at,
        )
    sequel = _after_interruption(task, at, going_back=going_back)
    return StepInDoubt(
        at=at,
        step=name,
        attempt=step.attempt,
        operation=Operation.EXECUTE,
        error_type=error_type,
        message=message,
        interrupted=True,
        retry_at=sequel.retry_at,
        then=sequel.then,
    )


def _after_interruption(task: StepDefinition, at: datetime, *, going_back: bool) -> _Sequel:
    match task.on_doubt:
        case OnDoubt.PARK:
            return _PARKED
        case OnDoubt.COMPENSATE:
            return _WAY_BACK
        case OnDoubt.RETRY:
            return _WAY_BACK if going_back else _Sequel(at)
        case OnDoubt.VERIFY:
            return _WAY_BACK if going_back else _Sequel(at, Next.VERIFY)
        case _:
            assert_never(task.on_doubt)

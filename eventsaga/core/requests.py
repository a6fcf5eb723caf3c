"""What did somebody outside say? Signals, children, hooks, and what a person asks."""

from typing import Final, assert_never

from eventsaga.core.advance import advance
from eventsaga.core.attempts import cut_short
from eventsaga.core.commands import (
    Abandon,
    ReceiveSignal,
    RecordChildEnded,
    RecordHook,
    RequestCancel,
    RequestUndo,
    ResolveStep,
    RetrySaga,
    SkipStep,
)
from eventsaga.core.conflict import conflict_of, success_of
from eventsaga.core.definition import (
    ChildDefinition,
    RetryPolicy,
    SignalDefinition,
    StepName,
)
from eventsaga.core.draft import Draft, child_id, later
from eventsaga.core.events import (
    ChildEnded,
    HookDelivered,
    HookFailed,
    JsonObject,
    Next,
    Resolution,
    SagaCancelRequested,
    SagaFailed,
    SagaRetried,
    SignalReceived,
    StepCompensated,
    StepCompensationFailed,
    StepFailed,
    StepResolved,
    StepSkipped,
    UndoRequested,
)
from eventsaga.core.forward import child_patch, signal_patch
from eventsaga.core.ready import owed_hook
from eventsaga.core.state import Phase, Status, StepState
from eventsaga.core.verbs import Verb, require, retriable
from eventsaga.errors import IllegalCommandError

Request = RequestCancel | RetrySaga | SkipStep | ResolveStep | Abandon | RequestUndo

HOOK_POLICY: Final = RetryPolicy(max_attempts=10)


def on_request(draft: Draft, command: Request) -> None:
    """Do what a person asks.

    Raises:
        IllegalCommandError: If the saga's state does not allow it; the error lists what
            would be legal.
    """
    was_parked = draft.state.status is Status.PARKED
    match command:
        case RequestCancel():
            _on_cancel(draft, command)
        case RetrySaga():
            _on_retry(draft, command)
        case SkipStep():
            _on_skip(draft, command)
        case ResolveStep():
            _on_resolve(draft, command)
        case Abandon():
            _on_abandon(draft, command)
            return
        case RequestUndo():
            require(draft.definition, draft.state, Verb.UNDO)
            draft.emit(UndoRequested(at=command.at, reason=command.reason, actor=command.actor))
        case _:
            assert_never(command)
    if was_parked and draft.state.status is not Status.PARKED:
        # What a poison saga left behind shows as running still.
        cut_short(draft, command.at, "WorkerLost", "the saga was parked during the attempt")
    advance(draft, command.at)


def _on_cancel(draft: Draft, command: RequestCancel) -> None:
    require(draft.definition, draft.state, Verb.CANCEL)
    if draft.state.turn is not None:
        return  # it goes back already
    draft.emit(SagaCancelRequested(at=command.at, reason=command.reason, actor=command.actor))


def _on_retry(draft: Draft, command: RetrySaga) -> None:
    require(draft.definition, draft.state, Verb.RETRY, command.step)
    everything = retriable(draft.definition, draft.state)
    chosen = everything if command.step is None else (command.step,)
    draft.emit(SagaRetried(at=command.at, steps=chosen, reason=command.reason, actor=command.actor))


def _on_skip(draft: Draft, command: SkipStep) -> None:
    require(draft.definition, draft.state, Verb.SKIP, command.step)
    draft.emit(
        StepSkipped(at=command.at, step=command.step, reason=command.reason, actor=command.actor)
    )


def _on_resolve(draft: Draft, command: ResolveStep) -> None:
    definition, state = draft.definition, draft.state
    require(definition, state, Verb.RESOLVE, command.step, command.resolution)
    leaf = definition.steps.get(command.step)
    result: JsonObject | None = command.result
    if isinstance(leaf, SignalDefinition) and result is not None:
        result = signal_patch(leaf, result)
    elif isinstance(leaf, ChildDefinition) and result is not None:
        result = child_patch(leaf, result)
    succeeded = command.resolution is Resolution.SUCCEEDED
    conflict = conflict_of(definition, state, command.step, result) if succeeded else None
    if conflict is not None:
        raise IllegalCommandError(f"resolve {command.step} {command.resolution}", conflict)
    is_pivot = succeeded and command.step == definition.pivot
    draft.emit(
        StepResolved(
            at=command.at,
            step=command.step,
            resolution=command.resolution,
            result=result if succeeded else None,
            reason=command.reason,
            actor=command.actor,
            pivot=True if is_pivot else None,
        )
    )


def _on_abandon(draft: Draft, command: Abandon) -> None:
    require(draft.definition, draft.state, Verb.ABANDON)
    state = draft.state
    left = tuple(
        name
        for name, step in state.steps.items()
        if _may_be_left(draft, name, step)
        and step.phase is not Phase.COMPENSATED
        and name not in state.items  # each item stands for itself
        and draft.definition.compensable(name)
    )
    draft.emit(
        SagaFailed(at=command.at, uncompensated=left, reason=command.reason, actor=command.actor)
    )


def _may_be_left(draft: Draft, name: StepName, step: StepState) -> bool:
    if step.may_have_happened:
        return True
    # What a poison saga left behind shows as running still; a transaction died with it.
    if step.phase is Phase.RUNNING:
        return not draft.definition.task(name).transactional
    return step.phase is Phase.CHILD


# -- signals --------------------------------------------------------------------------------


def on_signal(draft: Draft, command: ReceiveSignal) -> None:
    """Keep a signal, and go on if it is waited for.

    Raises:
        IllegalCommandError: If the saga has ended, or never waits for such a signal.
    """
    state = draft.state
    if command.id in state.signal_ids:
        return  # delivered again
    known = {
        leaf.signal
        for leaf in draft.definition.steps.values()
        if isinstance(leaf, SignalDefinition)
    }
    asked = f"signal {command.signal}"
    if command.signal not in known:
        names = ", ".join(sorted(known)) or "none"
        raise IllegalCommandError(asked, f"the saga waits for no such signal (it knows: {names})")
    if state.status.is_terminal:
        raise IllegalCommandError(asked, f"the saga is {state.status}")
    draft.emit(
        SignalReceived(
            at=command.at,
            signal=command.signal,
            id=command.id,
            payload=command.payload,
            actor=command.actor,
        )
    )
    advance(draft, command.at)


# -- children -------------------------------------------------------------------------------


def on_child_ended(draft: Draft, command: RecordChildEnded) -> None:
    """Record how a child ended, and what that means for its step."""
    step = draft.state.steps.get(command.step)
    if step is None or draft.state.status.is_terminal:
        return
    if command.child_id != child_id(draft.state.saga_id, command.step, step.attempt):
        return  # that of an earlier attempt, whose end is known
    if step.phase is Phase.CHILD and not command.refused:
        draft.emit(_child_ended(command))
        _end_child(draft, command, step.attempt)
    elif step.phase is Phase.CHILD_UNDO and _undo_has_ended(command):
        if not command.refused:
            draft.emit(_child_ended(command))
        _end_undo(draft, command, step.undo_attempt)
    else:
        return  # told again
    advance(draft, command.at, ended=command.step)


def _undo_has_ended(command: RecordChildEnded) -> bool:
    # That it had completed is old news, which was told before it was asked to undo itself.
    return command.refused or command.status != Status.COMPLETED.value


def _child_ended(command: RecordChildEnded) -> ChildEnded:
    return ChildEnded(
        at=command.at,
        step=command.step,
        child_id=command.child_id,
        status=command.status,
        message=command.message,
    )


def _end_child(draft: Draft, command: RecordChildEnded, attempt: int) -> None:
    if command.status != Status.COMPLETED.value:
        goes_back = not draft.state.committed
        draft.emit(
            StepFailed(
                at=command.at,
                step=command.step,
                attempt=attempt,
                error_type="ChildFailed",
                message=f"child saga is {command.status}: {command.message}",
                # What a child that was given up has left behind, nobody has undone.
                effect_happened=(goes_back and command.status == Status.FAILED.value) or None,
                then=None if goes_back else Next.PARK,
            )
        )
        return
    leaf = draft.definition.steps[command.step]
    assert isinstance(leaf, ChildDefinition), "only children end"
    patch = child_patch(leaf, command.context)
    draft.emit(success_of(draft, command.at, command.step, attempt, patch))


def _end_undo(draft: Draft, command: RecordChildEnded, attempt: int) -> None:
    if command.status == Status.COMPENSATED.value and not command.refused:
        draft.emit(StepCompensated(at=command.at, step=command.step, attempt=attempt))
        return
    draft.emit(
        StepCompensationFailed(
            at=command.at,
            step=command.step,
            attempt=attempt,
            error_type="ChildNotUndone",
            message=command.message or f"child saga is {command.status}",
        )
    )


# -- hooks ----------------------------------------------------------------------------------


def on_hook(draft: Draft, command: RecordHook) -> None:
    """Record that a hook was told how the saga ended, or why it was not."""
    state = draft.state
    is_owed = owed_hook(draft.definition, state) is command.hook
    if not is_owed or command.settled_seq != state.settled_seq:
        return  # delivered again, or told of an end that is not the last one any more
    attempt = state.hook_attempts + 1
    if command.error_type is None:
        draft.emit(HookDelivered(at=command.at, hook=command.hook, attempt=attempt))
        return
    wait = HOOK_POLICY.wait_after(attempt, command.jitter) if command.retryable else None
    draft.emit(
        HookFailed(
            at=command.at,
            hook=command.hook,
            attempt=attempt,
            error_type=command.error_type,
            message=command.message,
            retry_at=None if wait is None else later(command.at, wait),
        )
    )

"""What begins on the way forward? Steps in order, waits that are over, and the end."""

from collections import deque
from dataclasses import replace
from datetime import datetime
from typing import assert_never

from eventsaga.core.answers import AnswerError
from eventsaga.core.conflict import success_of
from eventsaga.core.definition import (
    ChildDefinition,
    ForEachDefinition,
    OnTimeout,
    SignalDefinition,
    SleepDefinition,
    StepDefinition,
    StepName,
    group_of,
    item_name,
)
from eventsaga.core.draft import Draft, child_id, due, idempotency_key, key_is_dead, later
from eventsaga.core.events import (
    ChildStarted,
    ForEachStarted,
    JsonObject,
    Next,
    Operation,
    SagaCompleted,
    SagaDeadlineExceeded,
    SignalAwaited,
    StepFailed,
    StepInDoubt,
    StepSkipped,
    StepStarted,
    StepSucceeded,
    TimerFired,
    TimerStarted,
    VerificationStarted,
)
from eventsaga.core.ready import may_start, pivot_is_open
from eventsaga.core.state import Phase, State, StepState


def advance_forward(draft: Draft, at: datetime, *, hold: bool, ended: StepName | None) -> None:
    """Emit what is due on the way forward; see `eventsaga.core.advance.advance`."""
    if not _is_finished(draft):
        if not hold and meet_deadline(draft, at):
            return
        _go_on(draft, at, hold=hold, ended=ended)
    if _is_finished(draft):
        draft.emit(SagaCompleted(at=at))


def meet_deadline(draft: Draft, at: datetime) -> bool:
    """Turn the saga back if its time is up; return whether that happened."""
    state = draft.state
    if state.deadline_at is None or at < state.deadline_at or state.turn is not None:
        return False
    if state.committed or pivot_is_open(draft.definition, state):
        return False
    draft.emit(SagaDeadlineExceeded(at=at, deadline_at=state.deadline_at))
    return True


def _is_finished(draft: Draft) -> bool:
    state = draft.state
    return state.turn is None and state.succeeded == len(draft.definition.order)


def _is_stopped(state: State) -> bool:
    """Whether nothing new may begin: the saga goes back, or needs a person."""
    return state.turn is not None or bool(state.stuck_steps)


def _go_on(draft: Draft, at: datetime, *, hold: bool, ended: StepName | None) -> None:
    definition, state = draft.definition, draft.state
    groups, beginning = _neighbours(draft, ended)
    todo = deque(beginning)
    for group in groups:
        if _fan_out(draft, group, at, hold=hold):
            todo.extend(definition.successors[group])
    if hold:
        return
    for name in tuple(state.open_steps):
        # What was begun goes on beside a step that gave up; only nothing new begins.
        if state.turn is None and _take_up(draft, name, at):
            todo.extend(definition.successors[group_of(name) or name])
    while todo and not _is_stopped(state):
        name = todo.popleft()
        if may_start(definition, state, name) and _begin(draft, name, at, 1):
            todo.extend(definition.successors[name])


def _neighbours(
    draft: Draft, ended: StepName | None
) -> tuple[tuple[StepName, ...], tuple[StepName, ...]]:
    """Return which groups may have room now, and which steps may be due."""
    definition = draft.definition
    if ended is None:
        return tuple(draft.state.open_in(Phase.FANNED)), definition.order
    group = group_of(ended)
    return ((), definition.successors[ended]) if group is None else ((group,), ())


# -- beginning ------------------------------------------------------------------------------


def _begin(draft: Draft, name: StepName, at: datetime, attempt: int) -> bool:
    """Begin a step; return whether it has ended at once."""
    leaf = draft.definition.steps[name]
    try:
        if leaf.conditional and attempt == 1 and not draft.answers.holds(draft.state, name):
            draft.emit(StepSkipped(at=at, step=name))
            return True
        match leaf:
            case StepDefinition():
                _start(draft, name, at, attempt)
                return False
            case SleepDefinition():
                draft.emit(TimerStarted(at=at, step=name, fire_at=_fire_at(draft, leaf, at)))
            case SignalDefinition():
                until = None if leaf.timeout is None else later(at, leaf.timeout)
                draft.emit(SignalAwaited(at=at, step=name, signal=leaf.signal, timeout_at=until))
            case ChildDefinition():
                _start_child(draft, name, at, attempt)
            case ForEachDefinition():
                items = draft.answers.items(draft.state, name)
                draft.emit(ForEachStarted(at=at, step=name, items=items, into=leaf.into))
                return _fan_out(draft, name, at, hold=False)
            case _:
                assert_never(leaf)
    except AnswerError as error:
        _refuse(draft, name, at, attempt - 1, error)
        return False
    return _take_up(draft, name, at)


def _start(draft: Draft, name: StepName, at: datetime, attempt: int) -> None:
    key = idempotency_key(draft.state, name, Operation.EXECUTE)
    draft.emit(StepStarted(at=at, step=name, attempt=attempt, idempotency_key=key))


def _start_child(draft: Draft, name: StepName, at: datetime, attempt: int) -> None:
    child = draft.answers.child(draft.state, name)
    draft.emit(
        ChildStarted(
            at=at,
            step=name,
            child_id=child_id(draft.state.saga_id, name, attempt),
            saga_name=child.saga_name,
            version=child.version,
            context=child.context,
        )
    )


def _fire_at(draft: Draft, leaf: SleepDefinition, at: datetime) -> datetime:
    if leaf.duration is not None:
        return later(at, leaf.duration)
    return draft.answers.fire_at(draft.state, leaf.name, at)


def _refuse(draft: Draft, name: StepName, at: datetime, attempt: int, error: AnswerError) -> None:
    """Record that a step cannot begin, because of the user's own function."""
    draft.emit(
        StepFailed(
            at=at,
            step=name,
            attempt=attempt,
            error_type=error.error_type,
            message=error.message,
            then=Next.PARK if draft.state.committed else None,
        )
    )


def _fan_out(draft: Draft, group: StepName, at: datetime, *, hold: bool) -> bool:
    """Begin as many items as there is room for; return whether the group has ended."""
    leaf, state = draft.definition.steps[group], draft.state
    assert isinstance(leaf, ForEachDefinition), "only groups have items"
    items = state.items[group]
    while (
        not hold
        and items.begun < len(items.values)
        and items.under_way < leaf.max_concurrency
        and not _is_stopped(state)
    ):
        _begin_item(draft, leaf, item_name(group, items.begun), at)
    if items.done < len(items.values) or _is_stopped(state):
        return False
    patch = None if items.into is None else {items.into: items.collected()}
    ended = success_of(draft, at, group, 1, patch)
    # The results stand in the events of the items already.
    draft.emit(replace(ended, result=None) if isinstance(ended, StepSucceeded) else ended)
    return True


def _begin_item(draft: Draft, leaf: ForEachDefinition, name: StepName, at: datetime) -> None:
    try:
        if leaf.step.conditional and not draft.answers.holds(draft.state, name):
            draft.emit(StepSkipped(at=at, step=name))
        else:
            _start(draft, name, at, 1)
    except AnswerError as error:
        _refuse(draft, name, at, 0, error)


# -- going on -------------------------------------------------------------------------------


def _take_up(draft: Draft, name: StepName, at: datetime) -> bool:
    """Go on with an open step if its time has come; return whether it has ended."""
    step = draft.state.steps[name]
    match step.phase:
        case Phase.WAITING if due(step, at):
            return _try_again(draft, name, step, at)
        case Phase.VERIFICATION_WAITING if due(step, at):
            draft.emit(VerificationStarted(at=at, step=name, attempt=step.attempt))
        case Phase.SLEEPING if due(step, at):
            draft.emit(TimerFired(at=at, step=name))
            draft.emit(StepSucceeded(at=at, step=name, attempt=step.attempt))
            return True
        case Phase.AWAITING:
            return _take_signal(draft, name, step, at)
        case _:
            pass
    return False


def _try_again(draft: Draft, name: StepName, step: StepState, at: datetime) -> bool:
    group = group_of(name)
    leaf = draft.definition.steps[group or name]
    if isinstance(leaf, ForEachDefinition) and group is not None:
        if step.attempt == 0:
            _begin_item(draft, leaf, name, at)
            return _fan_out(draft, group, at, hold=False)
    elif step.attempt == 0 or not isinstance(leaf, StepDefinition):
        return _begin(draft, name, at, step.attempt + 1)
    ttl = draft.definition.task(name).key_ttl
    if step.doubted and key_is_dead(ttl, step.first_at, at):
        draft.emit(
            StepInDoubt(
                at=at,
                step=name,
                attempt=step.attempt,
                operation=Operation.EXECUTE,
                error_type="KeyExpired",
                message=f"the idempotency key is older than {ttl}: it is not sent again",
                interrupted=True,
                then=Next.PARK,
            )
        )
        return False
    _start(draft, name, at, step.attempt + 1)
    return False


def _take_signal(draft: Draft, name: StepName, step: StepState, at: datetime) -> bool:
    leaf = draft.definition.steps[name]
    assert isinstance(leaf, SignalDefinition), "only signals are awaited"
    waiting = draft.state.signals.get(leaf.signal)
    if waiting:
        return _received(draft, leaf, waiting[0], step, at)
    if not due(step, at):
        return False
    draft.emit(TimerFired(at=at, step=name))
    if leaf.on_timeout is OnTimeout.CONTINUE:
        return _received(draft, leaf, leaf.default or {}, step, at)
    park = leaf.on_timeout is OnTimeout.PARK
    draft.emit(
        StepFailed(
            at=at,
            step=name,
            attempt=step.attempt,
            error_type="TimeoutError",
            message=f"signal {leaf.signal!r} did not come within {leaf.timeout}",
            then=Next.PARK if park else None,
        )
    )
    return False


def _received(
    draft: Draft, leaf: SignalDefinition, payload: JsonObject, step: StepState, at: datetime
) -> bool:
    patch = signal_patch(leaf, payload)
    draft.emit(success_of(draft, at, leaf.name, step.attempt, patch))
    return True


def signal_patch(leaf: SignalDefinition, payload: JsonObject) -> JsonObject | None:
    """Return what *payload* changes in the context."""
    if leaf.into is not None:
        return {leaf.into: payload}
    return {name: payload[name] for name in leaf.fields if name in payload} or None


def child_patch(leaf: ChildDefinition, context: JsonObject) -> JsonObject | None:
    """Return what a child that ended with *context* changes in its parent's."""
    return None if leaf.into is None else {leaf.into: context}

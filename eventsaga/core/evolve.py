"""What does an event change? `evolve` folds one into a state, `replay` many.

Nothing is validated here: history is a fact. `replay` copies the state once per call, not
per event, and never touches the one it was given.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import assert_never

from eventsaga.core.definition import StepName, group_of, item_index, item_name
from eventsaga.core.events import (
    ChildEnded,
    ChildStarted,
    CompensationStarted,
    DataRedacted,
    ForEachStarted,
    HookDelivered,
    HookFailed,
    JsonObject,
    Next,
    Operation,
    Resolution,
    SagaAccepted,
    SagaCancelRequested,
    SagaCompensated,
    SagaCompleted,
    SagaDeadlineExceeded,
    SagaEvent,
    SagaFailed,
    SagaParked,
    SagaRecovered,
    SagaRetried,
    SagaStarted,
    SignalAwaited,
    SignalReceived,
    StepCompensated,
    StepCompensationFailed,
    StepCompensationStarted,
    StepFailed,
    StepInDoubt,
    StepResolved,
    StepSkipped,
    StepStarted,
    StepSucceeded,
    TimerFired,
    TimerStarted,
    TurnReason,
    UndoRequested,
    VerificationStarted,
)
from eventsaga.core.state import Items, Phase, State, Status, StepState, Turn


def evolve(state: State, event: SagaEvent) -> State:
    """Return *state* after *event*."""
    return replay((event,), state)


def replay(events: Iterable[SagaEvent], state: State) -> State:
    """Return *state* after all *events*; *state* itself stays as it is."""
    after = state.copy()
    for event in events:
        apply(after, event)
    return after


def apply(state: State, event: SagaEvent) -> None:
    """Fold *event* into *state* in place; for those who own the state only."""
    status = state.status
    state.seq += 1
    state.updated_at = event.at
    _fold(state, event)
    if state.status is not status or state.seq == 1:
        state.shown_context, state.shown_seq = state.context, state.seq


def _fold(state: State, event: SagaEvent) -> None:  # noqa: C901 - a line for each kind
    match event:
        case StepStarted():
            _apply_step_started(state, event)
        case StepSucceeded():
            _apply_success(state, event)
        case StepFailed() | StepInDoubt() | VerificationStarted():
            _apply_attempt(state, event)
        case StepCompensationStarted() | StepCompensated() | StepCompensationFailed():
            _apply_backward(state, event)
        case (
            TimerStarted()
            | TimerFired()
            | SignalAwaited()
            | SignalReceived()
            | ChildStarted()
            | ChildEnded()
            | ForEachStarted()
            | StepSkipped()
        ):
            _apply_wait(state, event)
        case SagaStarted():
            _apply_started(state, event)
        case SagaAccepted():
            state.context, state.input = event.context, None
            state.deadline_at = event.deadline_at
        case SagaCompleted() | SagaCompensated() | SagaParked() | SagaFailed():
            _settle(state, event)
        case SagaRetried() | StepResolved() | UndoRequested():
            _apply_request(state, event)
        case (
            CompensationStarted()
            | SagaCancelRequested()
            | SagaDeadlineExceeded()
            | SagaRecovered()
            | HookDelivered()
            | HookFailed()
            | DataRedacted()
        ):
            _apply_to_saga(state, event)
        case _:
            assert_never(event)


def _apply_started(state: State, event: SagaStarted) -> None:
    state.saga_name = event.saga_name
    state.version = event.version
    state.fingerprint = event.fingerprint
    state.context, state.input = event.context, event.input
    state.correlation_id = event.correlation_id
    state.key, state.tenant, state.trace = event.key, event.tenant, event.trace
    state.parent_id, state.parent_step = event.parent_id, event.parent_step
    state.deadline_at = event.deadline_at
    state.created_at = event.at


# -- forward --------------------------------------------------------------------------------


def _apply_step_started(state: State, event: StepStarted) -> None:
    before = state.steps.get(event.step)
    step = StepState(Phase.RUNNING, first_at=event.at) if before is None else before.copy()
    step.phase, step.attempt, step.retry_at = Phase.RUNNING, event.attempt, None
    step.first_at = step.first_at or event.at
    if before is None:
        _begin_item(state, event.step)
    _put(state, event.step, step)
    state.status = Status.RUNNING


def _begin_item(state: State, name: StepName) -> None:
    group = group_of(name)
    if group is not None:
        items = state.items[group]
        items.begun = max(items.begun, item_index(name) + 1)


def _apply_success(state: State, event: StepSucceeded) -> None:
    before = state.steps[event.step]
    if before.waits_for is not None:
        _take_signal(state, before.waits_for)
    _succeed(state, event.step, event.attempt, event.result, kept=event.conflict is not None)
    if event.pivot:
        _commit(state)
    if event.conflict is not None:
        _turn(state, event.at, TurnReason.CONFLICT, event.conflict, event.step)


def _succeed(
    state: State, name: StepName, attempt: int, result: JsonObject | None, *, kept: bool = False
) -> None:
    """Take note that the effect of *name* happened; a result that is *kept* is not merged."""
    spent = state.steps[name].spent + 1
    step = StepState(Phase.SUCCEEDED, attempt, spent, result=result)
    _put(state, name, step)
    group = group_of(name)
    if group is None:
        state.succeeded += 1
        items = state.items.get(name)
        if items is not None and items.into is not None and step.result is None:
            step.result = {items.into: items.collected()}
    else:
        items = state.items[group]
        items.done += 1
        if items.into is not None:
            items.results[item_index(name)] = step.result
            return
        if step.result and not kept:
            items.patched.update(dict.fromkeys(step.result, name))
    if step.result and not kept:
        state.context = {**state.context, **step.result}


def _apply_attempt(state: State, event: StepFailed | StepInDoubt | VerificationStarted) -> None:
    match event:
        case StepFailed():
            _end_attempt(state, event, spends=not event.interrupted)
        case StepInDoubt(operation=Operation.COMPENSATE):
            _end_undo_attempt(state, event, spends=not event.interrupted, in_doubt=True)
        case StepInDoubt():
            _end_attempt(state, event, spends=not event.interrupted)
        case VerificationStarted():
            step = state.steps[event.step].copy()
            step.phase, step.retry_at = Phase.VERIFYING, None
            _put(state, event.step, step)
        case _:
            assert_never(event)


def _end_attempt(state: State, event: StepFailed | StepInDoubt, *, spends: bool) -> None:
    before = state.steps.get(event.step)
    step = StepState(Phase.FAILED, 0) if before is None else before.copy()
    if before is None:
        _begin_item(state, event.step)
    if isinstance(event, StepInDoubt):
        step.doubted = True
    elif event.effect_happened is not None:
        step.doubted = event.effect_happened
    # What was asked about an attempt has been counted with the attempt.
    step.spent += spends and not (isinstance(event, StepFailed) and step.phase is Phase.VERIFYING)
    step.retry_at, step.message = event.retry_at, event.message
    if event.then is Next.PARK:
        step.phase = Phase.STUCK
    elif event.retry_at is not None:
        step.phase = Phase.VERIFICATION_WAITING if event.then is Next.VERIFY else Phase.WAITING
    else:
        step.phase = Phase.IN_DOUBT if step.doubted else Phase.FAILED
        _turn(state, event.at, TurnReason.STEP_FAILED, event.message, event.step)
    if step.waits_for is not None and step.doubted:
        _take_signal(state, step.waits_for)  # it came, and contradicts what is known
    step.waits_for = None
    _put(state, event.step, step)
    if state.status is Status.PENDING:
        state.status = Status.RUNNING


def _take_signal(state: State, signal: str) -> None:
    state.signals[signal] = state.signals[signal][1:]


def _apply_wait(  # noqa: C901 - a line for each event
    state: State,
    event: TimerStarted
    | TimerFired
    | SignalAwaited
    | SignalReceived
    | ChildStarted
    | ChildEnded
    | ForEachStarted
    | StepSkipped,
) -> None:
    match event:
        case TimerStarted():
            _wait(state, event.step, Phase.SLEEPING, event.at, until=event.fire_at)
        case SignalAwaited():
            _wait(state, event.step, Phase.AWAITING, event.at, until=event.timeout_at)
            state.steps[event.step].waits_for = event.signal
        case ChildStarted():
            _wait(state, event.step, Phase.CHILD, event.at, until=None)
            state.steps[event.step].result = event.context  # until it is known to exist
        case ForEachStarted():
            _wait(state, event.step, Phase.FANNED, event.at, until=None)
            state.items[event.step] = Items(event.items, event.into)
        case TimerFired():
            step = state.steps[event.step].copy()
            step.waits_for = step.retry_at = None
            state.steps[event.step] = step
        case SignalReceived():
            state.signal_ids.add(event.id)
            state.signals[event.signal] = (*state.signals.get(event.signal, ()), event.payload)
        case StepSkipped():
            _skip(state, event)
        case ChildEnded():
            pass  # what it means for the step follows in an event of its own
        case _:
            assert_never(event)


def _wait(
    state: State, name: StepName, phase: Phase, at: datetime, *, until: datetime | None
) -> None:
    before = state.steps.get(name)
    attempt = 1 if before is None else before.attempt + 1
    _put(state, name, StepState(phase, attempt, retry_at=until, first_at=at))
    state.status = Status.RUNNING


def _skip(state: State, event: StepSkipped) -> None:
    before = state.steps.get(event.step)
    step = StepState(Phase.SKIPPED, 0) if before is None else before.copy()
    if before is None:
        _begin_item(state, event.step)
    if step.phase is Phase.COMPENSATION_FAILED:
        step.phase = Phase.UNCOMPENSATED
    else:
        # What may have happened is compensated all the same if the saga goes back.
        step.phase = Phase.SKIPPED
        _count_skipped(state, event.step)
    step.waits_for = step.retry_at = None
    _put(state, event.step, step)
    if state.status is Status.PENDING:
        state.status = Status.RUNNING
    _resume_if_unstuck(state)


def _count_skipped(state: State, name: StepName) -> None:
    group = group_of(name)
    if group is None:
        state.succeeded += 1
    else:
        state.items[group].done += 1


# -- backward -------------------------------------------------------------------------------


def _apply_backward(
    state: State, event: StepCompensationStarted | StepCompensated | StepCompensationFailed
) -> None:
    step = state.steps[event.step].copy()
    match event:
        case StepCompensationStarted():
            is_child = event.child_id is not None
            step.phase = Phase.CHILD_UNDO if is_child else Phase.COMPENSATING
            step.undo_attempt, step.retry_at = event.attempt, None
            step.undo_first_at = step.undo_first_at or event.at
            _put(state, event.step, step)
        case StepCompensated():
            step.phase = Phase.COMPENSATED
            _put(state, event.step, step)
            if event.result:
                state.context = {**state.context, **event.result}
        case StepCompensationFailed():
            _end_undo_attempt(state, event, spends=not event.interrupted)
        case _:
            assert_never(event)


def _end_undo_attempt(
    state: State,
    event: StepCompensationFailed | StepInDoubt,
    *,
    spends: bool,
    in_doubt: bool = False,
) -> None:
    step = state.steps[event.step].copy()
    step.phase = Phase.COMPENSATION_WAITING if event.retry_at else Phase.COMPENSATION_FAILED
    step.undo_spent += spends
    step.undo_doubted |= in_doubt
    step.retry_at, step.message = event.retry_at, event.message
    _put(state, event.step, step)


def _start_back(state: State) -> None:
    state.status, state.is_backward = Status.COMPENSATING, True
    # Steps that were waiting for another attempt, for a time or for somebody: it will not come.
    _give_up(state, tuple(state.open_steps))
    for group, items in state.items.items():
        names = (item_name(group, index) for index in reversed(range(items.begun)))
        items.to_undo = {name: None for name in names if state.steps[name].is_owed}


def _give_up(state: State, names: tuple[StepName, ...]) -> None:
    for name in names:
        step = state.steps[name].copy()
        step.phase = Phase.IN_DOUBT if step.doubted else Phase.FAILED
        step.retry_at = step.waits_for = None
        _put(state, name, step)


# -- the saga -------------------------------------------------------------------------------


def _settle(state: State, event: SagaCompleted | SagaCompensated | SagaParked | SagaFailed) -> None:
    match event:
        case SagaCompleted():
            state.status = Status.COMPLETED
        case SagaCompensated():
            state.status = Status.COMPENSATED
        case SagaParked():
            state.status = Status.PARKED
            state.park_reason = event.reason
            state.park_message, state.park_remedy = event.message, event.remedy
            state.park_at = event.at
        case SagaFailed():
            state.status = Status.FAILED
            state.uncompensated = event.uncompensated
        case _:
            assert_never(event)
    state.settled_seq = state.seq
    state.hook_attempts, state.hook_at, state.hook_is_done = 0, None, False


def _apply_request(state: State, event: SagaRetried | StepResolved | UndoRequested) -> None:
    match event:
        case SagaRetried():
            for name in event.steps:
                _let_try_again(state, name, event.at)
            # A person decided that it goes on: the time that it took to decide is not counted.
            state.deadline_at = None
            _resume(state)
        case StepResolved():
            _resolve(state, event)
            _resume_if_unstuck(state)
        case UndoRequested():
            _turn(state, event.at, TurnReason.UNDO, event.reason)
            state.status = Status.RUNNING
        case _:
            assert_never(event)


def _let_try_again(state: State, name: StepName, at: datetime) -> None:
    step = state.steps[name].copy()
    step.retry_at = at
    if step.phase is Phase.COMPENSATION_FAILED:
        step.phase, step.undo_spent = Phase.COMPENSATION_WAITING, 0
        step.undo_first_at = None
        group = group_of(name)
        if group is not None:
            state.items[group].to_undo[name] = None
    else:
        step.phase, step.spent = Phase.WAITING, 0
        step.first_at = None
    _put(state, name, step)


def _resolve(state: State, event: StepResolved) -> None:
    before = state.steps[event.step]
    if event.resolution is Resolution.SUCCEEDED:
        _succeed(state, event.step, before.attempt, event.result)
        if event.pivot:
            _commit(state)
        return
    step = before.copy()
    if event.resolution is Resolution.COMPENSATED:
        step.phase = Phase.COMPENSATED
    else:
        step.phase, step.doubted = Phase.FAILED, False
        _turn(state, event.at, TurnReason.STEP_FAILED, event.reason, event.step)
    _put(state, event.step, step)


def _resume_if_unstuck(state: State) -> None:
    if state.status is Status.PARKED and not state.stuck_steps:
        state.deadline_at = None
        _resume(state)


def _resume(state: State) -> None:
    state.status = Status.COMPENSATING if state.is_backward else Status.RUNNING


def _apply_to_saga(  # noqa: C901 - a line for each event
    state: State,
    event: CompensationStarted
    | SagaCancelRequested
    | SagaDeadlineExceeded
    | SagaRecovered
    | HookDelivered
    | HookFailed
    | DataRedacted,
) -> None:
    match event:
        case CompensationStarted():
            _start_back(state)
        case SagaCancelRequested():
            _turn(state, event.at, TurnReason.CANCELLED, event.reason)
            _give_up(state, tuple(state.stuck_steps))
            if state.status is Status.PARKED:
                _resume(state)  # back
        case SagaDeadlineExceeded():
            _turn(state, event.at, TurnReason.DEADLINE, "the saga's deadline has passed")
        case HookDelivered():
            state.hook_attempts, state.hook_at, state.hook_is_done = event.attempt, None, True
        case HookFailed():
            state.hook_attempts, state.hook_at = event.attempt, event.retry_at
            state.hook_is_done = event.retry_at is None
        case DataRedacted():
            state.is_redacted = True
        case SagaRecovered():
            pass  # a fact about ownership; it moves seq and nothing else
        case _:
            assert_never(event)


def _commit(state: State) -> None:
    state.committed = True


def _put(state: State, name: StepName, step: StepState) -> None:
    state.steps[name] = step
    is_open, was_open = step.is_open, name in state.open_steps
    if is_open:
        state.open_steps[name] = None
    elif was_open:
        del state.open_steps[name]
    if step.gave_up:
        state.stuck_steps[name] = None
    elif state.stuck_steps:
        state.stuck_steps.pop(name, None)
    group = group_of(name)
    if group is not None:
        items = state.items[group]
        items.under_way += is_open - was_open
        if items.to_undo and not step.is_owed:
            items.to_undo.pop(name, None)


def _turn(
    state: State, at: datetime, reason: TurnReason, message: str, step: StepName | None = None
) -> None:
    # The first reason stands; a cancel that arrives on the way back changes nothing.
    if state.turn is None:
        state.turn = Turn(reason=reason, step=step, message=message, at=at)

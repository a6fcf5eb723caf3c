"""Which event leads from which status to which? The table is closed: no more, no less."""

from collections.abc import Iterator
from typing import Final

from eventsaga.core.commands import Command, HandOver, Park, Wake
from eventsaga.core.decide import transition
from eventsaga.core.definition import Hook, OnDoubt
from eventsaga.core.events import (
    ChildEnded,
    ChildStarted,
    CompensationStarted,
    DataRedacted,
    ForEachStarted,
    HookDelivered,
    HookFailed,
    ParkReason,
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
    UndoRequested,
    VerificationStarted,
)
from eventsaga.core.evolve import evolve
from eventsaga.core.graph import SagaDefinition
from eventsaga.core.react import RunStep, react
from eventsaga.core.state import State, Status
from eventsaga.errors import IllegalCommandError
from tests.core.histories import (
    BAD,
    SAGA,
    SECOND,
    T0,
    TWICE,
    Says,
    abandon,
    cancel,
    child,
    child_ended,
    doubt,
    fail,
    for_each,
    hook_told,
    parallel,
    pivot,
    recover,
    resolve,
    retry,
    saga,
    signal,
    skip,
    sleep,
    start,
    started_in_sql,
    step,
    succeed,
    undo,
    wait,
)

PENDING, RUNNING, COMPENSATING = Status.PENDING, Status.RUNNING, Status.COMPENSATING
PARKED = Status.PARKED

TRANSITIONS: Final = {
    (PENDING, SagaStarted, PENDING),
    (PENDING, SagaAccepted, PENDING),
    (PENDING, StepStarted, RUNNING),
    (PENDING, StepFailed, RUNNING),
    (PENDING, StepSkipped, RUNNING),
    (PENDING, ForEachStarted, RUNNING),
    (PENDING, TimerStarted, RUNNING),
    (PENDING, SignalAwaited, RUNNING),
    (PENDING, SignalReceived, PENDING),
    (PENDING, ChildStarted, RUNNING),
    (PENDING, CompensationStarted, COMPENSATING),
    (PENDING, SagaCancelRequested, PENDING),
    (PENDING, SagaDeadlineExceeded, PENDING),
    (PENDING, SagaRecovered, PENDING),
    (PENDING, SagaParked, PARKED),
    (RUNNING, SagaAccepted, RUNNING),
    (RUNNING, StepStarted, RUNNING),
    (RUNNING, StepSucceeded, RUNNING),
    (RUNNING, StepFailed, RUNNING),
    (RUNNING, StepInDoubt, RUNNING),
    (RUNNING, VerificationStarted, RUNNING),
    (RUNNING, StepSkipped, RUNNING),
    (RUNNING, ForEachStarted, RUNNING),
    (RUNNING, TimerStarted, RUNNING),
    (RUNNING, TimerFired, RUNNING),
    (RUNNING, SignalAwaited, RUNNING),
    (RUNNING, SignalReceived, RUNNING),
    (RUNNING, ChildStarted, RUNNING),
    (RUNNING, ChildEnded, RUNNING),
    (RUNNING, CompensationStarted, COMPENSATING),
    (RUNNING, SagaCancelRequested, RUNNING),
    (RUNNING, SagaDeadlineExceeded, RUNNING),
    (RUNNING, SagaRecovered, RUNNING),
    (RUNNING, SagaParked, PARKED),
    (RUNNING, SagaCompleted, Status.COMPLETED),
    (COMPENSATING, StepInDoubt, COMPENSATING),
    (COMPENSATING, SignalReceived, COMPENSATING),
    (COMPENSATING, ChildEnded, COMPENSATING),
    (COMPENSATING, StepCompensationStarted, COMPENSATING),
    (COMPENSATING, StepCompensated, COMPENSATING),
    (COMPENSATING, StepCompensationFailed, COMPENSATING),
    (COMPENSATING, SagaRecovered, COMPENSATING),
    (COMPENSATING, SagaParked, PARKED),
    (COMPENSATING, SagaFailed, Status.FAILED),
    (COMPENSATING, SagaCompensated, Status.COMPENSATED),
    (PARKED, StepSucceeded, PARKED),
    (PARKED, StepFailed, PARKED),
    (PARKED, StepSkipped, RUNNING),
    (PARKED, StepSkipped, COMPENSATING),
    (PARKED, StepSkipped, PARKED),
    (PARKED, SignalReceived, PARKED),
    (PARKED, ChildEnded, PARKED),
    (PARKED, StepCompensated, PARKED),
    (PARKED, StepCompensationFailed, PARKED),
    (PARKED, SagaCancelRequested, RUNNING),
    (PARKED, SagaRetried, RUNNING),
    (PARKED, SagaRetried, COMPENSATING),
    (PARKED, StepResolved, RUNNING),
    (PARKED, StepResolved, COMPENSATING),
    (PARKED, StepResolved, PARKED),
    (PARKED, SagaFailed, Status.FAILED),
    (PARKED, HookDelivered, PARKED),
    (PARKED, HookFailed, PARKED),
    (Status.COMPLETED, UndoRequested, RUNNING),
    (Status.COMPLETED, HookDelivered, Status.COMPLETED),
    (Status.COMPLETED, HookFailed, Status.COMPLETED),
    (Status.COMPENSATED, HookDelivered, Status.COMPENSATED),
    (Status.COMPENSATED, HookFailed, Status.COMPENSATED),
}

SMALL: Final = (
    saga(step("a", retry=TWICE, compensate_retry=TWICE), deadline=9 * SECOND),
    saga(step("a"), step("b", compensable=False)),
    saga(parallel(step("a"), step("b", compensable=False))),
    saga(step("a", on_doubt=OnDoubt.VERIFY, compensable=False), hooks=Hook),
    saga(pivot("a"), step("b", on_doubt=OnDoubt.PARK)),
    saga(wait(timeout=9 * SECOND), hooks=[Hook.ON_PARKED]),
    saga(step("b"), wait()),
    saga(step("a", conditional=True), step("b"), sleep(duration=9 * SECOND)),
    saga(sleep(), step("b", conditional=True)),
    saga(step("bad", conditional=True)),
    saga(child(), step("b", transactional=True)),
    saga(for_each(of=step("item", compensable=False))),
)
MOST_ATTEMPTS: Final = 2
ENGINE_PARKS: Final = Park(at=T0, reason=ParkReason.POISON, message="m", remedy="r")


def commands_for(definition: SagaDefinition, state: State) -> Iterator[Command]:
    """Yield everything that may be asked of *state*, once per kind."""
    yield from (start(), Wake(at=T0), Wake(at=T0 + 9 * SECOND), HandOver(at=T0))
    yield from (recover(), cancel(), ENGINE_PARKS)
    for effect in react(definition, state):
        if not isinstance(effect, RunStep):
            continue
        name, attempt, operation = effect.step, effect.attempt, effect.operation
        for hold in (False, True):
            yield succeed(name, {"x": name}, attempt=attempt, operation=operation, hold=hold)
            yield fail(name, attempt=attempt, operation=operation, hold=hold)
            yield doubt(name, attempt=attempt, operation=operation, hold=hold)
    yield from said_outside(definition, state)


def said_outside(definition: SagaDefinition, state: State) -> Iterator[Command]:
    yield from (abandon(), undo(), retry(), signal(number=1))
    for hook in definition.hooks:
        yield hook_told(hook, settled_seq=state.settled_seq)
        yield hook_told(hook, settled_seq=state.settled_seq, failed=True, retryable=False)
    for name in tuple(state.steps):
        yield from (retry(name), skip(name))
        yield from (resolve(name, resolution) for resolution in Resolution)
    if "child" in state.steps:
        attempt = state.steps["child"].attempt
        for status in (Status.COMPLETED, Status.COMPENSATED, Status.FAILED):
            yield child_ended(status=status, attempt=attempt)


def explored(definition: SagaDefinition) -> set[tuple[Status, type[SagaEvent], Status]]:
    """Return every (before, event, after) on any path of few attempts."""
    answers = Says(a=False, bad=BAD)
    found: set[tuple[Status, type[SagaEvent], Status]] = set()
    seen: set[tuple[object, ...]] = set()
    in_sql = [evolve(State(SAGA), started_in_sql(text)) for text in ("good", "bad")]
    ahead = [State(SAGA), *in_sql]
    while ahead:
        state = ahead.pop()
        for command in commands_for(definition, state):
            try:
                decided = transition(definition, state, command, answers)
            except IllegalCommandError:
                continue
            before = state
            for event in decided.events:
                after = evolve(before, event)
                found.add((before.status, type(event), after.status))
                before = after
            if (known := standing(decided.state)) not in seen and is_small(decided.state):
                seen.add(known)
                ahead.append(decided.state)
    return found


def standing(state: State) -> tuple[object, ...]:
    """Return what tells states apart; how they were reached and when does not matter."""
    steps = [
        (name, step.phase, step.attempt, step.undo_attempt, step.doubted, step.retry_at is None)
        for name, step in state.steps.items()
    ]
    heard = (bool(state.signal_ids), bool(state.signals.get("approved")), state.hook_is_done)
    whole = state.status, state.seq > 0, state.turn is None, state.is_backward, state.input
    return *whole, heard, *steps


def is_small(state: State) -> bool:
    return all(
        step.attempt <= MOST_ATTEMPTS and step.undo_attempt <= MOST_ATTEMPTS
        for step in state.steps.values()
    )


def test_the_table_is_exactly_what_can_happen() -> None:
    found = set[tuple[Status, type[SagaEvent], Status]]()
    for definition in SMALL:
        found |= explored(definition)

    assert found == TRANSITIONS


def test_every_event_stands_in_the_table() -> None:
    # A redaction is decided by nobody: it changes what is stored, not where the saga stands.
    decided = set(SagaEvent.__args__) - {DataRedacted}
    assert {event for _, event, _ in TRANSITIONS} == decided


def test_only_people_and_what_is_told_outside_lead_out_of_a_settled_status() -> None:
    left = {
        (before, event)
        for before, event, after in TRANSITIONS
        if before.is_settled and after is not before
    }

    assert left == {
        (PARKED, SagaCancelRequested),
        (PARKED, SagaRetried),
        (PARKED, StepSkipped),
        (PARKED, StepResolved),
        (PARKED, SagaFailed),
        (Status.COMPLETED, UndoRequested),
    }

"""Which event leads from which status to which? The table is closed: no more, no less."""

from collections.abc import Iterator
from typing import Final

from eventsaga.core.commands import Command, HandOver, Park, Wake
from eventsaga.core.decide import transition
from eventsaga.core.definition import SagaDefinition
from eventsaga.core.events import (
    CompensationStarted,
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
from eventsaga.core.react import RunStep, react
from eventsaga.core.state import State, Status, evolve
from eventsaga.errors import IllegalCommandError
from tests.core.histories import (
    SAGA,
    SECOND,
    T0,
    TWICE,
    cancel,
    doubt,
    fail,
    parallel,
    recover,
    saga,
    start,
    step,
    succeed,
)

PENDING, RUNNING, COMPENSATING = Status.PENDING, Status.RUNNING, Status.COMPENSATING

TRANSITIONS: Final[dict[tuple[Status, type[SagaEvent]], Status]] = {
    (PENDING, SagaStarted): PENDING,
    (PENDING, SagaRecovered): PENDING,
    (PENDING, SagaCancelRequested): PENDING,
    (PENDING, SagaDeadlineExceeded): PENDING,
    (PENDING, StepStarted): RUNNING,
    (PENDING, CompensationStarted): COMPENSATING,
    (PENDING, SagaParked): Status.PARKED,
    (RUNNING, SagaRecovered): RUNNING,
    (RUNNING, SagaCancelRequested): RUNNING,
    (RUNNING, SagaDeadlineExceeded): RUNNING,
    (RUNNING, StepStarted): RUNNING,
    (RUNNING, StepSucceeded): RUNNING,
    (RUNNING, StepFailed): RUNNING,
    (RUNNING, StepInDoubt): RUNNING,
    (RUNNING, CompensationStarted): COMPENSATING,
    (RUNNING, SagaCompleted): Status.COMPLETED,
    (RUNNING, SagaParked): Status.PARKED,
    (COMPENSATING, SagaRecovered): COMPENSATING,
    (COMPENSATING, StepInDoubt): COMPENSATING,
    (COMPENSATING, StepCompensationStarted): COMPENSATING,
    (COMPENSATING, StepCompensated): COMPENSATING,
    (COMPENSATING, StepCompensationFailed): COMPENSATING,
    (COMPENSATING, SagaCompensated): Status.COMPENSATED,
    (COMPENSATING, SagaParked): Status.PARKED,
}

SMALL: Final = (
    saga(step("a", retry=TWICE, compensate_retry=TWICE), deadline=9 * SECOND),
    saga(step("a"), step("b", compensable=False)),
    saga(parallel(step("a"), step("b"))),
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


def explored(definition: SagaDefinition) -> set[tuple[Status, type[SagaEvent], Status]]:
    """Return every (before, event, after) on any path of few attempts."""
    found: set[tuple[Status, type[SagaEvent], Status]] = set()
    seen: set[tuple[object, ...]] = set()
    ahead = [State(SAGA)]
    while ahead:
        state = ahead.pop()
        for command in commands_for(definition, state):
            try:
                decided = transition(definition, state, command)
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
    return state.status, state.seq > 0, state.turn is None, *steps


def is_small(state: State) -> bool:
    return all(
        step.attempt <= MOST_ATTEMPTS and step.undo_attempt <= MOST_ATTEMPTS
        for step in state.steps.values()
    )


def test_the_table_is_exactly_what_can_happen() -> None:
    found = set[tuple[Status, type[SagaEvent], Status]]()
    for definition in SMALL:
        found |= explored(definition)

    assert found == {(before, event, after) for (before, event), after in TRANSITIONS.items()}


def test_every_event_stands_in_the_table() -> None:
    assert {event for _, event in TRANSITIONS} == set(SagaEvent.__args__)


def test_nothing_leads_out_of_a_settled_status() -> None:
    assert not {before for before, _ in TRANSITIONS if before.is_settled}

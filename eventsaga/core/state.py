"""Where does a saga stand? `evolve` folds one event into a state, `replay` many.

Nothing is validated here: history is a fact. A state belongs to whoever called `replay`
and is read-only for everybody else; `replay` copies it once per call, not per event, and
never touches the one it was given.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, assert_never
from uuid import UUID

from eventsaga.core.definition import StepName
from eventsaga.core.events import (
    CompensationStarted,
    JsonObject,
    Operation,
    Outcome,
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
    TurnReason,
)

_NEVER: Final = datetime.min.replace(tzinfo=UTC)


class Status(StrEnum):
    """The saga's standing, as users see it."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPENSATING = "COMPENSATING"
    PARKED = "PARKED"
    COMPLETED = "COMPLETED"
    COMPENSATED = "COMPENSATED"
    FAILED = "FAILED"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing can happen any more without an explicit request to undo."""
        return self in _TERMINAL

    @property
    def is_settled(self) -> bool:
        """Whether the engine has nothing left to do: terminal, or waiting for a person."""
        return self in _SETTLED


_TERMINAL: Final = frozenset({Status.COMPLETED, Status.COMPENSATED, Status.FAILED})
_SETTLED: Final = _TERMINAL | {Status.PARKED}


class Phase(StrEnum):
    """Where one step stands."""

    RUNNING = "running"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    IN_DOUBT = "in_doubt"
    COMPENSATING = "compensating"
    COMPENSATION_WAITING = "compensation_waiting"
    COMPENSATED = "compensated"
    COMPENSATION_FAILED = "compensation_failed"


_FORWARD_PHASES: Final = frozenset({Phase.RUNNING, Phase.WAITING, Phase.FAILED, Phase.IN_DOUBT})


@dataclass(slots=True)
class StepState:
    """What is known of one step that was started at least once; shared, hence read-only.

    Attributes:
        phase: Where it stands.
        attempt: Number of the last attempt of the effect.
        spent: Attempts of the effect that count against its policy.
        doubted: An attempt may have had its effect, and none has succeeded.
        retry_at: When the next attempt, of either kind, is due.
        result: What the step returned.
        undo_attempt: Number of the last attempt of the compensation.
        undo_spent: Attempts of the compensation that count against its policy.
        message: What the last attempt that did not succeed reported.
    """

    phase: Phase
    attempt: int = 1
    spent: int = 0
    doubted: bool = False
    retry_at: datetime | None = None
    result: JsonObject | None = None
    undo_attempt: int = 0
    undo_spent: int = 0
    message: str = ""

    def copy(self) -> "StepState":
        """Return one that can be changed without touching this one."""
        return StepState(
            self.phase,
            self.attempt,
            self.spent,
            self.doubted,
            self.retry_at,
            self.result,
            self.undo_attempt,
            self.undo_spent,
            self.message,
        )

    @property
    def is_open(self) -> bool:
        """Whether an attempt is running or will follow."""
        return self.phase in _OPEN_PHASES

    @property
    def is_in_doubt(self) -> bool:
        """Whether the effect may have happened, nobody knows, and it is not undone."""
        return self.doubted and self.phase is not Phase.COMPENSATED

    @property
    def may_have_happened(self) -> bool:
        """Whether a compensation is owed: the effect succeeded, or nobody knows."""
        return self.phase not in _FORWARD_PHASES or self.doubted

    @property
    def outcome(self) -> Outcome:
        """What a compensation is told about the effect."""
        return Outcome.UNKNOWN if self.doubted else Outcome.SUCCEEDED


_OPEN_PHASES: Final = frozenset(
    {Phase.RUNNING, Phase.WAITING, Phase.COMPENSATING, Phase.COMPENSATION_WAITING}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """The first reason for which the saga goes back."""

    reason: TurnReason
    step: StepName | None
    message: str
    at: datetime


@dataclass(slots=True)
class State:
    """A saga after some of its events.

    Attributes:
        saga_id: The saga.
        seq: Number of events folded; 0 before `SagaStarted`.
        status: Where it stands as a whole.
        context: The input with all results merged.
        steps: Every step that was started, in order of first start.
        open_steps: Those with an attempt running or due (a set that keeps its order).
        succeeded: How many steps have succeeded.
        turn: Why it goes back, from the moment that this is certain.
        park_reason: Why it waits for a person.
        park_message: What it waits for.
        deadline_at: After this it goes back; None for never.
        created_at: Time of the first event.
        updated_at: Time of the last event.
    """

    saga_id: UUID
    seq: int = 0
    status: Status = Status.PENDING
    saga_name: str = ""
    version: int = 0
    fingerprint: str = ""
    correlation_id: str = ""
    key: str | None = None
    context: Mapping[str, Any] = field(default_factory=dict[str, Any])
    steps: dict[StepName, StepState] = field(default_factory=dict[StepName, StepState])
    open_steps: dict[StepName, None] = field(default_factory=dict[StepName, None])
    succeeded: int = 0
    turn: Turn | None = None
    park_reason: ParkReason | None = None
    park_message: str = ""
    deadline_at: datetime | None = None
    created_at: datetime = _NEVER
    updated_at: datetime = _NEVER

    def copy(self) -> "State":
        """Return a state that can be folded further without touching this one."""
        return State(
            self.saga_id,
            self.seq,
            self.status,
            self.saga_name,
            self.version,
            self.fingerprint,
            self.correlation_id,
            self.key,
            self.context,
            self.steps.copy(),
            self.open_steps.copy(),
            self.succeeded,
            self.turn,
            self.park_reason,
            self.park_message,
            self.deadline_at,
            self.created_at,
            self.updated_at,
        )

    def in_phase(self, *phases: Phase) -> Iterator[StepName]:
        """Yield the steps that stand in one of *phases*, in order of first start."""
        return (name for name, step in self.steps.items() if step.phase in phases)

    def open_in(self, phase: Phase) -> Iterator[StepName]:
        """Yield the open steps that stand in *phase*; cheaper than `in_phase`."""
        return (name for name in self.open_steps if self.steps[name].phase is phase)


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
    state.seq += 1
    state.updated_at = event.at
    match event:
        case StepStarted():
            _apply_step_started(state, event)
        case StepSucceeded():
            _apply_step_succeeded(state, event)
        case StepFailed():
            _end_attempt(state, event, spends=True, in_doubt=event.effect_happened is True)
        case StepInDoubt():
            _apply_doubt(state, event)
        case StepCompensationStarted() | StepCompensated() | StepCompensationFailed():
            _apply_backward(state, event)
        case SagaStarted():
            _apply_started(state, event)
        case _:
            _apply_to_saga(state, event)


def _apply_started(state: State, event: SagaStarted) -> None:
    state.saga_name = event.saga_name
    state.version = event.version
    state.fingerprint = event.fingerprint
    state.context = event.context
    state.correlation_id = event.correlation_id
    state.key = event.key
    state.deadline_at = event.deadline_at
    state.created_at = event.at


def _apply_step_started(state: State, event: StepStarted) -> None:
    before = state.steps.get(event.step)
    step = StepState(Phase.RUNNING) if before is None else before.copy()
    step.phase, step.attempt, step.retry_at = Phase.RUNNING, event.attempt, None
    state.steps[event.step] = step
    state.open_steps[event.step] = None
    state.status = Status.RUNNING


def _apply_step_succeeded(state: State, event: StepSucceeded) -> None:
    spent = state.steps[event.step].spent + 1
    step = StepState(Phase.SUCCEEDED, event.attempt, spent, result=event.result)
    state.steps[event.step] = step
    del state.open_steps[event.step]
    state.succeeded += 1
    if event.conflict is not None:
        _turn(state, event.at, TurnReason.CONFLICT, event.conflict, event.step)
    elif event.result:
        state.context = {**state.context, **event.result}


def _apply_doubt(state: State, event: StepInDoubt) -> None:
    if event.operation is Operation.EXECUTE:
        _end_attempt(state, event, spends=not event.interrupted, in_doubt=True)
    else:
        _end_undo_attempt(state, event, spends=not event.interrupted)


def _apply_backward(
    state: State, event: StepCompensationStarted | StepCompensated | StepCompensationFailed
) -> None:
    match event:
        case StepCompensationStarted():
            step = state.steps[event.step].copy()
            step.phase, step.undo_attempt = Phase.COMPENSATING, event.attempt
            step.retry_at = None
            _put(state, event.step, step)
        case StepCompensated():
            step = state.steps[event.step].copy()
            step.phase = Phase.COMPENSATED
            _put(state, event.step, step)
            if event.result:
                state.context = {**state.context, **event.result}
        case StepCompensationFailed():
            _end_undo_attempt(state, event, spends=True)
        case _:
            assert_never(event)


def _apply_to_saga(
    state: State,
    event: CompensationStarted
    | SagaCancelRequested
    | SagaDeadlineExceeded
    | SagaRecovered
    | SagaParked
    | SagaCompleted
    | SagaCompensated,
) -> None:
    match event:
        case CompensationStarted():
            state.status = Status.COMPENSATING
            _give_up_retries(state)
        case SagaCancelRequested():
            _turn(state, event.at, TurnReason.CANCELLED, event.reason)
        case SagaDeadlineExceeded():
            _turn(state, event.at, TurnReason.DEADLINE, "the saga's deadline has passed")
        case SagaParked():
            state.status = Status.PARKED
            state.park_reason = event.reason
            state.park_message = event.message
        case SagaCompleted():
            state.status = Status.COMPLETED
        case SagaCompensated():
            state.status = Status.COMPENSATED
        case SagaRecovered():
            pass  # a fact about ownership; it moves seq and nothing else
        case _:
            assert_never(event)


def _end_attempt(
    state: State, event: StepFailed | StepInDoubt, *, spends: bool, in_doubt: bool
) -> None:
    step = state.steps[event.step].copy()
    step.spent += spends
    step.doubted |= in_doubt
    step.retry_at, step.message = event.retry_at, event.message
    if event.retry_at is not None:
        step.phase = Phase.WAITING
    else:
        step.phase = Phase.IN_DOUBT if step.doubted else Phase.FAILED
        _turn(state, event.at, TurnReason.STEP_FAILED, event.message, event.step)
    _put(state, event.step, step)


def _end_undo_attempt(
    state: State, event: StepCompensationFailed | StepInDoubt, *, spends: bool
) -> None:
    step = state.steps[event.step].copy()
    step.phase = Phase.COMPENSATION_WAITING if event.retry_at else Phase.COMPENSATION_FAILED
    step.undo_spent += spends
    step.retry_at, step.message = event.retry_at, event.message
    _put(state, event.step, step)


def _give_up_retries(state: State) -> None:
    """Settle the steps that were waiting for another attempt, which will not come."""
    for name in tuple(state.open_steps):
        step = state.steps[name].copy()
        step.phase = Phase.IN_DOUBT if step.doubted else Phase.FAILED
        step.retry_at = None
        _put(state, name, step)


def _put(state: State, name: StepName, step: StepState) -> None:
    state.steps[name] = step
    if step.is_open:
        state.open_steps[name] = None
    else:
        state.open_steps.pop(name, None)


def _turn(
    state: State, at: datetime, reason: TurnReason, message: str, step: StepName | None = None
) -> None:
    # The first reason stands; a cancel that arrives on the way back changes nothing.
    if state.turn is None:
        state.turn = Turn(reason=reason, step=step, message=message, at=at)

"""How do tests of the core tell a story? Small definitions, and a driver without I/O.

A `Story` plays the worker: it sends commands, keeps the events and asks `react` what is due.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar
from uuid import UUID

from eventsaga.core.commands import (
    Command,
    HandOver,
    RecordDoubt,
    RecordFailure,
    RecordSuccess,
    Recover,
    RequestCancel,
    StartSaga,
    Wake,
)
from eventsaga.core.decide import transition
from eventsaga.core.definition import (
    Node,
    ParallelDefinition,
    RetryPolicy,
    SagaDefinition,
    SequenceDefinition,
    StepDefinition,
    StepName,
)
from eventsaga.core.events import JsonObject, Operation, SagaEvent
from eventsaga.core.react import RunStep, WakeAt, react
from eventsaga.core.state import State, replay

T0: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SAGA: Final = UUID(int=1)
WORKER: Final = UUID(int=2)
OTHER_WORKER: Final = UUID(int=3)
SECOND: Final = timedelta(seconds=1)

EXECUTE: Final = Operation.EXECUTE
COMPENSATE: Final = Operation.COMPENSATE

ONCE: Final = RetryPolicy(max_attempts=1)
TWICE: Final = RetryPolicy(max_attempts=2)

Outcome = str | JsonObject
"""ok, fail, permanent, doubt, crash, handover, or the result that an attempt returned."""

Script = Mapping[tuple[StepName, Operation, int], Outcome]
"""How attempts end; "ok" if it does not say."""

_T = TypeVar("_T")
_MANY: Final = 1000


def step(
    name: StepName,
    *,
    compensable: bool = True,
    retry: RetryPolicy = ONCE,
    compensate_retry: RetryPolicy = ONCE,
) -> StepDefinition:
    return StepDefinition(
        name=name, compensable=compensable, retry=retry, compensate_retry=compensate_retry
    )


def sequence(*nodes: Node) -> SequenceDefinition:
    return SequenceDefinition(nodes)


def parallel(*branches: Node, name: str = "group") -> ParallelDefinition:
    return ParallelDefinition(name, branches)


def saga(*nodes: Node, deadline: timedelta | None = None) -> SagaDefinition:
    return SagaDefinition(name="order", nodes=nodes, deadline=deadline)


def start(context: JsonObject | None = None, at: datetime = T0) -> StartSaga:
    return StartSaga(at=at, context=context or {}, correlation_id="trace-1")


def cancel(at: datetime = T0) -> RequestCancel:
    return RequestCancel(at=at, reason="changed my mind", actor="alice")


def recover(at: datetime = T0) -> Recover:
    return Recover(at=at, worker_id=OTHER_WORKER, previous_worker_id=WORKER)


def succeed(
    name: StepName,
    result: JsonObject | None = None,
    *,
    attempt: int = 1,
    operation: Operation = EXECUTE,
    at: datetime = T0,
    hold: bool = False,
) -> RecordSuccess:
    return RecordSuccess(
        at=at, step=name, attempt=attempt, operation=operation, result=result, hold=hold
    )


def fail(
    name: StepName,
    *,
    attempt: int = 1,
    operation: Operation = EXECUTE,
    at: datetime = T0,
    retryable: bool = True,
    retry_after: timedelta | None = None,
    effect_happened: bool = False,
    hold: bool = False,
) -> RecordFailure:
    return RecordFailure(
        at=at,
        step=name,
        attempt=attempt,
        operation=operation,
        error_type="DeclinedError",
        message=f"{name} declined",
        jitter=0.5,
        retryable=retryable,
        retry_after=retry_after,
        effect_happened=effect_happened,
        hold=hold,
    )


def doubt(
    name: StepName,
    *,
    attempt: int = 1,
    operation: Operation = EXECUTE,
    at: datetime = T0,
    retryable: bool = True,
    hold: bool = False,
) -> RecordDoubt:
    return RecordDoubt(
        at=at,
        step=name,
        attempt=attempt,
        operation=operation,
        error_type="TimeoutError",
        message=f"{name} did not answer",
        jitter=0.5,
        retryable=retryable,
        hold=hold,
    )


class Story:
    """One saga and what has happened to it; *at* is its clock."""

    def __init__(self, definition: SagaDefinition) -> None:
        self.definition = definition
        self.state = State(SAGA)
        self.events: list[SagaEvent] = []
        self.at = T0

    def send(self, *commands: Command) -> tuple[SagaEvent, ...]:
        """Decide each of *commands* and return the events of the last one."""
        decided: tuple[SagaEvent, ...] = ()
        for command in commands:
            after = transition(self.definition, self.state, command)
            decided, self.state = after.events, after.state
            self.events += decided
        return decided

    def reload(self) -> None:
        """Forget the live state, as a worker that dies does, and read the events."""
        self.state = replay(self.events, State(SAGA))

    def due(self) -> tuple[RunStep, ...]:
        """Return the attempts that run."""
        return tuple(e for e in react(self.definition, self.state) if isinstance(e, RunStep))

    def wake_at(self) -> datetime | None:
        """Return when the clock matters next."""
        effects = react(self.definition, self.state)
        return next((e.at for e in effects if isinstance(e, WakeAt)), None)

    def finish(self, effect: RunStep, outcome: Outcome) -> tuple[SagaEvent, ...]:
        """End one running attempt, or the whole process, in the way of *outcome*."""
        name, number, operation, at = effect.step, effect.attempt, effect.operation, self.at
        if not isinstance(outcome, str):
            return self.send(succeed(name, outcome, attempt=number, operation=operation, at=at))
        match outcome:
            case "ok":
                return self.send(succeed(name, attempt=number, operation=operation, at=at))
            case "fail" | "permanent":
                retryable = outcome == "fail"
                return self.send(
                    fail(name, attempt=number, operation=operation, at=at, retryable=retryable)
                )
            case "doubt":
                return self.send(doubt(name, attempt=number, operation=operation, at=at))
            case "crash":
                self.reload()
                return self.send(recover(at))
            case "handover":
                self.send(HandOver(at=at))
                self.reload()
                return self.send(Wake(at=at))
            case _:
                raise AssertionError(f"nobody knows the outcome {outcome!r}")

    def go_on(
        self,
        outcome_of: Callable[[RunStep], Outcome],
        pick: Callable[[int], int] = lambda _: 0,
        *,
        until: Callable[["Story"], bool] = lambda _: False,
    ) -> "Story":
        """End attempts, and wake the saga when nothing runs, until it is settled.

        Args:
            outcome_of: How an attempt ends.
            pick: Which one of so many running attempts ends first.
            until: Stop early.
        """
        for _ in range(_MANY):
            if self.state.status.is_settled or until(self):
                return self
            running = self.due()
            if running:
                effect = running[pick(len(running))]
                self.finish(effect, outcome_of(effect))
                continue
            wake_at = self.wake_at()
            assert wake_at is not None, f"nothing is due: {self.state}"
            self.at = max(self.at, wake_at)
            self.send(Wake(at=self.at))
        raise AssertionError(f"no end after {_MANY} turns")

    def of(self, kind: type[_T]) -> list[_T]:
        """Return the events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]


def begun(definition: SagaDefinition, context: JsonObject | None = None) -> Story:
    """Return a saga whose first steps run."""
    story = Story(definition)
    story.send(start(context), Wake(at=T0))
    return story


def drive(
    definition: SagaDefinition, script: Script | None = None, context: JsonObject | None = None
) -> Story:
    """Return the saga at its end, its attempts having ended as *script* says."""
    says = script or {}
    return begun(definition, context).go_on(
        lambda effect: says.get((effect.step, effect.operation, effect.attempt), "ok")
    )


def kinds(events: Iterable[SagaEvent]) -> list[str]:
    """Return the names of the events' classes, with the step if they are about one."""
    return [
        f"{type(event).__name__} {name}"
        if (name := getattr(event, "step", None)) is not None
        else type(event).__name__
        for event in events
    ]

"""How do tests of the core tell a story? Small definitions, and a driver without I/O.

A `Story` plays the worker: it sends commands, keeps the events and asks `react` what is due.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar
from uuid import UUID

from eventsaga.core.answers import AnswerError, ChildInput
from eventsaga.core.commands import (
    Abandon,
    Command,
    HandOver,
    Park,
    ReceiveSignal,
    RecordChildEnded,
    RecordDoubt,
    RecordFailure,
    RecordHook,
    RecordSuccess,
    Recover,
    RequestCancel,
    RequestUndo,
    ResolveStep,
    RetrySaga,
    SkipStep,
    StartSaga,
    Wake,
)
from eventsaga.core.decide import transition
from eventsaga.core.definition import (
    ChildDefinition,
    ForEachDefinition,
    Hook,
    Node,
    OnDoubt,
    OnTimeout,
    ParallelDefinition,
    RetryPolicy,
    SequenceDefinition,
    SignalDefinition,
    SleepDefinition,
    StepDefinition,
    StepName,
)
from eventsaga.core.draft import child_id
from eventsaga.core.events import (
    JsonObject,
    Operation,
    ParkReason,
    Resolution,
    SagaEvent,
    SagaStarted,
)
from eventsaga.core.evolve import replay
from eventsaga.core.graph import SagaDefinition
from eventsaga.core.react import RunHook, RunStep, StartChild, WakeAt, react
from eventsaga.core.state import Phase, State, Status

T0: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SAGA: Final = UUID(int=1)
WORKER: Final = UUID(int=2)
OTHER_WORKER: Final = UUID(int=3)
SECOND: Final = timedelta(seconds=1)

EXECUTE: Final = Operation.EXECUTE
COMPENSATE: Final = Operation.COMPENSATE
VERIFY: Final = Operation.VERIFY

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
    conditional: bool = False,
    pivot: bool = False,
    on_doubt: OnDoubt = OnDoubt.RETRY,
    key_ttl: timedelta | None = None,
    transactional: bool = False,
) -> StepDefinition:
    return StepDefinition(
        name=name,
        compensable=compensable,
        retry=retry,
        compensate_retry=compensate_retry,
        conditional=conditional,
        pivot=pivot,
        on_doubt=on_doubt,
        key_ttl=key_ttl,
        transactional=transactional,
    )


def pivot(name: StepName = "pivot", *, compensable: bool = False) -> StepDefinition:
    return step(name, compensable=compensable, pivot=True)


def sleep(
    name: StepName = "nap", duration: timedelta | None = SECOND, *, conditional: bool = False
) -> SleepDefinition:
    return SleepDefinition(name=name, duration=duration, conditional=conditional)


def wait(
    name: StepName = "approval",
    signal: str = "approved",
    *,
    timeout: timedelta | None = None,
    on_timeout: OnTimeout = OnTimeout.COMPENSATE,
    default: JsonObject | None = None,
    into: str | None = None,
    fields: tuple[str, ...] = (),
    conditional: bool = False,
) -> SignalDefinition:
    return SignalDefinition(
        name=name,
        signal=signal,
        timeout=timeout,
        on_timeout=on_timeout,
        default=default,
        into=into,
        fields=fields,
        conditional=conditional,
    )


def child(
    name: StepName = "child",
    *,
    into: str | None = None,
    conditional: bool = False,
    undoable: bool = True,
) -> ChildDefinition:
    return ChildDefinition(
        name=name, saga="delivery", into=into, conditional=conditional, undoable=undoable
    )


def for_each(
    name: StepName = "each",
    of: StepDefinition | None = None,
    *,
    at_once: int = 2,
    into: str | None = None,
    conditional: bool = False,
) -> ForEachDefinition:
    return ForEachDefinition(
        name=name,
        step=of or step("item"),
        max_concurrency=at_once,
        into=into,
        conditional=conditional,
    )


def sequence(*nodes: Node) -> SequenceDefinition:
    return SequenceDefinition(nodes)


def parallel(
    *branches: Node, name: str = "group", at_once: int | None = None
) -> ParallelDefinition:
    return ParallelDefinition(name, branches, at_once)


def saga(
    *nodes: Node, deadline: timedelta | None = None, hooks: Iterable[Hook] = ()
) -> SagaDefinition:
    return SagaDefinition(name="order", nodes=nodes, deadline=deadline, hooks=frozenset(hooks))


class Says:
    """The user's functions: what each says of a step, or the error that it raises."""

    def __init__(self, **answers: object) -> None:
        self.answers = answers
        self.asked: list[StepName] = []

    def require_fit(self, state: State, patch: JsonObject, /) -> None:  # noqa: ARG002
        """Refuse what is said not to fit."""
        for name in patch:
            said = self.answers.get(f"fit_{name}")
            if isinstance(said, AnswerError):
                raise said

    def accept(self, text: str) -> JsonObject:
        """Take any text but what is said not to fit."""
        return {"text": self._of(text, otherwise=text)}

    def holds(self, _state: State, step: StepName) -> bool:
        """Return what is said, true if nothing is."""
        return bool(self._of(step, otherwise=True))

    def items(self, _state: State, step: StepName) -> tuple[Any, ...]:
        """Return the items, two if nothing is said."""
        found: tuple[Any, ...] = self._of(step, otherwise=("one", "two"))
        return found

    def fire_at(self, _state: State, step: StepName, at: datetime) -> datetime:
        """Return the end of a sleep, a second from now if nothing is said."""
        wait: timedelta = self._of(step, otherwise=SECOND)
        return at + wait

    def child(self, _state: State, step: StepName) -> ChildInput:
        """Return what a child is started with."""
        return ChildInput("delivery", 2, self._of(step, otherwise={"for": step}))

    def _of(self, step: StepName, *, otherwise: Any) -> Any:
        self.asked.append(step)
        answer = self.answers.get(step, otherwise)
        if isinstance(answer, AnswerError):
            raise answer
        return answer


POISON: Final = Park(
    at=T0, reason=ParkReason.POISON, message="taken over 9 times", remedy="find out why"
)
BAD: Final = AnswerError("KeyError", "'total'")


def start(context: JsonObject | None = None, at: datetime = T0) -> StartSaga:
    return StartSaga(at=at, context=context or {}, correlation_id="trace-1")


def started_in_sql(text: str, at: datetime = T0) -> SagaStarted:
    return SagaStarted(
        at=at,
        saga_name="order",
        version=1,
        fingerprint="f",
        context={},
        correlation_id="trace-1",
        input=text,
    )


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
    interrupted: bool = False,
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
        interrupted=interrupted,
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


def signal(
    payload: JsonObject | None = None,
    *,
    name: str = "approved",
    number: int = 1,
    at: datetime = T0,
) -> ReceiveSignal:
    return ReceiveSignal(
        at=at, signal=name, id=UUID(int=number), payload=payload or {}, actor="grace"
    )


def child_ended(
    name: StepName = "child",
    status: Status = Status.COMPLETED,
    *,
    attempt: int = 1,
    context: JsonObject | None = None,
    refused: bool = False,
    message: str = "no driver",
    at: datetime = T0,
) -> RecordChildEnded:
    return RecordChildEnded(
        at=at,
        step=name,
        child_id=child_id(SAGA, name, attempt),
        status=status.value,
        context=context or {},
        message=message,
        refused=refused,
    )


def hook_told(
    hook: Hook,
    *,
    settled_seq: int,
    failed: bool = False,
    retryable: bool = True,
    at: datetime = T0,
) -> RecordHook:
    return RecordHook(
        at=at,
        hook=hook,
        settled_seq=settled_seq,
        jitter=0.5,
        error_type="ConnectError" if failed else None,
        message="no answer" if failed else "",
        retryable=retryable,
    )


def retry(name: StepName | None = None, at: datetime = T0) -> RetrySaga:
    return RetrySaga(at=at, step=name, reason="mended", actor="bob")


def skip(name: StepName, at: datetime = T0) -> SkipStep:
    return SkipStep(at=at, step=name, reason="not needed", actor="bob")


def resolve(
    name: StepName,
    resolution: Resolution,
    result: JsonObject | None = None,
    at: datetime = T0,
) -> ResolveStep:
    return ResolveStep(
        at=at, step=name, resolution=resolution, result=result, reason="looked it up", actor="bob"
    )


def abandon(at: datetime = T0) -> Abandon:
    return Abandon(at=at, reason="written off", actor="bob")


def undo(at: datetime = T0) -> RequestUndo:
    return RequestUndo(at=at, reason="a duplicate", actor="bob")


class Story:
    """One saga and what has happened to it; *at* is its clock."""

    def __init__(
        self, definition: SagaDefinition, answers: Says | None = None, *, in_place: bool = False
    ) -> None:
        self.definition = definition
        self.answers = answers or Says()
        self.in_place = in_place
        self.state = State(SAGA)
        self.events: list[SagaEvent] = []
        self.at = T0

    def send(self, *commands: Command) -> tuple[SagaEvent, ...]:
        """Decide each of *commands* and return the events of the last one."""
        decided: tuple[SagaEvent, ...] = ()
        for command in commands:
            after = transition(
                self.definition, self.state, command, self.answers, in_place=self.in_place
            )
            decided, self.state = after.events, after.state
            self.events += decided
        return decided

    def reload(self) -> None:
        """Forget the live state, as a worker that dies does, and read the events."""
        self.state = replay(self.events, State(SAGA))

    def due(self) -> tuple[RunStep, ...]:
        """Return the attempts that run."""
        return tuple(e for e in react(self.definition, self.state) if isinstance(e, RunStep))

    def children(self) -> tuple[StartChild, ...]:
        """Return the children that are under way."""
        return tuple(e for e in react(self.definition, self.state) if isinstance(e, StartChild))

    def hook(self) -> RunHook | None:
        """Return the hook that is owed."""
        effects = react(self.definition, self.state)
        return next((e for e in effects if isinstance(e, RunHook)), None)

    def tell(
        self, hook: Hook, *, failed: bool = False, retryable: bool = True
    ) -> tuple[SagaEvent, ...]:
        """Say that a hook was told of the latest end, or could not be."""
        settled_seq = self.state.settled_seq
        return self.send(
            hook_told(hook, settled_seq=settled_seq, failed=failed, retryable=retryable, at=self.at)
        )

    def wake(self, after: timedelta = timedelta(0)) -> tuple[SagaEvent, ...]:
        """Let time pass, then look at the clock."""
        self.at += after
        return self.send(Wake(at=self.at))

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
            if wake_at is None and self.waits_for_others():
                return self
            assert wake_at is not None, f"nothing is due: {self.state}"
            self.at = max(self.at, wake_at)
            self.send(Wake(at=self.at))
        raise AssertionError(f"no end after {_MANY} turns")

    def waits_for_others(self) -> bool:
        """Whether a signal or a child is all that the saga waits for."""
        phases = {self.state.steps[name].phase for name in self.state.open_steps}
        return bool(phases & {Phase.AWAITING, Phase.CHILD, Phase.CHILD_UNDO})

    def of(self, kind: type[_T]) -> list[_T]:
        """Return the events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]


def begun(
    definition: SagaDefinition, context: JsonObject | None = None, answers: Says | None = None
) -> Story:
    """Return a saga whose first steps run."""
    story = Story(definition, answers)
    story.send(start(context), Wake(at=T0))
    return story


def drive(
    definition: SagaDefinition,
    script: Script | None = None,
    context: JsonObject | None = None,
    answers: Says | None = None,
) -> Story:
    """Return the saga at its end, its attempts having ended as *script* says.

    It stops before the end if only somebody outside can go on.
    """
    says = script or {}
    return begun(definition, context, answers).go_on(
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

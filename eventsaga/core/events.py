"""What has happened to a saga? Facts in the past tense, appended once and never changed.

The class names here are code; the names under which events are stored are data and live
in `eventsaga.wire.codec`. Instants are aware UTC datetimes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from eventsaga.core.definition import Hook, StepName

JsonObject = Mapping[str, Any]


class Operation(StrEnum):
    """Which of a step's functions an attempt ran."""

    EXECUTE = "execute"
    COMPENSATE = "compensate"
    VERIFY = "verify"


class Outcome(StrEnum):
    """What is known of a step's effect when its compensation starts."""

    SUCCEEDED = "succeeded"
    UNKNOWN = "unknown"


class TurnReason(StrEnum):
    """Why a saga goes back."""

    STEP_FAILED = "step_failed"
    CONFLICT = "conflict"
    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    UNDO = "undo"


class ParkReason(StrEnum):
    """Why a saga waits for a person."""

    COMPENSATION_FAILED = "compensation_failed"
    POISON = "poison"
    IN_DOUBT = "in_doubt"
    INVALID_CONTEXT = "invalid_context"
    RETRIES_EXHAUSTED = "retries_exhausted"
    SIGNAL_TIMEOUT = "signal_timeout"


class Next(StrEnum):
    """What follows an attempt that did not succeed, if not what usually does."""

    VERIFY = "verify"
    PARK = "park"


class Resolution(StrEnum):
    """What a person found out about a step."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    COMPENSATED = "compensated"


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaStarted:
    """The saga exists, bound to one shape of one version of its definition.

    Attributes:
        at: When it was started.
        saga_name: Its definition.
        version: Version of the definition.
        fingerprint: Hash of the definition's shape.
        context: The validated input; empty if *input* is given.
        correlation_id: Sent along with every call that the saga makes.
        key: The start key, if it was started with one.
        deadline_at: After this the saga is compensated; None for never.
        parent_id: The saga of which this is a step; None if it is none.
        parent_step: The step that it is.
        input: JSON text of an input that nobody has validated yet: the saga was started in
            SQL. A worker answers with `SagaAccepted`, or parks it. None if it was validated.
        tenant: Whose it is; None if it belongs to nobody in particular.
        trace: The trace context in which it was started, as a ``traceparent``; None for a
            trace of its own.
    """

    at: datetime
    saga_name: str
    version: int
    fingerprint: str
    context: JsonObject
    correlation_id: str
    key: str | None = None
    deadline_at: datetime | None = None
    parent_id: UUID | None = None
    parent_step: StepName | None = None
    input: str | None = None
    tenant: str | None = None
    trace: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaAccepted:
    """A worker has validated the input of a saga that was started in SQL.

    Attributes:
        at: When.
        context: The validated input.
        deadline_at: After this the saga is compensated; None for never.
    """

    at: datetime
    context: JsonObject
    deadline_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStarted:
    """The intent to run a step; committed before the effect may happen.

    Attributes:
        at: When it was decided.
        step: The step.
        attempt: Counts from 1, attempts cut short by a crash included.
        idempotency_key: The same for all attempts of the step.
    """

    at: datetime
    step: StepName
    attempt: int
    idempotency_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSucceeded:
    """The effect happened and its result is known.

    Attributes:
        at: When the attempt ended.
        step: The step.
        attempt: The attempt that succeeded.
        result: The patch of the context; None if the step returned nothing.
        conflict: What the patch contradicts in a parallel branch; such a patch is kept
            here but not applied, and the saga goes back. None if it fits.
        pivot: True if there is no way back from here.
    """

    at: datetime
    step: StepName
    attempt: int
    result: JsonObject | None = None
    conflict: str | None = None
    pivot: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFailed:
    """One attempt ended in an error, and its effect definitely did not happen.

    Attributes:
        at: When the attempt ended.
        step: The step.
        attempt: The attempt that failed; 0 if none could begin.
        error_type: Name of the exception class.
        message: What the step reported. Stored as is, so no secrets.
        retry_at: The next attempt is due then; None if none is left.
        effect_happened: True if, against the rule, the effect did happen: the function
            returned, and its result was refused. Such a step is compensated. False if the
            other side was asked and says that no attempt had its effect.
        interrupted: The process ended, and its transaction with it; or the attempt stood in a
            queue and never began. It does not spend the budget.
        then: What follows, if not another attempt or the way back.
    """

    at: datetime
    step: StepName
    attempt: int
    error_type: str
    message: str
    retry_at: datetime | None = None
    effect_happened: bool | None = None
    interrupted: bool | None = None
    then: Next | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInDoubt:
    """One attempt ended without an answer: its effect may have happened.

    Attributes:
        at: When the doubt was recorded.
        step: The step.
        attempt: The attempt.
        operation: Whether the effect or its compensation is in doubt.
        error_type: Name of the exception class, or ``WorkerLost``.
        message: What is known.
        interrupted: The process ended, not the attempt: it does not spend the budget.
        retry_at: The next attempt, with the same key, or the next question to the other
            side is due then; None if none is left.
        then: What follows, if not another attempt or the way back.
    """

    at: datetime
    step: StepName
    attempt: int
    operation: Operation
    error_type: str
    message: str
    interrupted: bool = False
    retry_at: datetime | None = None
    then: Next | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationStarted:
    """The other side is asked whether the effect of an attempt in doubt happened.

    Attributes:
        at: When it was decided.
        step: The step.
        attempt: The attempt in doubt.
    """

    at: datetime
    step: StepName
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSkipped:
    """The step is not run, and the saga goes on without it.

    Attributes:
        at: When it was decided.
        step: The step.
        reason: Why; None if its predicate said so.
        actor: Who said so, if it was a person.
    """

    at: datetime
    step: StepName
    reason: str | None = None
    actor: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ForEachStarted:
    """The items of a group are known; each gets a step of its own.

    Attributes:
        at: When they were computed.
        step: The group.
        items: One for each step, in order.
        into: Context field that takes the list of results; None to merge each result.
    """

    at: datetime
    step: StepName
    items: tuple[Any, ...]
    into: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerStarted:
    """The saga waits for a time.

    Attributes:
        at: When it began.
        step: The sleep.
        fire_at: Not before this.
    """

    at: datetime
    step: StepName
    fire_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerFired:
    """A time to wait is over: that of a sleep, or the longest of a wait for a signal.

    Attributes:
        at: When that was noticed.
        step: The sleep or the wait.
    """

    at: datetime
    step: StepName


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalAwaited:
    """The saga waits for somebody outside.

    Attributes:
        at: When it began.
        step: The wait.
        signal: Name of the signal.
        timeout_at: The longest wait ends then; None for never.
    """

    at: datetime
    step: StepName
    signal: str
    timeout_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalReceived:
    """Somebody outside has spoken; kept until it is waited for.

    Attributes:
        at: When the owner took it.
        signal: Its name.
        id: The same id is taken once.
        payload: What was said.
        actor: Who said it.
    """

    at: datetime
    signal: str
    id: UUID
    payload: JsonObject
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildStarted:
    """The intent to start a child; committed before the child exists.

    Attributes:
        at: When it was decided.
        step: The step that it is.
        child_id: Follows from the saga's id and the step, so it is started once.
        saga_name: Definition of the child.
        version: Version of the definition.
        context: The child's validated input.
    """

    at: datetime
    step: StepName
    child_id: UUID
    saga_name: str
    version: int
    context: JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildEnded:
    """A child has come to its end.

    Attributes:
        at: When the parent was told.
        step: The step that it is.
        child_id: The child.
        status: How it ended.
        message: Why, if it did not complete.
    """

    at: datetime
    step: StepName
    child_id: UUID
    status: str
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompensationStarted:
    """The saga goes back: no step starts any more.

    Attributes:
        at: When it was decided; all steps have settled by then.
        reason: Why.
        because_of: The step that failed, if one did.
        message: What it reported, or what the canceller said.
    """

    at: datetime
    reason: TurnReason
    because_of: StepName | None = None
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCompensationStarted:
    """The intent to compensate a step; committed before the compensation runs.

    Attributes:
        at: When it was decided.
        step: The step.
        attempt: Counts from 1.
        idempotency_key: The same for all attempts; differs from that of the effect.
        outcome: What is known of the step's effect.
        child_id: The child that is asked to undo itself; None if a function is called.
    """

    at: datetime
    step: StepName
    attempt: int
    idempotency_key: str
    outcome: Outcome
    child_id: UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCompensated:
    """The compensation of a step is done.

    Attributes:
        at: When the attempt ended.
        step: The step.
        attempt: The attempt that succeeded.
        result: A patch of the context; None if there is none.
    """

    at: datetime
    step: StepName
    attempt: int
    result: JsonObject | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCompensationFailed:
    """One attempt to compensate ended in an error.

    Attributes:
        at: When the attempt ended.
        step: The step.
        attempt: The attempt that failed.
        error_type: Name of the exception class.
        message: What the compensation reported.
        retry_at: The next attempt is due then; None if none is left.
        interrupted: The process ended, and its transaction with it; or the attempt stood in a
            queue and never began. It does not spend the budget.
    """

    at: datetime
    step: StepName
    attempt: int
    error_type: str
    message: str
    retry_at: datetime | None = None
    interrupted: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaCancelRequested:
    """Somebody asked to stop and go back.

    Attributes:
        at: When the owner took the request.
        reason: What the canceller said.
        actor: Who asked.
    """

    at: datetime
    reason: str
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaDeadlineExceeded:
    """The saga's time is up.

    Attributes:
        at: When it was noticed.
        deadline_at: When it was due.
    """

    at: datetime
    deadline_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaRecovered:
    """Another worker took the saga over; whatever the previous one still writes is void.

    Attributes:
        at: When.
        worker_id: The new owner.
        previous_worker_id: The one whose lease had ended.
    """

    at: datetime
    worker_id: UUID
    previous_worker_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaParked:
    """The saga cannot go on by itself.

    Attributes:
        at: When.
        reason: Why.
        steps: The steps concerned.
        message: What was reported.
        remedy: What a person can do.
    """

    at: datetime
    reason: ParkReason
    steps: tuple[StepName, ...]
    message: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaRetried:
    """A person lets a parked saga try again.

    Attributes:
        at: When the owner took the request.
        steps: The steps that are tried again, each with a new budget.
        reason: What the person said.
        actor: Who it was.
    """

    at: datetime
    steps: tuple[StepName, ...]
    reason: str
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResolved:
    """A person found out what became of a step.

    Attributes:
        at: When the owner took the request.
        step: The step.
        resolution: What became of it.
        result: The patch of the context, if it succeeded and returned one.
        reason: What the person said.
        actor: Who it was.
        pivot: True if there is no way back from here.
    """

    at: datetime
    step: StepName
    resolution: Resolution
    result: JsonObject | None = None
    reason: str
    actor: str
    pivot: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UndoRequested:
    """A person, or the saga's parent, wants a completed saga undone.

    Attributes:
        at: When the owner took the request.
        reason: What was said.
        actor: Who it was.
    """

    at: datetime
    reason: str
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaFailed:
    """A person gave the saga up.

    Attributes:
        at: When the owner took the request.
        uncompensated: Steps whose effect happened, or may have, and stays.
        reason: What the person said.
        actor: Who it was.
    """

    at: datetime
    uncompensated: tuple[StepName, ...]
    reason: str
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HookDelivered:
    """A hook of the user's was told how the saga ended.

    Attributes:
        at: When it returned.
        hook: Which one.
        attempt: Counts from 1, attempts cut short by a crash left out.
    """

    at: datetime
    hook: Hook
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HookFailed:
    """One attempt to tell a hook ended in an error.

    Attributes:
        at: When the attempt ended.
        hook: Which one.
        attempt: Counts from 1, attempts cut short by a crash left out.
        error_type: Name of the exception class.
        message: What it reported.
        retry_at: The next attempt is due then; None if none is left.
    """

    at: datetime
    hook: Hook
    attempt: int
    error_type: str
    message: str
    retry_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRedacted:
    """A value was taken out of the events before this one, after the saga had ended.

    Attributes:
        at: When that was done.
        path: Where in the context it was: names, with dots between them.
        reason: What the person said.
        actor: Who it was.
        events: Numbers of the events that were changed, each with the SHA-256 of the data
            that it was left with, in hexadecimal digits.
    """

    at: datetime
    path: str
    reason: str
    actor: str
    events: Mapping[int, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaCompleted:
    """All steps succeeded."""

    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaCompensated:
    """Everything that may have happened has been compensated."""

    at: datetime


SagaEvent = (
    SagaStarted
    | SagaAccepted
    | StepStarted
    | StepSucceeded
    | StepFailed
    | StepInDoubt
    | VerificationStarted
    | StepSkipped
    | ForEachStarted
    | TimerStarted
    | TimerFired
    | SignalAwaited
    | SignalReceived
    | ChildStarted
    | ChildEnded
    | CompensationStarted
    | StepCompensationStarted
    | StepCompensated
    | StepCompensationFailed
    | SagaCancelRequested
    | SagaDeadlineExceeded
    | SagaRecovered
    | SagaParked
    | SagaRetried
    | StepResolved
    | UndoRequested
    | SagaFailed
    | HookDelivered
    | HookFailed
    | DataRedacted
    | SagaCompleted
    | SagaCompensated
)

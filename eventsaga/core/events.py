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

from eventsaga.core.definition import StepName

JsonObject = Mapping[str, Any]


class Operation(StrEnum):
    """Which of a step's two functions an attempt ran."""

    EXECUTE = "execute"
    COMPENSATE = "compensate"


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


class ParkReason(StrEnum):
    """Why a saga waits for a person."""

    COMPENSATION_FAILED = "compensation_failed"
    POISON = "poison"


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaStarted:
    """The saga exists, bound to one shape of one version of its definition.

    Attributes:
        at: When it was started.
        saga_name: Its definition.
        version: Version of the definition.
        fingerprint: Hash of the definition's shape.
        context: The validated input.
        correlation_id: Sent along with every call that the saga makes.
        key: The start key, if it was started with one.
        deadline_at: After this the saga is compensated; None for never.
    """

    at: datetime
    saga_name: str
    version: int
    fingerprint: str
    context: JsonObject
    correlation_id: str
    key: str | None = None
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
    """

    at: datetime
    step: StepName
    attempt: int
    result: JsonObject | None = None
    conflict: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFailed:
    """One attempt ended in an error, and its effect definitely did not happen.

    Attributes:
        at: When the attempt ended.
        step: The step.
        attempt: The attempt that failed.
        error_type: Name of the exception class.
        message: What the step reported. Stored as is, so no secrets.
        retry_at: The next attempt is due then; None if none is left.
        effect_happened: True if, against the rule, the effect did happen: the function
            returned, and its result was refused. Such a step is compensated.
    """

    at: datetime
    step: StepName
    attempt: int
    error_type: str
    message: str
    retry_at: datetime | None = None
    effect_happened: bool | None = None


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
        retry_at: The next attempt, with the same key, is due then; None if none is left.
    """

    at: datetime
    step: StepName
    attempt: int
    operation: Operation
    error_type: str
    message: str
    interrupted: bool = False
    retry_at: datetime | None = None


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
    """

    at: datetime
    step: StepName
    attempt: int
    idempotency_key: str
    outcome: Outcome


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
    """

    at: datetime
    step: StepName
    attempt: int
    error_type: str
    message: str
    retry_at: datetime | None = None


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
class SagaCompleted:
    """All steps succeeded."""

    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaCompensated:
    """Everything that may have happened has been compensated."""

    at: datetime


SagaEvent = (
    SagaStarted
    | StepStarted
    | StepSucceeded
    | StepFailed
    | StepInDoubt
    | CompensationStarted
    | StepCompensationStarted
    | StepCompensated
    | StepCompensationFailed
    | SagaCancelRequested
    | SagaDeadlineExceeded
    | SagaRecovered
    | SagaParked
    | SagaCompleted
    | SagaCompensated
)

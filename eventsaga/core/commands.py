"""What is asked of a saga? Time and random numbers arrive here, so deciding stays pure.

A command that is delivered again causes nothing; one that the saga's state does not allow
raises `IllegalCommandError`.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from eventsaga.core.definition import Hook, StepName
from eventsaga.core.events import JsonObject, Operation, ParkReason, Resolution


@dataclass(frozen=True, slots=True, kw_only=True)
class StartSaga:
    """Begin to exist. *context* is the validated input; a child knows its parent."""

    at: datetime
    context: JsonObject
    correlation_id: str
    key: str | None = None
    parent_id: UUID | None = None
    parent_step: StepName | None = None
    tenant: str | None = None
    trace: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wake:
    """Look at the clock: start what is due, turn back if the deadline has passed."""

    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordSuccess:
    """An attempt returned.

    Attributes:
        result: The patch of the context, checked and JSON.
        hold: Record it and start nothing: the worker is about to stop.
    """

    at: datetime
    step: StepName
    attempt: int
    operation: Operation
    result: JsonObject | None = None
    hold: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordFailure:
    """An attempt ended in an error, and its effect definitely did not happen.

    Attributes:
        retryable: False if another attempt is useless.
        retry_after: Wait this long instead of the policy's backoff.
        jitter: Random number in [0, 1) for the backoff.
        effect_happened: The function returned, but its result was refused.
        interrupted: The step is not to blame, and the budget is not spent: the database ended
            the attempt, or it never began.
        hold: Record it and start nothing: the worker is about to stop.
    """

    at: datetime
    step: StepName
    attempt: int
    operation: Operation
    error_type: str
    message: str
    jitter: float
    retryable: bool = True
    retry_after: timedelta | None = None
    effect_happened: bool = False
    interrupted: bool = False
    hold: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordDoubt:
    """An attempt ended without an answer, for example by a timeout.

    Attributes:
        retryable: False if another attempt is not wanted.
        retry_after: Wait this long instead of the policy's backoff.
        jitter: Random number in [0, 1) for the backoff.
        hold: Record it and start nothing: the worker is about to stop.
    """

    at: datetime
    step: StepName
    attempt: int
    operation: Operation
    error_type: str
    message: str
    jitter: float
    retryable: bool = True
    retry_after: timedelta | None = None
    hold: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HandOver:
    """This worker stops: attempts that are still running are cut short now."""

    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Recover:
    """*worker_id* took the saga from *previous_worker_id*, whose lease had ended.

    Attributes:
        hold: Record it and start nothing: there is mail to be read before.
    """

    at: datetime
    worker_id: UUID
    previous_worker_id: UUID
    hold: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestCancel:
    """Stop and go back."""

    at: datetime
    reason: str
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Park:
    """Stop and wait for a person; asked by the engine when it must not go on."""

    at: datetime
    reason: ParkReason
    message: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiveSignal:
    """Somebody outside has spoken; *payload* fits what the saga waits for."""

    at: datetime
    signal: str
    id: UUID
    payload: JsonObject
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordChildEnded:
    """A child came to its end.

    Attributes:
        status: A terminal status.
        context: The child's final context.
        message: Why it did not complete, if it did not.
        refused: The child does not let itself be undone; *message* says why.
    """

    at: datetime
    step: StepName
    child_id: UUID
    status: str
    context: JsonObject
    message: str = ""
    refused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordHook:
    """A hook returned, or *error_type* and *message* say why it did not.

    Attributes:
        settled_seq: The end that it was told of; see `State`.
    """

    at: datetime
    hook: Hook
    settled_seq: int
    jitter: float = 0.0
    error_type: str | None = None
    message: str = ""
    retryable: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySaga:
    """Try again what gave up; *step* alone, or all if it is None."""

    at: datetime
    reason: str
    actor: str
    step: StepName | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SkipStep:
    """Go on without a step that gave up."""

    at: datetime
    step: StepName
    reason: str
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolveStep:
    """Go on with what a person found out about a step that gave up."""

    at: datetime
    step: StepName
    resolution: Resolution
    reason: str
    actor: str
    result: JsonObject | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Abandon:
    """End a parked saga as it is."""

    at: datetime
    reason: str
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestUndo:
    """Compensate a saga that has completed."""

    at: datetime
    reason: str
    actor: str


Command = (
    StartSaga
    | Wake
    | RecordSuccess
    | RecordFailure
    | RecordDoubt
    | HandOver
    | Recover
    | RequestCancel
    | Park
    | ReceiveSignal
    | RecordChildEnded
    | RecordHook
    | RetrySaga
    | SkipStep
    | ResolveStep
    | Abandon
    | RequestUndo
)

"""What is asked of a saga? Time and random numbers arrive here, so deciding stays pure.

A command that is delivered again causes nothing; one that the saga's state does not allow
raises `IllegalCommandError`.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from eventsaga.core.definition import StepName
from eventsaga.core.events import JsonObject, Operation, ParkReason


@dataclass(frozen=True, slots=True, kw_only=True)
class StartSaga:
    """Begin to exist. *context* is the validated input."""

    at: datetime
    context: JsonObject
    correlation_id: str
    key: str | None = None


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
    """*worker_id* took the saga from *previous_worker_id*, whose lease had ended."""

    at: datetime
    worker_id: UUID
    previous_worker_id: UUID


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
)

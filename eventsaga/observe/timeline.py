"""What happened to a saga, in the order in which it began? One line an attempt.

The start and the end of an attempt are two events and one line here: what people ask is
how long it took and what came of it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Protocol, assert_never
from uuid import UUID

from eventsaga.core.events import (
    CompensationStarted,
    Operation,
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

_EventOfTheSaga = (
    SagaStarted
    | CompensationStarted
    | SagaCancelRequested
    | SagaDeadlineExceeded
    | SagaRecovered
    | SagaParked
    | SagaCompleted
    | SagaCompensated
)
_AttemptStarted = StepStarted | StepCompensationStarted
_AttemptEnded = StepSucceeded | StepFailed | StepInDoubt | StepCompensated | StepCompensationFailed


class Recorded(Protocol):
    """An event as it was stored; what a store returns is one."""

    @property
    def seq(self) -> int:
        """Its number in the history, from 1."""
        ...

    @property
    def event(self) -> SagaEvent:
        """What happened."""
        ...

    @property
    def worker_id(self) -> UUID | None:
        """Who recorded it; None if no worker did."""
        ...


@dataclass(slots=True, kw_only=True)
class Line:
    """An attempt, or something that happened to the saga as a whole.

    Attributes:
        seq: The event that it begins with.
        at: When it began.
        step: The step; None for the saga as a whole.
        operation: ``execute`` or ``compensate``; None for the saga as a whole.
        attempt: Counts from 1; None for the saga as a whole.
        outcome: What came of it, in a word or two.
        ended_at: When an attempt ended; None while it runs, and for the saga as a whole.
        retry_at: When the next attempt is due; None if there is none.
        detail: What was reported.
        result: What the step returned.
        idempotency_key: What the attempt sent along; None for the saga as a whole.
        worker_id: Who recorded it; None if no worker did.
    """

    seq: int
    at: datetime
    step: str | None = None
    operation: str | None = None
    attempt: int | None = None
    outcome: str
    ended_at: datetime | None = None
    retry_at: datetime | None = None
    detail: str = ""
    result: Any = None
    idempotency_key: str | None = None
    worker_id: UUID | None = None

    @property
    def took(self) -> timedelta | None:
        """How long the attempt took; None while it runs, and for the saga as a whole."""
        return None if self.ended_at is None else self.ended_at - self.at


def timeline(history: Iterable[Recorded]) -> list[Line]:
    """Return the lines of a whole history."""
    lines: list[Line] = []
    running: dict[tuple[str, Operation], Line] = {}
    for stored in history:
        event = stored.event
        match event:
            case StepStarted() | StepCompensationStarted():
                line = _begun(stored, event)
                running[event.step, _operation(event)] = line
                lines.append(line)
            case (
                StepSucceeded()
                | StepFailed()
                | StepInDoubt()
                | StepCompensated()
                | StepCompensationFailed()
            ):
                _end(running[event.step, _operation(event)], event)
            case _:
                lines.append(_of_the_saga(stored, event))
    return lines


def _operation(event: _AttemptStarted | _AttemptEnded) -> Operation:
    match event:
        case StepStarted() | StepSucceeded() | StepFailed():
            return Operation.EXECUTE
        case StepCompensationStarted() | StepCompensated() | StepCompensationFailed():
            return Operation.COMPENSATE
        case StepInDoubt():
            return event.operation
        case _:
            assert_never(event)


def _begun(stored: Recorded, event: _AttemptStarted) -> Line:
    return Line(
        seq=stored.seq,
        at=event.at,
        step=event.step,
        operation=_operation(event).value,
        attempt=event.attempt,
        outcome="running",
        idempotency_key=event.idempotency_key,
        worker_id=stored.worker_id,
    )


def _end(line: Line, event: _AttemptEnded) -> None:
    line.ended_at = event.at
    match event:
        case StepSucceeded():
            line.outcome, line.result = "succeeded", event.result
            line.detail = event.conflict or ""
        case StepCompensated():
            line.outcome, line.result = "compensated", event.result
        case StepFailed() | StepCompensationFailed():
            line.outcome = "failed"
        case StepInDoubt():
            line.outcome = "in doubt"
        case _:
            assert_never(event)
    if isinstance(event, StepFailed | StepCompensationFailed | StepInDoubt):
        line.retry_at = event.retry_at
        line.detail = _reported(event)


def _reported(event: StepFailed | StepCompensationFailed | StepInDoubt) -> str:
    parts = [f"{event.error_type}: {event.message}" if event.message else event.error_type]
    if isinstance(event, StepFailed) and event.effect_happened:
        parts.append("its effect did happen")
    if event.retry_at is not None and event.retry_at > event.at:
        parts.append(f"next attempt after {_brief(event.retry_at - event.at)}")
    return "; ".join(parts)


def _brief(delta: timedelta) -> str:
    seconds = delta.total_seconds()
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _of_the_saga(stored: Recorded, event: _EventOfTheSaga) -> Line:
    outcome, detail = _told(event)
    return Line(
        seq=stored.seq, at=event.at, outcome=outcome, detail=detail, worker_id=stored.worker_id
    )


def _told(event: _EventOfTheSaga) -> tuple[str, str]:
    """Return the outcome and the detail of an event."""
    match event:
        case SagaStarted() | SagaCompleted() | SagaCompensated() | SagaDeadlineExceeded():
            return _OUTCOME_OF[type(event)], ""
        case SagaCancelRequested():
            return "cancel requested", f"{event.reason} (by {event.actor})"
        case SagaRecovered():
            by, previous = str(event.worker_id), str(event.previous_worker_id)
            return "taken over", f"by worker {by[:8]} from {previous[:8]}"
        case SagaParked():
            return "parked", f"{event.message}; {event.remedy}"
        case CompensationStarted():
            reason = event.reason.value.replace("_", " ")
            because = f"{event.because_of}: {event.message}" if event.because_of else reason
            return "goes back", because
        case _:
            assert_never(event)


_OUTCOME_OF: Final[Mapping[type, str]] = {
    SagaStarted: "started",
    SagaCompleted: "completed",
    SagaCompensated: "compensated",
    SagaDeadlineExceeded: "deadline exceeded",
}

"""What happened to a saga, in the order in which it began? One line an attempt or a wait.

The start and the end of an attempt are two events and one line here: what people ask is
how long it took and what came of it. An end without a start (a step that could not begin, a
key that is too old) is a line of its own.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Protocol, assert_never
from uuid import UUID

from eventsaga.core.definition import StepName
from eventsaga.core.events import (
    ChildEnded,
    ChildStarted,
    CompensationStarted,
    DataRedacted,
    ForEachStarted,
    HookDelivered,
    HookFailed,
    Operation,
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

_Begun = (
    StepStarted
    | StepCompensationStarted
    | VerificationStarted
    | TimerStarted
    | SignalAwaited
    | ChildStarted
    | ForEachStarted
)
_Ended = StepSucceeded | StepFailed | StepInDoubt | StepCompensated | StepCompensationFailed
_OfTheSaga = (
    SagaStarted
    | SagaAccepted
    | CompensationStarted
    | SagaCancelRequested
    | SagaDeadlineExceeded
    | SagaRecovered
    | SagaParked
    | SagaRetried
    | UndoRequested
    | SagaFailed
    | SignalReceived
    | HookDelivered
    | HookFailed
    | DataRedacted
    | SagaCompleted
    | SagaCompensated
)


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
    """An attempt, a wait, or something that happened to the saga as a whole.

    Attributes:
        seq: The event that it begins with.
        at: When it began.
        step: The step; None for the saga as a whole.
        operation: ``execute``, ``compensate``, ``verify``, or the kind of a wait: ``sleep``,
            ``signal``, ``child``, ``for_each``. None for what a person or a predicate said of
            a step, and for the saga as a whole.
        attempt: Counts from 1; 0 if none could begin; None where nothing is attempted.
        outcome: What came of it, in a word or two.
        ended_at: When it ended; None while it runs, and for the saga as a whole.
        retry_at: When the next attempt is due; None if there is none.
        detail: What was reported.
        result: What the step returned.
        idempotency_key: What the attempt sent along; None where nothing is sent.
        child_id: The saga that it starts, or undoes; None if it is no child.
        worker_id: Who recorded it; None if no worker did.
        lines: How many lines it stands for, see `eventsaga.observe.summary`.
    """

    seq: int
    at: datetime
    step: StepName | None = None
    operation: str | None = None
    attempt: int | None = None
    outcome: str
    ended_at: datetime | None = None
    retry_at: datetime | None = None
    detail: str = ""
    result: Any = None
    idempotency_key: str | None = None
    child_id: UUID | None = None
    worker_id: UUID | None = None
    lines: int = 1

    @property
    def took(self) -> timedelta | None:
        """How long it took; None while it goes on, and for the saga as a whole."""
        return None if self.ended_at is None else self.ended_at - self.at

    @property
    def subject(self) -> str:
        """What it is about, in a word or two."""
        if self.step is None:
            return "saga"
        prefix = _PREFIX_OF.get(self.operation, "")
        return f"{prefix}{self.step} #{self.attempt}" if self.attempt else f"{prefix}{self.step}"


_PREFIX_OF: Final[dict[str | None, str]] = {"compensate": "undo ", "verify": "verify "}


def timeline(history: Iterable[Recorded]) -> list[Line]:
    """Return the lines of a whole history."""
    lines = _Lines()
    for stored in history:
        lines.add(stored)
    return lines.done


class _Lines:
    """Reads a history event by event.

    Attributes:
        done: One for each attempt or wait so far, and for each other fact.
    """

    def __init__(self) -> None:
        self.done: list[Line] = []
        # What goes on, by step and by whether it is the way back.
        self._open: dict[tuple[StepName, bool], Line] = {}

    def add(self, stored: Recorded) -> None:
        """Take the next event."""
        event = stored.event
        match event:
            case (
                StepStarted()
                | StepCompensationStarted()
                | VerificationStarted()
                | TimerStarted()
                | SignalAwaited()
                | ChildStarted()
                | ForEachStarted()
            ):
                line = _begun(stored, event)
                self._open[event.step, isinstance(event, StepCompensationStarted)] = line
                self.done.append(line)
            case (
                StepSucceeded()
                | StepFailed()
                | StepInDoubt()
                | StepCompensated()
                | StepCompensationFailed()
            ):
                self._end(stored, event)
            case TimerFired() | ChildEnded():
                self._tell(stored, event)
            case StepSkipped() | StepResolved():
                self.done.append(_said(stored, event))
            case CompensationStarted():
                self._cut_short(event)
                self.done.append(_of_the_saga(stored, event))
            case _:
                self.done.append(_of_the_saga(stored, event))

    def _cut_short(self, event: CompensationStarted) -> None:
        """End what waits for nothing any more: no event of its own says so."""
        for line in self._open.values():
            line.outcome, line.ended_at = "cut short", event.at
        self._open.clear()

    def _end(self, stored: Recorded, event: _Ended) -> None:
        goes_back = _goes_back(event)
        line = self._open.pop((event.step, goes_back), None)
        if line is None:
            operation = Operation.COMPENSATE if goes_back else Operation.EXECUTE
            line = _line(stored, event.step, operation, "", event.attempt)
            self.done.append(line)
        _end(line, event)

    def _tell(self, stored: Recorded, event: TimerFired | ChildEnded) -> None:
        line = self._open.get((event.step, True)) or self._open.get((event.step, False))
        if line is None:
            line = _line(stored, event.step, None, "told")
            self.done.append(line)
        if isinstance(event, ChildEnded):
            line.detail = _joined(line.detail, _child_ended(event))
        elif line.operation == "signal":
            line.detail = _joined(line.detail, "its time was over")


def _line(  # noqa: PLR0917 - what every line of a step has
    stored: Recorded,
    step: StepName,
    operation: str | None,
    outcome: str,
    attempt: int | None = None,
    detail: str = "",
) -> Line:
    return Line(
        seq=stored.seq,
        at=stored.event.at,
        step=step,
        operation=None if operation is None else str(operation),
        outcome=outcome,
        attempt=attempt,
        detail=detail,
        worker_id=stored.worker_id,
    )


def _begun(stored: Recorded, event: _Begun) -> Line:
    match event:
        case StepStarted() | StepCompensationStarted():
            return _attempt(stored, event)
        case VerificationStarted():
            return _line(stored, event.step, Operation.VERIFY, "asking", event.attempt)
        case TimerStarted():
            detail = f"for {_brief(event.fire_at - event.at)}"
            return _line(stored, event.step, "sleep", "sleeping", detail=detail)
        case SignalAwaited():
            limit = "" if event.timeout_at is None else f", {_brief(event.timeout_at - event.at)}"
            detail = f"signal {event.signal}{limit}"
            return _line(stored, event.step, "signal", "waiting", detail=detail)
        case ChildStarted():
            detail = f"{event.saga_name} {event.child_id}"
            line = _line(stored, event.step, "child", "running", detail=detail)
            line.child_id = event.child_id
            return line
        case ForEachStarted():
            count = len(event.items)
            detail = "1 item" if count == 1 else f"{count:,} items"
            return _line(stored, event.step, "for_each", "running", detail=detail)
        case _:
            assert_never(event)


def _attempt(stored: Recorded, event: StepStarted | StepCompensationStarted) -> Line:
    operation = Operation.EXECUTE
    child_id = None
    if isinstance(event, StepCompensationStarted):
        operation, child_id = Operation.COMPENSATE, event.child_id
    line = _line(stored, event.step, operation, "running", event.attempt)
    line.idempotency_key = event.idempotency_key
    line.child_id = child_id
    return line


def _goes_back(event: _Ended) -> bool:
    match event:
        case StepSucceeded() | StepFailed():
            return False
        case StepCompensated() | StepCompensationFailed():
            return True
        case StepInDoubt():
            return event.operation is Operation.COMPENSATE
        case _:
            assert_never(event)


def _end(line: Line, event: _Ended) -> None:
    line.ended_at = event.at
    match event:
        case StepSucceeded():
            line.outcome, line.result = "succeeded", event.result
            line.detail = _joined(line.detail, event.conflict or "")
        case StepCompensated():
            line.outcome, line.result = "compensated", event.result
        case StepFailed() | StepCompensationFailed() | StepInDoubt():
            line.outcome = "in doubt" if isinstance(event, StepInDoubt) else "failed"
            line.retry_at = event.retry_at
            line.detail = _joined(line.detail, _reported(event))
        case _:
            assert_never(event)


def _reported(event: StepFailed | StepCompensationFailed | StepInDoubt) -> str:
    parts = [f"{event.error_type}: {event.message}" if event.message else event.error_type]
    if isinstance(event, StepFailed) and event.effect_happened:
        parts.append("its effect did happen")
    if event.retry_at is not None and event.retry_at > event.at:
        parts.append(f"next attempt after {_brief(event.retry_at - event.at)}")
    return "; ".join(parts)


def _child_ended(event: ChildEnded) -> str:
    return f"{event.status}: {event.message}" if event.message else event.status


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def _brief(delta: timedelta) -> str:
    seconds = delta.total_seconds()
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.2f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))  # noqa: PLR2004 - a minute


def _said(stored: Recorded, event: StepSkipped | StepResolved) -> Line:
    """Return what a person, or a predicate, said of a step."""
    if isinstance(event, StepSkipped):
        by = "" if event.actor is None else f"{event.reason} (by {event.actor})"
        return _line(stored, event.step, None, "skipped", detail=by)
    detail = f"{event.reason} (by {event.actor})"
    line = _line(stored, event.step, None, f"resolved as {event.resolution}", detail=detail)
    line.result = event.result
    return line


def _of_the_saga(stored: Recorded, event: _OfTheSaga) -> Line:
    outcome, detail = _told(event)
    return Line(
        seq=stored.seq,
        at=event.at,
        outcome=outcome,
        retry_at=event.retry_at if isinstance(event, HookFailed) else None,
        detail=detail,
        worker_id=stored.worker_id,
    )


_SAID_BY_NAME: Final = {
    SagaAccepted: "accepted",
    SagaCompleted: "completed",
    SagaCompensated: "compensated",
    SagaDeadlineExceeded: "deadline exceeded",
}


def _told(event: _OfTheSaga) -> tuple[str, str]:  # noqa: PLR0911 - a line for each kind
    """Return the outcome and the detail of an event."""
    match event:
        case SagaStarted():
            if event.input is not None:
                return "started", "in SQL; its input is still to be validated"
            parent = event.parent_id
            return "started", "" if parent is None else f"by {event.parent_step} of {parent}"
        case SagaAccepted() | SagaCompleted() | SagaCompensated() | SagaDeadlineExceeded():
            return _SAID_BY_NAME[type(event)], ""
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
            return _told_from_outside(event)


def _told_from_outside(  # noqa: C901, PLR0911 - a line for each kind
    event: SagaCancelRequested
    | UndoRequested
    | SagaRetried
    | SagaFailed
    | SignalReceived
    | HookDelivered
    | HookFailed
    | DataRedacted,
) -> tuple[str, str]:
    """Return the same of what others said, and of what they were told."""
    match event:
        case SagaCancelRequested():
            return "cancel requested", f"{event.reason} (by {event.actor})"
        case UndoRequested():
            return "undo requested", f"{event.reason} (by {event.actor})"
        case SagaRetried():
            steps = f"{', '.join(event.steps)}: " if event.steps else ""
            return "retried", f"{steps}{event.reason} (by {event.actor})"
        case SagaFailed():
            left = f"; left as it is: {', '.join(event.uncompensated)}"
            said = f"{event.reason} (by {event.actor})"
            return "given up", f"{said}{left if event.uncompensated else ''}"
        case SignalReceived():
            payload = json.dumps(event.payload, ensure_ascii=False, default=str)
            return "signal", f"{event.signal} {payload} (by {event.actor})"
        case HookDelivered():
            return "told", event.hook.value
        case DataRedacted():
            return "redacted", f"{event.path}: {event.reason} (by {event.actor})"
        case HookFailed():
            return "not told", f"{event.hook} #{event.attempt}: {event.error_type}: {event.message}"
        case _:
            assert_never(event)

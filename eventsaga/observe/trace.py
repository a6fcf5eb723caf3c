"""Which trace does a saga belong to? One, from its start to its end, in whatever process.

The trace is a fact about the saga and not about a process: it is that in which the saga was
started, or else it follows from the saga's id, which is as long as a trace id. So the spans
before and after a crash are of one trace, and nobody has to find anything out.

Ids and ``traceparent`` are those of W3C Trace Context (https://www.w3.org/TR/trace-context/).
Without an SDK of OpenTelemetry nothing is recorded, and next to nothing is done.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    NoOpTracerProvider,
    ProxyTracerProvider,
    Span,
    SpanContext,
    Status,
    StatusCode,
    TraceFlags,
)

from eventsaga.core.commands import Command, RecordDoubt, RecordFailure, RecordSuccess
from eventsaga.core.events import (
    Operation,
    SagaCompensated,
    SagaCompleted,
    SagaEvent,
    SagaFailed,
)
from eventsaga.core.react import RunStep
from eventsaga.core.state import State
from eventsaga.observe.observer import Observer

TRACEPARENT: Final = "traceparent"

_VERSION: Final = "00"
_PARTS: Final = 4
_OUTCOMES: Final[Mapping[type[Any], str]] = {
    RecordSuccess: "succeeded",
    RecordFailure: "failed",
    RecordDoubt: "in_doubt",
}
_ENDS: Final = (SagaCompleted, SagaCompensated, SagaFailed)

_tracer: Final = trace.get_tracer("eventsaga")


def is_on() -> bool:
    """Whether spans go anywhere: an SDK was set up."""
    return not isinstance(trace.get_tracer_provider(), ProxyTracerProvider | NoOpTracerProvider)


# -- trace contexts -------------------------------------------------------------------------


def current() -> str | None:
    """Return the trace context of the caller as a ``traceparent``; None if he is in no span."""
    context = trace.get_current_span().get_span_context()
    return _text(context) if context.is_valid else None


def of_saga(saga_id: UUID, stored: str | None) -> str:
    """Return the trace context of a saga, of which its spans are the children.

    Args:
        saga_id: The saga.
        stored: What its first event says; None for a trace of its own.
    """
    return _text(_context(saga_id, stored))


def of_attempt(saga_id: UUID, stored: str | None) -> str:
    """Return the trace context of what a step does: its attempt's span, or else the saga's."""
    context = trace.get_current_span().get_span_context()
    mine = _context(saga_id, stored)
    return _text(context if context.trace_id == mine.trace_id else mine)


def _context(saga_id: UUID, stored: str | None) -> SpanContext:
    parts = () if stored is None else stored.split("-")
    if len(parts) == _PARTS:
        try:
            return _remote(*(int(part, 16) for part in parts[1:]))
        except ValueError:
            pass  # whoever wrote it: a trace is no reason to stop
    # Of the hash, because nobody else's span of this trace may have the same id.
    parent = int.from_bytes(sha256(saga_id.bytes).digest()[:8], "big")
    return _remote(saga_id.int, parent, TraceFlags.SAMPLED)


def _remote(trace_id: int, span_id: int, flags: int) -> SpanContext:
    return SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))


def _text(context: SpanContext) -> str:
    flags = int(context.trace_flags)
    return f"{_VERSION}-{context.trace_id:032x}-{context.span_id:016x}-{flags:02x}"


def _parent(state: State) -> Context:
    span = NonRecordingSpan(_context(state.saga_id, state.trace))
    return trace.set_span_in_context(span, Context())


# -- spans ----------------------------------------------------------------------------------


@contextmanager
def attempting(state: State, effect: RunStep) -> Generator[Span]:
    """Have a span for an attempt, which is current in the block."""
    undo = "" if effect.operation is Operation.EXECUTE else f" {effect.operation.value}"
    with _tracer.start_as_current_span(
        f"{state.saga_name}/{effect.step}{undo}",
        context=_parent(state),
        attributes={
            **_attributes(state),
            "saga.step": effect.step,
            "saga.attempt": effect.attempt,
            "saga.operation": effect.operation.value,
            # Of those who give the attempt up: whoever ends it says otherwise.
            "saga.outcome": "interrupted",
        },
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        yield span


def conclude(span: Span, ended: Command, *, secret: bool) -> None:
    """Say in the span of an attempt how it ended; what was said only if that is no secret."""
    span.set_attribute("saga.outcome", _OUTCOMES.get(type(ended), "interrupted"))
    if isinstance(ended, RecordFailure | RecordDoubt):
        said = "" if secret else f": {ended.message}"
        span.set_status(Status(StatusCode.ERROR, f"{ended.error_type}{said}"))
    else:
        span.set_status(Status(StatusCode.OK))


def record(error: BaseException, *, secret: bool) -> None:
    """Record an exception in the current span; if what it says is secret, only its type."""
    span = trace.get_current_span()
    if not span.is_recording():
        return
    if secret:
        span.add_event("exception", {"exception.type": type(error).__qualname__})
    else:
        span.record_exception(error)


def _attributes(state: State) -> dict[str, str | int]:
    return {
        "saga.id": str(state.saga_id),
        "saga.name": state.saga_name,
        "saga.version": state.version,
        "saga.correlation_id": state.correlation_id,
    }


class SagaSpans(Observer):
    """Emits a span for each saga as it ends, from its start on; an `Observer`."""

    def committed(self, state: State, events: Sequence[SagaEvent], /) -> None:
        """Emit the span of a saga that has ended."""
        for event in events:
            if isinstance(event, _ENDS):
                self._emit(state, event)

    def _emit(self, state: State, event: SagaCompleted | SagaCompensated | SagaFailed) -> None:
        status = type(event).__name__.removeprefix("Saga").upper()
        span = _tracer.start_span(
            state.saga_name,
            context=_parent(state),
            start_time=_nanoseconds(state.created_at),
            attributes={**_attributes(state), "saga.status": status, "saga.events": state.seq},
        )
        is_good = isinstance(event, SagaCompleted)
        span.set_status(Status(StatusCode.OK if is_good else StatusCode.ERROR))
        span.end(_nanoseconds(event.at))


def _nanoseconds(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000) * 1000

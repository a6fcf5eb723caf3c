"""What of a saga is put on a page? Its facts, attempts, changes and events, as short texts."""

import json
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, Final

from eventsaga.client.travel import NOTHING, Change
from eventsaga.core.state import State, Status
from eventsaga.observe.timeline import Line
from eventsaga.observe.words import compact_json, duration, instant, plain
from eventsaga.store.ports import SagaRow, StoredEvent
from eventsaga.store.projection import error_of

_MOST_TEXT: Final = 20_000
_BRIEF: Final = 80

_KINDS: Final = {
    "succeeded": "good",
    "compensated": "good",
    "COMPLETED": "good",
    "failed": "bad",
    "PARKED": "bad",
    "FAILED": "bad",
    "gave up": "bad",
    "in doubt": "doubt",
    "COMPENSATED": "back",
    "COMPENSATING": "back",
}


def kind(what: str) -> str:
    """Return the class of *what*: ``good``, ``bad``, ``doubt``, ``back`` or ``run``."""
    return _KINDS.get(what, "run")


def facts(state: State, children: Sequence[SagaRow]) -> Iterator[tuple[str, str]]:
    """Yield what is known of a saga as a whole, each with what it is called."""
    yield "started", instant(state.created_at)
    yield "last event", instant(state.updated_at)
    yield "took", duration(state.updated_at - state.created_at)
    yield "version", f"{state.version} ({state.fingerprint[:12]})"
    optional = {"key": state.key, "tenant": state.tenant, "correlation": state.correlation_id}
    yield from ((label, text) for label, text in optional.items() if text)
    if state.parent_id is not None:
        yield "parent", f"{state.parent_id}, step {state.parent_step}"
    for child in children:
        yield "child", f"{child.saga_id}, step {child.parent_step}: {child.status}"
    if (error := error_of(state)) is not None:
        yield "error", ": ".join(filter(None, (error["step_name"], error["message"])))
    in_doubt = [name for name, step in state.steps.items() if step.is_in_doubt]
    if in_doubt:
        yield "in doubt", ", ".join(in_doubt)
    if state.status is Status.PARKED and state.park_remedy:
        yield "what to do", state.park_remedy


def bars(lines: Sequence[Line], state: State) -> Iterator[dict[str, Any]]:
    """Yield where each attempt lies, as percentages of the whole time of the saga."""
    whole = max(state.updated_at - state.created_at, timedelta(milliseconds=1))
    for line in lines:
        if line.step is None or line.operation is None:
            continue
        begin = (line.at - state.created_at) / whole
        end = ((line.ended_at or state.updated_at) - state.created_at) / whole
        yield {
            "subject": line.subject,
            "kind": kind(line.outcome),
            "outcome": line.outcome,
            "took": "" if line.took is None else duration(line.took),
            # An event of a clock that was set back may lie before the first.
            "left": round(100 * min(max(begin, 0.0), 1.0), 3),
            "width": round(100 * min(max(end - begin, 0.0), 1.0), 3),
        }


def row(line: Line) -> dict[str, str]:
    """Return what *line* says."""
    return {
        "at": instant(line.at).removesuffix(" UTC"),
        "subject": line.subject,
        "kind": kind(line.outcome),
        "outcome": line.outcome,
        "detail": short(line.detail),
    }


def changed(change: Change) -> dict[str, Any]:
    """Return which field has changed, and why."""
    event = change.because.event
    parts = (change.because.type, getattr(event, "step", None), getattr(event, "actor", None))
    values = {
        name: "" if value is NOTHING else short(compact_json(value))
        for name, value in (("before", change.before), ("after", change.after))
    }
    why = ", ".join(part for part in parts if part)
    return {"seq": change.because.seq, "path": change.path, **values, "why": why}


def event(stored: StoredEvent) -> dict[str, Any]:
    """Return what is shown of an event."""
    text = json.dumps(stored.data, ensure_ascii=False, indent=2)
    brief = compact_json(stored.data)
    return {
        "seq": stored.seq,
        "at": instant(stored.recorded_at).removesuffix(" UTC"),
        "type": stored.type,
        "brief": brief if len(brief) <= _BRIEF else f"{brief[: _BRIEF - 1]}…",
        "data": short(text),
        "worker": "" if stored.worker_id is None else str(stored.worker_id),
    }


def short(text: str) -> str:
    """Return *text*, or its beginning and how much more there is."""
    if len(text) <= _MOST_TEXT:
        return text
    return f"{text[:_MOST_TEXT]} … ({len(text) - _MOST_TEXT:,} more characters are left out)"


def pretty(value: Any) -> str:
    """Return *value* as JSON on several lines, or the beginning of that."""
    return short(json.dumps(value, ensure_ascii=False, indent=2, default=plain))

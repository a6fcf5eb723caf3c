"""Where did a saga stand then, and what changed since? Its history, cut off at a moment.

A moment is the number of an event, or an instant: then all counts that the database had
stored by its own clock.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple, cast

from eventsaga.core.conflict import is_same
from eventsaga.core.evolve import apply
from eventsaga.core.state import State, Status
from eventsaga.errors import NoSuchMomentError
from eventsaga.store.ports import StoredEvent

Moment = int | datetime
History = tuple[StoredEvent, ...]


class _Nothing:
    """What stands where a field is not."""


NOTHING: Final = _Nothing()


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One field of the context that another value was given between two moments.

    Attributes:
        path: Its place, the names of the objects around it first: ``customer.email``.
        before: The value, or `NOTHING`.
        after: The value, or `NOTHING`.
        because: The event that changed it last.
    """

    path: str
    before: Any
    after: Any
    because: StoredEvent


def until(history: History, moment: Moment) -> History:
    """Return the events up to *moment*, the event of that number included.

    Raises:
        NoSuchMomentError: If the saga had not begun, or has no such event.
    """
    first, last = history[0], history[-1]
    if isinstance(moment, int):
        if not 1 <= moment <= last.seq:
            raise NoSuchMomentError(first.saga_id, f"its events are numbered 1 to {last.seq}")
        return history[:moment]
    cut = tuple(stored for stored in history if stored.recorded_at <= moment)
    if not cut:
        began = first.recorded_at.isoformat(timespec="milliseconds")
        raise NoSuchMomentError(first.saga_id, f"it began at {began}")
    return cut


def changes(history: History) -> Iterator[Change]:
    """Yield every value that a field of the context was ever given, in order."""
    state = State(history[0].saga_id)
    known: dict[str, Any] = {}
    for stored in history:
        context = state.context
        apply(state, stored.event)
        if state.context is context:
            continue
        now = dict(_leaves(state.context))
        for path in known | now:
            if _differs(known, now, path):
                before, after = known.get(path, NOTHING), now.get(path, NOTHING)
                yield Change(path=path, before=before, after=after, because=stored)
        known = now


class Difference(NamedTuple):
    """What distinguishes two moments of a saga."""

    before: Status
    after: Status
    changes: Sequence[Change]


def difference(history: History, first: Moment, last: Moment) -> Difference:
    """Return what changed between two moments; what was changed back did not.

    Raises:
        NoSuchMomentError: If one of the moments is none of the saga's, or the first is after
            the last.
    """
    begin, end = len(until(history, first)), len(until(history, last))
    if begin > end:
        raise NoSuchMomentError(history[0].saga_id, "the first moment is after the second")
    state = State(history[0].saga_id)
    for stored in history[:begin]:
        apply(state, stored.event)
    status, before = state.status, dict(_leaves(state.context))
    because: dict[str, StoredEvent] = {}
    known = before
    for stored in history[begin:end]:
        context = state.context
        apply(state, stored.event)
        if state.context is context:
            continue
        now = dict(_leaves(state.context))
        because |= {path: stored for path in known | now if _differs(known, now, path)}
        known = now
    found = [
        Change(
            path=path,
            before=before.get(path, NOTHING),
            after=known.get(path, NOTHING),
            because=because[path],
        )
        for path in before | known
        if _differs(before, known, path)
    ]
    return Difference(status, state.status, found)


def _differs(one: Mapping[str, Any], other: Mapping[str, Any], path: str) -> bool:
    if path in one and path in other:
        return not is_same(one[path], other[path])
    return path in one or path in other


def _leaves(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what is no object, or is an empty one, with its path; lists are leaves."""
    for name, inner in value.items():
        place = f"{path}.{name}" if path else name
        if isinstance(inner, Mapping) and inner:
            yield from _leaves(cast("Mapping[str, Any]", inner), place)
        else:
            yield place, inner

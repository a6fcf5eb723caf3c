"""Is what is stored of a saga true to itself? Judged from its rows alone, never raising.

What is broken is a finding, not an error: rows may have been edited by anybody who has the
password. `verify` reports what is found here, `rebuild` trusts only histories that pass.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from hashlib import sha256
from typing import Final, NamedTuple
from uuid import UUID

from eventsaga.core.events import DataRedacted, SagaEvent
from eventsaga.core.grammar import first_violation
from eventsaga.core.state import Status
from eventsaga.errors import UnknownEventError
from eventsaga.store.projection import Projection, project
from eventsaga.wire.chain import GENESIS, link, salted
from eventsaga.wire.codec import decode
from eventsaga.wire.sealing import MARK, opened

GAPLESS: Final = 1
GRAMMAR: Final = 2
PROJECTION: Final = 3
LIVENESS: Final = 16
CHAIN: Final = 19

# A history that was copied badly may be wrong in every event: the first ones say enough.
_MOST_OF_A_KIND: Final = 10
_LONGEST_VALUE: Final = 80

# What they hold is the users' business and does not belong into a report.
_PRIVATE: Final = frozenset({"context", "error"})


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must not be.

    Attributes:
        saga_id: The saga.
        seq: The event concerned; None if it is the saga as a whole.
        invariant: Its number in the list of invariants: 1 no gaps, 2 the grammar of
            histories, 3 the row is a fold of the events, 16 nothing waits for nobody,
            19 the hash chain.
        message: What is wrong.
    """

    saga_id: UUID
    seq: int | None
    invariant: int
    message: str

    def __str__(self) -> str:
        where = "" if self.seq is None else f", event {self.seq}"
        return f"saga {self.saga_id}{where}: {self.message} (invariant {self.invariant})"


class EventRecord(NamedTuple):
    """A row of ``events`` as it is; nothing is known of what stands in it.

    An instant that Python cannot hold, such as infinity, is None.
    """

    saga_id: UUID
    seq: int
    type: str
    schema_version: int
    data: str | None
    occurred_at: datetime | None
    recorded_at: datetime | None
    worker_id: UUID | None
    salt: bytes | None
    hash: bytes
    digest: bytes | None = None
    """What went into the hash for data and salt, where the data was redacted since."""


class SagaRecord(NamedTuple):
    """A row of ``sagas`` as it is; nothing is known of what stands in it.

    An instant that Python cannot hold, such as infinity, is None.
    """

    saga_id: UUID
    name: str
    version: int
    fingerprint: str
    status: str
    current_steps: Sequence[str | None]
    context: str
    error: str | None
    correlation_id: str
    last_seq: int
    last_hash: bytes
    created_at: datetime | None
    updated_at: datetime | None
    parent_id: UUID | None
    parent_step: str | None
    tenant: str | None
    owner: UUID | None
    wake_at: datetime | None
    is_held: bool
    """Whether it has an owner or an instant at which it is due, whatever that is."""


@dataclass(frozen=True, slots=True)
class History:
    """What the events of a saga say, as far as they can be believed.

    Attributes:
        violations: What is wrong with the events themselves.
        events: The events, up to the first that cannot be read.
        projection: The row that they stand for; None if they cannot be folded.
        last_hash: Hash of the last event; that of nothing if there is none.
    """

    violations: tuple[Violation, ...]
    events: tuple[SagaEvent, ...]
    projection: Projection | None
    last_hash: bytes


def examine(
    saga_id: UUID, row: SagaRecord | None, events: Sequence[EventRecord]
) -> list[Violation]:
    """Return what is wrong with a saga.

    Args:
        saga_id: The saga.
        row: Its row; None if there is none.
        events: All its events by number, from the same snapshot as *row*.
    """
    history = read_history(saga_id, events)
    found = [*history.violations, *examine_row(saga_id, row, events, history)]
    return shortened(saga_id, found)


def read_history(saga_id: UUID, events: Sequence[EventRecord]) -> History:
    """Return what *events*, all of a saga's, say and what is wrong with them."""
    violations = list(_breaks(saga_id, events))
    if [event.seq for event in events] != list(range(1, len(events) + 1)):
        violations[:0] = _gaps(saga_id, events)
    decoded, unreadable = _decoded(saga_id, events)
    violations += _redactions(saga_id, events, decoded)
    refused = _refused(decoded)
    projection: Projection | None = None
    if refused is not None:
        index, reason = refused
        violations.append(Violation(saga_id, events[index - 1].seq, GRAMMAR, reason))
    elif unreadable is None and decoded:
        try:
            projection = project(saga_id, decoded)
        except Exception as error:  # noqa: BLE001 - whatever was put there must not end the run
            message = f"the history cannot be folded: {error!r}"
            violations.append(Violation(saga_id, None, GRAMMAR, message))
    if unreadable is not None:
        violations.append(unreadable)
    last_hash = events[-1].hash if events else GENESIS
    return History(tuple(violations), tuple(decoded), projection, last_hash)


# -- the events ---------------------------------------------------------------------------


def _gaps(saga_id: UUID, events: Sequence[EventRecord]) -> Iterator[Violation]:
    expected = 1
    for event in events:
        if event.seq == expected + 1:
            yield Violation(saga_id, expected, GAPLESS, "the event is missing")
        elif event.seq > expected:
            message = f"events {expected} to {event.seq - 1} are missing"
            yield Violation(saga_id, expected, GAPLESS, message)
        elif event.seq < expected:
            yield Violation(saga_id, event.seq, GAPLESS, "there is no such place")
        expected = event.seq + 1


def _breaks(saga_id: UUID, events: Sequence[EventRecord]) -> Iterator[Violation]:
    """Yield where the chain does not link.

    Each event is linked to the stored hash before it, so a change is found where it is
    and does not put the blame on everything behind it.
    """
    previous = GENESIS
    for event in events:
        if event.data is None or (event.salt is None and event.digest is None):
            yield Violation(saga_id, event.seq, CHAIN, "its data or salt is missing")
        elif not _links(previous, event):
            message = "its hash does not fit: it was changed, or what stands before it was"
            yield Violation(saga_id, event.seq, CHAIN, message)
        previous = event.hash


def _links(previous: bytes, event: EventRecord) -> bool:
    saga_id, seq, name, _, data, at, _, _, salt, found, digest = event
    if data is None or at is None or seq < 1:
        return False
    if digest is None:
        digest = salted(salt or b"", data.encode())
    return link(previous, saga_id, seq, name, at, digest) == found


def _redactions(
    saga_id: UUID, records: Sequence[EventRecord], events: Sequence[SagaEvent]
) -> Iterator[Violation]:
    """Yield where data was taken out and nothing tells of it, or other data put in its place."""
    told = {
        seq: left_with
        for event in events
        if isinstance(event, DataRedacted)
        for seq, left_with in event.events.items()
    }
    for record in records:
        left_with = told.pop(record.seq, None)
        if record.digest is None and left_with is None:
            continue
        found = sha256((record.data or "").encode()).hexdigest()
        if record.digest is None or record.salt is not None or found != left_with:
            message = "what is left of it is not what its redaction tells"
            yield Violation(saga_id, record.seq, CHAIN, message)
    for seq in told:
        yield Violation(saga_id, seq, CHAIN, "it is told to be redacted, and is not there")


def _refused(events: Sequence[SagaEvent]) -> tuple[int, str] | None:
    """Return the first event that cannot stand where it stands, also if it is beyond judging."""
    try:
        return first_violation(events)
    except Exception as error:  # noqa: BLE001 - whatever was put there must not end the run
        reason = f"{error!r}"
    is_beyond = partial(_is_beyond, events)
    first = bisect_left(range(len(events)), 1, key=is_beyond)
    return first + 1, f"it cannot be judged: {reason}"


def _is_beyond(events: Sequence[SagaEvent], last: int) -> int:
    """Return 1 if the events up to number *last*, counting from 0, cannot be judged, else 0."""
    try:
        first_violation(events[: last + 1])
    except Exception:  # noqa: BLE001 - that it is raised is the answer
        return 1
    return 0


def _decoded(
    saga_id: UUID, events: Sequence[EventRecord]
) -> tuple[list[SagaEvent], Violation | None]:
    """Return the events up to the first that cannot be read, and what is wrong with that."""
    decoded: list[SagaEvent] = []
    for record in events:
        try:
            decoded.append(_decode(record))
        except UnknownEventError as error:
            message = f"{error}: a newer eventsaga wrote it, or somebody else"
            return decoded, Violation(saga_id, record.seq, GRAMMAR, message)
        except Exception as error:  # noqa: BLE001 - whatever was put there must not end the run
            message = f"it cannot be read: {error}"
            return decoded, Violation(saga_id, record.seq, GRAMMAR, message)
    return decoded, None


def _decode(record: EventRecord) -> SagaEvent:
    if record.data is None:
        raise ValueError("it has no data")
    if record.occurred_at is None:
        raise ValueError("its time is out of range")
    data = opened(record.data, record.saga_id)
    return decode(record.type, record.schema_version, record.occurred_at, data)


# -- the row ------------------------------------------------------------------------------


def examine_row(
    saga_id: UUID, row: SagaRecord | None, events: Sequence[EventRecord], history: History
) -> Iterator[Violation]:
    """Yield what is wrong with a saga's row; *history* is what `read_history` said of *events*."""
    if row is None:
        message = "it has events, but no row" if events else "there is no such saga"
        yield Violation(saga_id, None, GAPLESS, message)
        return
    if not events:
        yield Violation(saga_id, None, GAPLESS, "it has a row, but no events")
        return
    last = events[-1]
    if row.last_seq != last.seq:
        message = f"the row counts {row.last_seq} events, the last one there is has {last.seq}"
        yield Violation(saga_id, min(row.last_seq, last.seq) + 1, GAPLESS, message)
    if row.last_hash != last.hash:
        message = "the row has another hash than its last event"
        yield Violation(saga_id, last.seq, CHAIN, message)
    if history.projection is not None:
        yield from _of_the_fold(saga_id, row, history.projection)


def _of_the_fold(saga_id: UUID, row: SagaRecord, projection: Projection) -> Iterator[Violation]:
    for column in differing_columns(row, projection):
        if column == "last_seq":
            continue  # reported as what it is: something is missing
        message = f"column {column!r} is not what the events say"
        if column not in _PRIVATE:
            found, wanted = getattr(row, column), _as_stored(projection, column)
            message += f": {_brief(found)}, not {_brief(wanted)}"
        yield Violation(saga_id, None, PROJECTION, message)
    # A settled saga may be held: it owes a hook, or somebody asks something of it.
    if not projection.status.is_settled and not row.is_held:
        message = "it is not settled, but nobody owns it and it is never due"
        yield Violation(saga_id, None, LIVENESS, message)


# The columns of the row that are a fold of the events, apart from the hash.
_FOLDED: Final = (
    "name",
    "version",
    "fingerprint",
    "status",
    "current_steps",
    "context",
    "error",
    "correlation_id",
    "last_seq",
    "created_at",
    "updated_at",
    "parent_id",
    "parent_step",
    "tenant",
)


def differing_columns(row: SagaRecord, projection: Projection) -> tuple[str, ...]:
    """Return the names of the columns in which *row* is not *projection*, byte for byte."""
    return tuple(
        column for column in _FOLDED if not _agree(row, column, _as_stored(projection, column))
    )


def _agree(row: SagaRecord, column: str, wanted: object) -> bool:
    found = getattr(row, column)
    if column == "current_steps":
        return tuple(found) == wanted
    if column not in _PRIVATE or found is None or wanted is None:
        return bool(found == wanted)
    # What is sealed is another text each time; where it cannot be opened, nobody can compare.
    found = opened(found, row.saga_id)
    return found == wanted or MARK in found or MARK in str(wanted)


def _as_stored(projection: Projection, column: str) -> object:
    value = getattr(projection, column)
    return value.value if isinstance(value, Status) else value


def _brief(value: object) -> str:
    text = str(value) if isinstance(value, datetime) else repr(value)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"


def shortened(saga_id: UUID, found: Sequence[Violation]) -> list[Violation]:
    """Return the first violations of each kind, and how many more there are."""
    counts = Counter[int]()
    kept: list[Violation] = []
    for violation in found:
        counts[violation.invariant] += 1
        if counts[violation.invariant] <= _MOST_OF_A_KIND:
            kept.append(violation)
    for invariant, count in counts.items():
        if count > _MOST_OF_A_KIND:
            message = f"and {count - _MOST_OF_A_KIND} more of this kind"
            kept.append(Violation(saga_id, None, invariant, message))
    return kept

"""Can this code go on with what is under way? Asked of each history, before a deploy.

Nothing is run: a history is folded, and its context is read by the model of its saga.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from itertools import groupby
from typing import Any, Final
from uuid import UUID

from eventsaga.contexts import to_context
from eventsaga.core.definition import group_of
from eventsaga.core.difference import changes
from eventsaga.core.events import SagaEvent, SagaStarted
from eventsaga.core.evolve import replay
from eventsaga.core.grammar import first_violation
from eventsaga.core.react import react
from eventsaga.core.state import State
from eventsaga.errors import EventSagaError
from eventsaga.saga import Saga
from eventsaga.store.examine import EventRecord
from eventsaga.store.ports import DefinitionKey
from eventsaga.wire.codec import decode
from eventsaga.wire.payload import dump, load

_MOST_IDS: Final = 5
_MOST_REASONS: Final = 20
_OTHER: Final = "for other reasons"

Shape = Mapping[str, Any]


class Verdict(StrEnum):
    """What becomes of a saga when this code is deployed."""

    COMPATIBLE = "compatible"
    PINNED = "pinned"
    BREAKS = "would break"


@dataclass(frozen=True, slots=True)
class Finding:
    """What becomes of one saga.

    Attributes:
        saga_id: The saga.
        definition: What it was started with; None if that cannot be read.
        reason: Why; empty if it is plainly compatible.
    """

    saga_id: UUID
    definition: DefinitionKey | None
    verdict: Verdict
    reason: str = ""


class Code:
    """The sagas of a program, as the code that running sagas will meet.

    Args:
        sagas: What would be registered.
        shapes: Recorded shapes, to tell what has changed.
    """

    def __init__(
        self,
        sagas: Iterable[Saga[Any]],
        shapes: Mapping[DefinitionKey, Shape] | None = None,
    ) -> None:
        self._sagas: dict[DefinitionKey, Saga[Any]] = {}
        self._versions: dict[str, dict[int, Saga[Any]]] = {}
        for saga in sagas:
            definition = saga.definition
            self._sagas[saga.name, definition.version, definition.fingerprint] = saga
            self._versions.setdefault(saga.name, {})[definition.version] = saga
        self._shapes: dict[DefinitionKey, Shape] = dict(shapes or {})

    def learn_shape(self, exported: "Exported") -> None:
        """Take note of the shape that was exported with a saga, if one was."""
        if exported.shape is None:
            return
        key = definition_of(exported.records)
        if key is not None:
            self._shapes[key] = exported.shape

    def judge(self, records: Sequence[EventRecord]) -> Finding | None:
        """Return what becomes of a saga; None if it has ended already.

        Args:
            records: All its events in order; at least one.
        """
        saga_id = records[0].saga_id
        try:
            events = decoded(records)
        except (EventSagaError, ValueError) as error:
            reason = f"its history cannot be read: {error}"
            return Finding(saga_id, definition_of(records), Verdict.BREAKS, reason)
        violation = first_violation(events)
        if violation is not None:
            seq, why = violation
            reason = f"its history is broken: event {seq}: {why}"
            return Finding(saga_id, definition_of(records), Verdict.BREAKS, reason)
        state = replay(events, State(saga_id))
        if state.status.is_terminal:
            return None
        key = (state.saga_name, state.version, state.fingerprint)
        return Finding(saga_id, key, *self._judged(key, state))

    def _judged(self, key: DefinitionKey, state: State) -> tuple[Verdict, str]:
        saga = self._sagas.get(key)
        if saga is None:
            return self._stranger(key)
        flaw = _flaw(saga, state)
        if flaw is not None:
            return Verdict.BREAKS, flaw
        newest = max(self._versions[saga.name])
        if newest > saga.definition.version:
            return Verdict.PINNED, f"it ends on its version, beside version {newest}"
        return Verdict.COMPATIBLE, ""

    def _stranger(self, key: DefinitionKey) -> tuple[Verdict, str]:
        name, version, _ = key
        versions = self._versions.get(name)
        if versions is None:
            return Verdict.BREAKS, "no version of it is registered"
        if version in versions:
            changed = changes(self._shapes.get(key), versions[version].definition)
            reason = f"it has changed without a new version: {changed}"
            return Verdict.BREAKS, reason
        there = ", ".join(map(str, sorted(versions)))
        return Verdict.PINNED, (
            f"only version {there} is registered: it waits for a worker that has version {version}"
        )


def _flaw(saga: Saga[Any], state: State) -> str | None:
    """Return why *saga* cannot go on from *state*; None if it can."""
    unknown = [
        name for name in state.steps if (group_of(name) or name) not in saga.definition.steps
    ]
    if unknown:
        return f"it has run {unknown[0]!r}, which is not in the definition"
    try:
        react(saga.definition, state)
    except Exception as error:  # noqa: BLE001 - whatever it is, the saga would not go on
        return f"it cannot go on: {error!r}"
    if state.input is not None:
        return None  # nobody has validated it; what does not fit is parked
    try:
        to_context(saga, state.context)
    except EventSagaError as error:
        return f"its context does not fit any more: {error}"
    return None


def decoded(records: Sequence[EventRecord]) -> list[SagaEvent]:
    """Return the events that *records* hold.

    Raises:
        UnknownEventError: If a newer eventsaga wrote one.
        ValueError: If one is missing, or is not what its name stands for.
    """
    events: list[SagaEvent] = []
    for expected, record in enumerate(records, 1):
        if record.seq != expected:
            raise ValueError(f"event {expected} is missing")
        if record.occurred_at is None:
            raise ValueError(f"event {record.seq}: its time is out of range")
        name, version = record.type, record.schema_version
        events.append(decode(name, version, record.occurred_at, record.data))
    return events


def definition_of(records: Sequence[EventRecord]) -> DefinitionKey | None:
    """Return what a saga was started with; None if its first event does not say."""
    try:
        events = decoded(records[:1])
    except (EventSagaError, ValueError):
        return None
    first = events[0] if events else None
    if not isinstance(first, SagaStarted):
        return None
    return first.saga_name, first.version, first.fingerprint


# -- all of them --------------------------------------------------------------------------


@dataclass(slots=True)
class Group:
    """Sagas of one definition that have the same verdict for the same reason.

    Attributes:
        sagas: How many they are.
        ids: The first few.
    """

    definition: DefinitionKey | None
    verdict: Verdict
    reason: str
    sagas: int = 0
    ids: list[UUID] = field(default_factory=list[UUID])

    @property
    def must_be_named(self) -> bool:
        """Whether somebody has to look at these sagas."""
        return self.verdict is Verdict.BREAKS


class Report:
    """Counts findings; its size does not grow with the number of sagas."""

    def __init__(self) -> None:
        self._groups: dict[tuple[DefinitionKey | None, Verdict, str], Group] = {}
        self._reasons: dict[tuple[DefinitionKey | None, Verdict], int] = {}

    def add(self, finding: Finding | None) -> None:
        """Count *finding*, if there is one."""
        if finding is None:
            return
        kind = (finding.definition, finding.verdict)
        key = (*kind, finding.reason)
        if key not in self._groups:
            if self._reasons.get(kind, 0) >= _MOST_REASONS:
                key = (*kind, _OTHER)
            else:
                self._reasons[kind] = self._reasons.get(kind, 0) + 1
            self._groups.setdefault(key, Group(*key))
        group = self._groups[key]
        group.sagas += 1
        if len(group.ids) < _MOST_IDS:
            group.ids.append(finding.saga_id)

    @property
    def groups(self) -> list[Group]:
        """All groups, by definition and then by verdict."""
        return sorted(
            self._groups.values(),
            key=lambda group: (group.definition or ("", 0, ""), group.verdict, -group.sagas),
        )

    @property
    def totals(self) -> dict[Verdict, int]:
        """How many sagas have each verdict."""
        return {verdict: self.count(verdict) for verdict in Verdict}

    def count(self, verdict: Verdict) -> int:
        """Return how many sagas have *verdict*."""
        return sum(group.sagas for group in self._groups.values() if group.verdict is verdict)


# -- from a file --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Exported:
    """A saga's events from a file, with the shape that was exported beside, if it was.

    Attributes:
        records: All its events, in order.
        shape: Shape of its definition.
    """

    records: Sequence[EventRecord]
    shape: Shape | None


def read_export(lines: Iterable[str]) -> Iterator[Exported]:
    """Yield the sagas of an export, one in memory at a time.

    Args:
        lines: One JSON object each, as ``eventsaga history --json`` prints them; the events
            of a saga stand together.

    Raises:
        ValueError: If a line is no such object; names its number.
    """
    rows = (
        _row(number, line) for number, line in enumerate(lines, 1) if line.strip(" \t\r\n\ufeff")
    )
    for _, group in groupby(rows, key=lambda row: row[0].saga_id):
        records, shape = list[EventRecord](), None
        for record, beside in group:
            records.append(record)
            shape = shape or beside
        yield Exported(records, shape)


def _row(number: int, line: str) -> tuple[EventRecord, Shape | None]:
    try:
        row = load(line)
        at = row["occurred_at"]
        data = row["data"]
        record = EventRecord(
            saga_id=UUID(row["saga_id"]),
            seq=int(row["seq"]),
            type=str(row["type"]),
            schema_version=int(row["schema_version"]),
            data=None if data is None else dump(data),
            occurred_at=None if at is None else datetime.fromisoformat(at),
            recorded_at=None,
            worker_id=None,
            salt=None,
            hash=b"",
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"line {number} is no event of an export: {error!r}") from error
    return record, row.get("graph")

"""What can a store do? The verbs that the runtime needs, and the data that they carry."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from eventsaga.core.events import SagaEvent
from eventsaga.core.state import State, Status
from eventsaga.errors import EventSagaError
from eventsaga.wire.chain import GENESIS
from eventsaga.wire.codec import encode, stored_name
from eventsaga.wire.payload import load

DefinitionKey = tuple[str, int, str]
"""Name, version and fingerprint: what a worker must have to claim a saga."""


@dataclass(frozen=True, slots=True)
class Committed:
    """The append is durable; *last_hash* is the head of the saga's chain now."""

    last_hash: bytes


@dataclass(frozen=True, slots=True)
class Fenced:
    """Another worker owns the saga, or it moved on: nothing was written."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The database will never take this append; nothing was written."""

    error: Exception


AppendResult = Committed | Fenced | Refused


@dataclass(frozen=True, slots=True)
class Started:
    """What became of a start: *saga_id* is another's if the key was taken before."""

    saga_id: UUID
    created: bool
    last_hash: bytes = GENESIS


StartResult = Started | Refused


@dataclass(slots=True, kw_only=True)
class Append:
    """Events to be appended to one saga, and what its row becomes with them.

    Attributes:
        expected: The sequence number that the decision was based on.
        previous_hash: Head of the chain at *expected*.
        events: At least one.
        before: Status before the events.
        state: State after them.
        release: Give the saga up with this append; a settled saga is always given up.
        wake_at: When a saga that is given up is due again; None for now.
        progress: Whether the claims without progress are counted anew.
        inbox: Requests that these events answer; deleted in the same commit.
        done: Called once, from the event loop, with the outcome.
    """

    expected: int
    previous_hash: bytes
    events: tuple[SagaEvent, ...]
    before: Status
    state: State
    done: Callable[[AppendResult], None]
    release: bool = False
    wake_at: datetime | None = None
    progress: bool = True
    inbox: tuple[UUID, ...] = ()


@dataclass(slots=True, kw_only=True)
class Start:
    """A saga to be created.

    Attributes:
        events: `SagaStarted`, and more if the starter runs it.
        state: State after them.
        owned: Whether the starter's worker runs it from the first moment.
        digest: Hash of the input, to tell a repeated start from a conflicting one.
        done: Called once, from the event loop, with the outcome.
    """

    events: tuple[SagaEvent, ...]
    state: State
    owned: bool
    digest: bytes
    done: Callable[[StartResult], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """One row of a saga's history.

    Attributes:
        recorded_at: When the database stored it, by its own clock.
        worker_id: Who appended it; None if no worker did.
    """

    saga_id: UUID
    seq: int
    event: SagaEvent
    recorded_at: datetime
    worker_id: UUID | None
    hash: bytes

    @property
    def type(self) -> str:
        """The name under which the event is stored."""
        return stored_name(self.event)

    @property
    def data(self) -> dict[str, Any]:
        """The event's data as JSON."""
        data: dict[str, Any] = load(encode(self.event).decode())
        return data


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A saga that this worker owns now, with its whole history.

    Attributes:
        claims: How often it was claimed since it last made progress, this time included.
        previous_owner: Whose lease had ended; None if nobody owned it.
        unreadable: Why the history could not be read; then *history* is empty.
    """

    saga_id: UUID
    claims: int
    previous_owner: UUID | None
    history: tuple[StoredEvent, ...]
    unreadable: EventSagaError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A request from outside to a saga that this worker owns."""

    saga_id: UUID
    message_id: UUID
    kind: str
    data: Mapping[str, Any]
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaRow:
    """A saga as the projection shows it, without its history."""

    saga_id: UUID
    name: str
    version: int
    fingerprint: str
    status: Status
    current_steps: tuple[str, ...]
    context: Mapping[str, Any]
    error: Mapping[str, Any] | None
    correlation_id: str
    last_seq: int
    created_at: datetime
    updated_at: datetime
    owner: UUID | None
    wake_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """An answer to a heartbeat.

    Attributes:
        granted: False if the lease had ended before: the worker must not go on under
            this identity.
        now: The database's clock.
    """

    granted: bool
    now: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Stranded:
    """Sagas that are due and bound to a definition that no living worker has."""

    name: str
    version: int
    fingerprint: str
    sagas: int
    since: datetime


class Store(Protocol):
    """Where sagas are kept. All methods but the first two are coroutines.

    A method that cannot reach the database raises `DatabaseUnavailableError`; appends and
    starts do not: they are repeated, or read back, until their outcome is known.
    """

    def append(self, append: Append, worker_id: UUID) -> None:
        """Queue *append*; ``append.done`` is called when its outcome is known."""
        ...

    def start(self, start: Start, worker_id: UUID | None) -> None:
        """Queue *start*; ``start.done`` is called when its outcome is known."""
        ...

    async def register_worker(
        self, worker_id: UUID, lease_time: timedelta, definitions: Sequence[DefinitionKey]
    ) -> datetime:
        """Grant the first lease and return the database's clock."""
        ...

    async def renew(self, worker_id: UUID, lease_time: timedelta) -> Renewal:
        """Extend the lease if it has not ended."""
        ...

    async def release(self, worker_id: UUID) -> int:
        """End the lease, give up all sagas of the worker, and return their number."""
        ...

    async def register_definitions(self, graphs: Mapping[DefinitionKey, Mapping[str, Any]]) -> None:
        """Record the shapes that a worker brings."""
        ...

    async def claim(
        self, worker_id: UUID, definitions: Sequence[DefinitionKey], limit: int
    ) -> list[Claimed]:
        """Take over at most *limit* sagas that are due, have mail, or lost their worker."""
        ...

    async def load_owned(self, worker_id: UUID, known: Sequence[UUID]) -> list[Claimed]:
        """Return what the worker owns beyond *known*, after an answer was lost."""
        ...

    async def give_up(self, worker_id: UUID, sagas: Sequence[tuple[UUID, datetime | None]]) -> None:
        """Leave sagas of the worker to anybody, each from an instant on; None for now."""
        ...

    async def stranded(self) -> list[Stranded]:
        """Return what waits for a definition that no living worker has."""
        ...

    async def read_mail(self, worker_id: UUID, limit: int) -> list[Message]:
        """Return requests to sagas of this worker, oldest first."""
        ...

    async def sweep_mail(self) -> None:
        """Delete requests to sagas that are settled: nobody will answer them."""
        ...

    async def discard_mail(self, message_ids: Sequence[tuple[UUID, UUID]]) -> None:
        """Delete requests (saga id, message id) that cause no event."""
        ...

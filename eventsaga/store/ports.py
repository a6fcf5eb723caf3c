"""What can a store do? The verbs that the runtime needs, and the data that they carry."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, NamedTuple, Protocol
from uuid import UUID

from eventsaga.core.events import SagaEvent
from eventsaga.core.state import State, Status
from eventsaga.errors import EventSagaError
from eventsaga.wire.chain import GENESIS
from eventsaga.wire.codec import encode, stored_name
from eventsaga.wire.payload import load

DefinitionKey = tuple[str, int, str]
"""Name, version and fingerprint: what a worker must have to claim a saga."""

MAIL_OF_ONE: Final = 20
"""So many requests of one saga are read at a time: it must not hide those of the others."""


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
        state: State after them.
        release: Give the saga up with this append.
        wake_at: When a saga that is given up is due again; None for never, which only a
            settled saga is.
        progress: Whether the claims without progress are counted anew.
        inbox: Requests that these events answer; they count as taken in the same commit.
        outbox: Messages to other sagas, left in their inboxes in the same commit.
        done: Called once, from the event loop, with the outcome.
    """

    expected: int
    previous_hash: bytes
    events: tuple[SagaEvent, ...]
    state: State
    done: Callable[[AppendResult], None]
    release: bool = False
    wake_at: datetime | None = None
    progress: bool = True
    inbox: tuple[UUID, ...] = ()
    outbox: tuple["Message", ...] = ()


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
    """A request from outside to a saga.

    Attributes:
        message_id: The same id is taken once.
        kind: What is asked, for example ``cancel``.
        actor: Who asks.
        posted_at: When it was posted, or posted anew after a refusal; None until then.
    """

    saga_id: UUID
    message_id: UUID
    kind: str
    data: Mapping[str, Any]
    actor: str
    posted_at: datetime | None = field(default=None, compare=False)


class GivenUp(NamedTuple):
    """A saga that its worker leaves to anybody.

    Attributes:
        saga_id: The saga.
        wake_at: It is due then; None for never.
        seq: Where it stands. If it has gone on since, it is not given up. None if unknown.
    """

    saga_id: UUID
    wake_at: datetime | None
    seq: int | None = None


class Dismissal(NamedTuple):
    """A request that causes no event.

    Attributes:
        saga_id: The saga.
        message_id: The request.
        reason: Why it is refused, told to whoever asked; None if it was taken and changed
            nothing.
        seq: Where the saga stood when that was decided.
        posted_at: As of when it was read: one that was posted anew since stays open. None
            for any.
        outbox: Messages to other sagas, left in the same commit.
    """

    saga_id: UUID
    message_id: UUID
    reason: str | None
    seq: int
    posted_at: datetime | None = None
    outbox: tuple[Message, ...] = ()


class Reply(StrEnum):
    """What became of a message."""

    OPEN = "open"
    TAKEN = "taken"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a saga made of a message.

    Attributes:
        reply: ``TAKEN`` also if the message was never left, or answered long ago.
        reason: Why it was refused.
    """

    reply: Reply
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Permits for a step whose rate or concurrency is limited.

    Attributes:
        permits: How many attempts may begin now.
        retry_at: When it makes sense to ask again, if that is known.
    """

    permits: int
    retry_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RolledBack:
    """A transactional attempt left nothing behind: neither the user's rows nor our events.

    Attributes:
        error: Why.
        may_succeed: Whether the same attempt may succeed when it is run again: the
            database was busy or away, and the user's statements are not to blame.
    """

    error: Exception
    may_succeed: bool


class Transaction(Protocol):
    """A transaction in which a step's own rows and its result are committed together."""

    @property
    def connection(self) -> Any:
        """SQLAlchemy's `AsyncConnection`; the transaction is open."""
        ...

    @property
    def session(self) -> Any:
        """An `AsyncSession` on that connection."""
        ...

    def may_succeed(self, error: BaseException) -> bool:
        """Whether *error*, which the step raised, is the database's and none of its own."""
        ...

    async def commit(self, append: Append, worker_id: UUID) -> AppendResult | RolledBack:
        """Append and commit; ``append.done`` is not called."""
        ...

    async def rollback(self) -> None:
        """Undo everything, and give the connection back. Called again, does nothing."""
        ...


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
    parent_id: UUID | None = None
    parent_step: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaFilter:
    """Which sagas are meant: those that pass all that is given.

    Attributes:
        statuses: One of these; None for all.
        name: Of this definition.
        step: Stands at it, or went back or waits because of it.
        correlation_id: Was started with it.
        tenant: Belongs to it.
        created_before: Was started before this instant.
        created_after: Was started at or after it.
        where: Has these values in its context, as of the last change of its status: paths of
            names with dots between them, and values as text (``{"customer.id": "7"}``).
        text: Has it, in whatever case, in its id, name, error or context.
    """

    statuses: Collection[Status] | None = None
    name: str | None = None
    step: str | None = None
    correlation_id: str | None = None
    tenant: str | None = None
    created_before: datetime | None = None
    created_after: datetime | None = None
    where: Mapping[str, str] = field(default_factory=dict[str, str])
    text: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether no saga that has ended passes, so that few need be looked at."""
        ended = {Status.COMPLETED, Status.COMPENSATED, Status.FAILED}
        return self.statuses is not None and not ended & set(self.statuses)


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


class Incarnation(NamedTuple):
    """Which history of the database this is.

    Attributes:
        system_identifier: Of the cluster; another one after a logical restore.
        timeline: Another one after each promotion and each point-in-time recovery.
        seen_at: When a worker met it first; None if none has.
        accepted_at: When somebody took the responsibility; None if nobody has.
        accepted_by: Who that was.
        reason: What was said.
        held: How many sagas wait for that.
    """

    system_identifier: int
    timeline: int
    seen_at: datetime | None
    accepted_at: datetime | None
    accepted_by: str | None
    reason: str | None
    held: int

    @property
    def is_accepted(self) -> bool:
        """Whether sagas that were under way go on."""
        return self.accepted_at is not None

    def holds(self, state: State) -> bool:
        """Whether a saga that stands so waits until the incarnation is accepted."""
        forward = state.status in {Status.PENDING, Status.RUNNING}
        is_older = self.seen_at is None or state.created_at < self.seen_at
        return forward and is_older and not self.is_accepted


class Suspicion(NamedTuple):
    """Which orphans run beside no other of their kind, because they may be what kills workers.

    Attributes:
        claims: Those that were claimed so often without progress; None for none.
        is_busy: Whether the claimer has one already, that has not made progress yet.
    """

    claims: int | None = None
    is_busy: bool = False


NOBODY: Final = Suspicion()


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
        self,
        worker_id: UUID,
        lease_time: timedelta,
        definitions: Sequence[DefinitionKey],
        process: str | None = None,
    ) -> datetime:
        """Grant the first lease and return the database's clock."""
        ...

    async def see_incarnation(self) -> Incarnation:
        """Note which history of the database this is, and return it."""
        ...

    async def neighbours(self, machine: str) -> list[tuple[UUID, str]]:
        """Return the living workers of *machine*, each with its process."""
        ...

    async def end_leases(self, worker_ids: Sequence[UUID]) -> None:
        """End the leases of workers whose processes have ended."""
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
        self,
        worker_id: UUID,
        definitions: Sequence[DefinitionKey],
        limit: int,
        *,
        priorities: Mapping[str, int] = ...,
        max_running: Mapping[str, int] = ...,
        live: Collection[DefinitionKey] = ...,
        suspicion: Suspicion = ...,
    ) -> list[Claimed]:
        """Take over at most *limit* sagas that are due, have mail, or lost their worker.

        Args:
            worker_id: The new owner; its lease must live.
            definitions: Only sagas of these.
            limit: At least 1.
            priorities: By name of the saga, higher first; 0 for those that are left out.
            max_running: By name, most sagas that all workers hold at the same time. What
                lost its worker is taken all the same.
            live: Those whose keys all participants remember: they are not held when the
                database may have lost commits.
            suspicion: Which of those that lost their worker are taken one by one.
        """
        ...

    async def load_owned(
        self, worker_id: UUID, known: Sequence[UUID], live: Collection[DefinitionKey] = ...
    ) -> list[Claimed]:
        """Return what the worker owns beyond *known*, after an answer was lost."""
        ...

    async def give_up(self, worker_id: UUID, sagas: Sequence[GivenUp]) -> None:
        """Leave sagas of the worker to anybody, each from an instant on.

        None, for one that is settled, makes it due never.
        """
        ...

    async def stranded(self) -> list[Stranded]:
        """Return what waits for a definition that no living worker has."""
        ...

    async def read_mail(self, worker_id: UUID, limit: int) -> list[Message]:
        """Return open requests to sagas of this worker, oldest first, some of each saga."""
        ...

    async def read_mail_of(self, saga_id: UUID, limit: int) -> list[Message]:
        """Return open requests to one saga, oldest first."""
        ...

    async def dismiss_mail(self, worker_id: UUID, dismissals: Sequence[Dismissal]) -> None:
        """Answer requests that cause no event, of sagas that this worker owns.

        A saga that has another owner and has gone on since keeps its request: whoever decided
        knew less than there is to know. The answer stays for an hour, so that whoever asked
        finds it.
        """
        ...

    async def post(self, message: Message) -> bool:
        """Leave a request in a saga's inbox; return whether there is such a saga."""
        ...

    async def answer(self, saga_id: UUID, message_id: UUID) -> Answer:
        """Return what became of a request."""
        ...

    async def sweep(self) -> None:
        """Delete answers older than an hour, permits of workers that are gone, and old workers."""
        ...

    async def begin(self, timeout: timedelta) -> Transaction:  # noqa: ASYNC109
        """Open a transaction for a transactional step that may take *timeout*."""
        ...

    async def acquire(
        self,
        worker_id: UUID,
        key: str,
        wanted: int,
        *,
        concurrency: int | None,
        interval: timedelta | None,
        burst: int,
    ) -> Grant:
        """Return how many of *wanted* attempts may begin, over all workers.

        Args:
            worker_id: Holds the permits until it releases them or its lease ends.
            key: Name of the limit.
            wanted: At least 1.
            concurrency: Most attempts at the same time; None for no limit.
            interval: Between two attempts on average; None for no limit.
            burst: So many may begin at once after a pause.
        """
        ...

    async def release_permits(self, worker_id: UUID, key: str, permits: int) -> None:
        """Give back permits of a limit on concurrency."""
        ...

    async def get(self, saga_id: UUID) -> SagaRow | None:
        """Return the row of *saga_id*; None if there is none."""
        ...

    async def history(self, saga_id: UUID) -> tuple[StoredEvent, ...]:
        """Return all events of *saga_id* in order; () if there is no such saga."""
        ...

    async def settled(self, saga_ids: Sequence[UUID]) -> set[UUID]:
        """Return which of *saga_ids* have ended or are parked."""
        ...

    async def conflicting(
        self, definitions: Sequence[DefinitionKey]
    ) -> list[tuple[DefinitionKey, int]]:
        """Return shapes of unfinished sagas that have the name and version of another here.

        Returns:
            Each with the number of its unfinished sagas.
        """
        ...

    async def graph(self, definition: DefinitionKey) -> Mapping[str, Any] | None:
        """Return the shape that was recorded for a definition; None if there is none."""
        ...

    async def now(self) -> datetime:
        """Return the database's clock."""
        ...

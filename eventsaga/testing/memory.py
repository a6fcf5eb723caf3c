"""A store without a database: the same verbs, for simulations and for fast tests.

It keeps to what PostgreSQL guarantees (the guard of an append, one owner, one start a key,
messages in the same commit, leases by one clock) and to nothing else: whatever is written
goes through the same codec and the same hash chain. Both stores pass one suite of tests.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, NamedTuple, NoReturn, Self
from uuid import UUID

from eventsaga.core.state import Status
from eventsaga.errors import DefinitionError, EventSagaError, KeyConflictError
from eventsaga.store.ports import (
    MAIL_OF_ONE,
    NOBODY,
    Answer,
    Append,
    AppendResult,
    Claimed,
    Committed,
    DefinitionKey,
    Dismissal,
    Fenced,
    GivenUp,
    Grant,
    Incarnation,
    Message,
    Refused,
    Renewal,
    Reply,
    RolledBack,
    SagaRow,
    Start,
    Started,
    StoredEvent,
    Stranded,
    Suspicion,
    Transaction,
)
from eventsaga.store.postgres.append import EncodedAppend, encode_append
from eventsaga.store.postgres.limits import conforming
from eventsaga.store.postgres.read import saga_row, stored_event
from eventsaga.store.postgres.rows import STEP_SEPARATOR, EventRow
from eventsaga.store.postgres.start import EncodedStart, encode_start
from eventsaga.store.projection import error_text
from eventsaga.testing.virtual import BEGIN
from eventsaga.wire.payload import dump, load

_NONE: Final[Mapping[str, int]] = MappingProxyType({})
_ANSWERS_LAST: Final = timedelta(hours=1)
_GRACE: Final = timedelta(seconds=5)


class Crash(StrEnum):
    """When a worker dies at an append."""

    BEFORE = "before"
    AFTER = "after"


class _Worker:
    """A row of ``workers``."""

    def __init__(
        self, lease_until: datetime, definitions: Sequence[DefinitionKey], process: str | None
    ) -> None:
        self.lease_until = lease_until
        self.process = process
        self.definitions = tuple(definitions)


@dataclass(slots=True)
class _Letter:
    """A row of ``inbox``."""

    message: Message
    created_at: datetime
    answered_at: datetime | None = None
    refused: str | None = None


class _Event(NamedTuple):
    """A row of ``events``."""

    row: EventRow
    recorded_at: datetime
    worker_id: UUID | None


class MemoryStore:
    """Sagas in memory; for one event loop. See `eventsaga.store.ports.Store`.

    Args:
        now: The store's clock.
        crash: Asked before each append or start that a worker sends, with its number,
            counting from 1: when the worker dies at it; None for not at all.
        crashed: Called when a worker dies. Its append is never answered.
    """

    def __init__(
        self,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        *,
        crash: Callable[[int], Crash | None] = lambda _number: None,
        crashed: Callable[[UUID], None] = lambda _worker_id: None,
    ) -> None:
        self._now = now
        self._crash = crash
        self._crashed = crashed
        self._dead: set[UUID] = set()
        self.appends = 0
        self._rows: dict[UUID, dict[str, Any]] = {}
        self._events: defaultdict[UUID, list[_Event]] = defaultdict(list)
        self._keys: dict[tuple[str, str], tuple[UUID, bytes]] = {}
        self._inbox: defaultdict[UUID, dict[UUID, _Letter]] = defaultdict(dict)
        self._workers: dict[UUID, _Worker] = {}
        self._graphs: dict[DefinitionKey, Mapping[str, Any]] = {}
        self._free_at: dict[str, datetime] = {}
        self._held: Counter[tuple[str, UUID]] = Counter()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        pass

    # -- writing ---------------------------------------------------------------------------

    def append(self, append: Append, worker_id: UUID) -> None:
        """Queue *append*; ``append.done`` is called when its outcome is known."""
        encoded = encode_append(append)
        asyncio.get_running_loop().call_soon(self._send, encoded, worker_id)

    def _send(self, encoded: EncodedAppend, worker_id: UUID) -> None:
        crash = self._fault(worker_id)
        if crash is not Crash.BEFORE:
            result = self._appended(encoded, worker_id)
            if crash is None and worker_id not in self._dead:
                encoded.append.done(result)
        if crash is not None:
            self._kill(worker_id)

    def _fault(self, worker_id: UUID | None) -> Crash | None:
        if worker_id is None:
            return None
        if worker_id in self._dead:
            return Crash.BEFORE
        self.appends += 1
        return self._crash(self.appends)

    def _kill(self, worker_id: UUID) -> None:
        if worker_id not in self._dead:
            self._dead.add(worker_id)
            self._crashed(worker_id)

    def _appended(self, encoded: EncodedAppend, worker_id: UUID) -> AppendResult:
        saga, append = encoded.saga, encoded.append
        row = self._rows.get(saga.saga_id)
        if row is None or row["last_seq"] != saga.expected or row["owner"] != worker_id:
            return Fenced()
        row.update(
            last_seq=saga.last_seq,
            last_hash=saga.last_hash,
            status=saga.status,
            current_steps=_steps(saga.current_steps),
            updated_at=saga.updated_at,
        )
        if saga.context is not None:
            row["context"] = saga.context
        if saga.error is not None:
            row["error"] = saga.error or None
        if saga.release:
            row["owner"], row["wake_at"] = None, saga.wake_at
        if saga.progress:
            row["claims"] = 0
        for message_id in append.inbox:
            self._take(saga.saga_id, message_id)
        for message in append.outbox:
            self._leave(message)
        self._keep(encoded.events, worker_id)
        return Committed(saga.last_hash)

    def _keep(self, rows: Sequence[EventRow], worker_id: UUID | None) -> None:
        for row in rows:
            self._events[row.saga_id].append(_Event(row, self._now(), worker_id))

    def start(self, start: Start, worker_id: UUID | None) -> None:
        """Queue *start*; ``start.done`` is called when its outcome is known."""
        encoded = encode_start(start)
        asyncio.get_running_loop().call_soon(self._begin, encoded, worker_id)

    def _begin(self, encoded: EncodedStart, worker_id: UUID | None) -> None:
        crash = self._fault(worker_id)
        if crash is not Crash.BEFORE:
            result = self._started(encoded, worker_id)
            if crash is None:
                encoded.start.done(result)
        if crash is not None and worker_id is not None:
            self._kill(worker_id)

    def _started(self, encoded: EncodedStart, worker_id: UUID | None) -> Started | Refused:
        saga, state = encoded.saga, encoded.start.state
        if saga.key is not None:
            owner, digest = self._keys.setdefault(
                (saga.name, state.start_key or ""), (saga.saga_id, saga.digest)
            )
            if digest != saga.digest:
                return Refused(KeyConflictError(saga.name, saga.key, owner))
            if owner != saga.saga_id:
                return Started(owner, created=False)
        if saga.saga_id in self._rows:
            return Started(saga.saga_id, created=False)
        self._rows[saga.saga_id] = {
            "saga_id": saga.saga_id,
            "name": saga.name,
            "version": saga.version,
            "fingerprint": saga.fingerprint,
            "status": saga.status,
            "current_steps": _steps(saga.current_steps),
            "context": saga.context,
            "error": error_text(state),
            "correlation_id": saga.correlation_id,
            "last_seq": saga.last_seq,
            "last_hash": saga.last_hash,
            "created_at": saga.created_at,
            "updated_at": saga.updated_at,
            "owner": worker_id if saga.owned else None,
            "wake_at": None if saga.owned else self._now(),
            "claims": 0,
            "parent_id": state.parent_id,
            "parent_step": state.parent_step,
            "tenant": state.tenant,
        }
        self._keep(encoded.events, worker_id)
        return encoded.started()

    # -- leases ----------------------------------------------------------------------------

    async def register_worker(
        self,
        worker_id: UUID,
        lease_time: timedelta,
        definitions: Sequence[DefinitionKey],
        process: str | None = None,
    ) -> datetime:
        """Grant the first lease and return the store's clock."""
        self._workers[worker_id] = _Worker(self._now() + lease_time, definitions, process)
        return self._now()

    async def see_incarnation(self) -> Incarnation:
        """Return the only one that there is."""
        return Incarnation(0, 1, BEGIN, BEGIN, "", "", 0)

    async def neighbours(self, machine: str) -> list[tuple[UUID, str]]:
        """Return the living workers of *machine*, each with its process."""
        return [
            (worker_id, worker.process)
            for worker_id, worker in self._workers.items()
            if (worker.process or "").startswith(f"{machine}/") and self._lives(worker_id)
            if worker.process is not None
        ]

    async def end_leases(self, worker_ids: Sequence[UUID]) -> None:
        """End the leases of workers whose processes have ended."""
        for worker_id in worker_ids:
            self.expire_leases(worker_id)

    async def renew(self, worker_id: UUID, lease_time: timedelta) -> Renewal:
        """Extend the lease if it has not ended."""
        granted = self._lives(worker_id)
        if granted:
            self._workers[worker_id].lease_until = self._now() + lease_time
        return Renewal(granted=granted, now=self._now())

    async def release(self, worker_id: UUID) -> int:
        """End the lease, give up all sagas of the worker, and return their number."""
        if self._lives(worker_id):
            self._workers[worker_id].lease_until = self._now()
        owned = [row for row in self._rows.values() if row["owner"] == worker_id]
        for row in owned:
            row.update(owner=None, wake_at=self._now(), claims=max(row["claims"] - 1, 0))
        for key in [key for key in self._held if key[1] == worker_id]:
            del self._held[key]
        return len(owned)

    def _lives(self, worker_id: UUID | None) -> bool:
        worker = None if worker_id is None else self._workers.get(worker_id)
        return worker is not None and worker.lease_until > self._now()

    # -- claiming --------------------------------------------------------------------------

    async def claim(
        self,
        worker_id: UUID,
        definitions: Sequence[DefinitionKey],
        limit: int,
        *,
        priorities: Mapping[str, int] = _NONE,
        max_running: Mapping[str, int] = _NONE,
        live: Collection[DefinitionKey] = (),
        suspicion: Suspicion = NOBODY,
    ) -> list[Claimed]:
        """Take over at most *limit* sagas that are due, have mail, or lost their worker."""
        del live  # nothing is ever held: memory loses all or nothing
        if not self._lives(worker_id) or worker_id in self._dead:
            return []
        known = set(definitions)
        rows = [row for row in self._rows.values() if _definition(row) in known]
        orphans = [row for row in rows if self._orphaned(row)]
        chosen = _but_one(orphans, suspicion)
        running = Counter(row["name"] for row in self._rows.values() if self._lives(row["owner"]))
        written_to = [row for row in rows if self._written_to(row)]
        due = [row for row in self._due(rows, priorities) if row not in written_to]
        for row in (*written_to, *due):
            name = row["name"]
            if not Status(row["status"]).is_settled and name in max_running:
                if running[name] >= max_running[name]:
                    continue
                running[name] += 1
            chosen.append(row["saga_id"])
        return [self._claimed(saga_id, worker_id) for saga_id in chosen[:limit]]

    def _due(
        self, rows: Sequence[dict[str, Any]], priorities: Mapping[str, int]
    ) -> list[dict[str, Any]]:
        """Return what is due: by priority, then the oldest of each name, then the next ones."""
        now, turns, ranked = self._now(), Counter[str](), list[tuple[int, int, int]]()
        due = [
            row
            for row in rows
            if row["owner"] is None and row["wake_at"] is not None and row["wake_at"] <= now
        ]
        due.sort(key=lambda row: (row["wake_at"], row["saga_id"]))
        for place, row in enumerate(due):
            ranked.append((-priorities.get(row["name"], 0), turns[row["name"]], place))
            turns[row["name"]] += 1
        return [due[place] for _, _, place in sorted(ranked)]

    def _written_to(self, row: Mapping[str, Any]) -> bool:
        letters = self._inbox.get(row["saga_id"], {}).values()
        return row["owner"] is None and any(letter.answered_at is None for letter in letters)

    def _orphaned(self, row: Mapping[str, Any]) -> bool:
        return row["owner"] is not None and not self._lives(row["owner"])

    def _claimed(self, saga_id: UUID, worker_id: UUID) -> Claimed:
        row = self._rows[saga_id]
        previous = row["owner"]
        row.update(owner=worker_id, wake_at=None, claims=row["claims"] + 1)
        return self._loaded(saga_id, previous)

    def _loaded(self, saga_id: UUID, previous: UUID | None) -> Claimed:
        history: tuple[StoredEvent, ...] = ()
        unreadable: EventSagaError | None = None
        try:
            history = self._history(saga_id)
        except EventSagaError as error:
            unreadable = error
        return Claimed(
            saga_id=saga_id,
            claims=self._rows[saga_id]["claims"],
            previous_owner=previous,
            history=history,
            unreadable=unreadable,
        )

    async def load_owned(
        self, worker_id: UUID, known: Sequence[UUID], live: Collection[DefinitionKey] = ()
    ) -> list[Claimed]:
        """Return what the worker owns beyond *known*, after an answer was lost."""
        del live
        seen = set(known)
        return [
            self._loaded(saga_id, None)
            for saga_id, row in self._rows.items()
            if row["owner"] == worker_id and saga_id not in seen
        ]

    async def give_up(self, worker_id: UUID, sagas: Sequence[GivenUp]) -> None:
        """Leave sagas of the worker to anybody, each from an instant on; None for never."""
        if worker_id in self._dead:
            return
        for saga_id, wake_at, seq in sagas:
            row = self._rows.get(saga_id)
            if row is None or row["owner"] != worker_id:
                continue
            if seq is None or row["last_seq"] == seq:
                row.update(owner=None, wake_at=wake_at, claims=max(row["claims"] - 1, 0))

    async def stranded(self) -> list[Stranded]:
        """Return what waits for a definition that no living worker has."""
        now, since = self._now(), dict[DefinitionKey, list[datetime]]()
        brought = {
            definition
            for worker_id, worker in self._workers.items()
            if self._lives(worker_id)
            for definition in worker.definitions
        }
        for row in self._rows.values():
            at = row["wake_at"]
            if self._orphaned(row):
                at = self._workers[row["owner"]].lease_until
            if at is not None and at < now - _GRACE and _definition(row) not in brought:
                since.setdefault(_definition(row), []).append(at)
        return [
            Stranded(name=name, version=version, fingerprint=fp, sagas=len(ats), since=min(ats))
            for (name, version, fp), ats in since.items()
        ]

    # -- mail ------------------------------------------------------------------------------

    async def post(self, message: Message) -> bool:
        """Leave a request in a saga's inbox; return whether there is such a saga."""
        return self._leave(message)

    async def post_within(self, connection: object, message: Message) -> bool:
        """Refuse: there is no transaction to be in."""
        del message
        _refuse(connection)

    def _leave(self, message: Message) -> bool:
        if message.saga_id not in self._rows:
            return False
        box, now = self._inbox[message.saga_id], self._now()
        known = box.get(message.message_id)
        if known is None or known.refused is not None:
            letter = replace(message, data=load(dump(message.data)), posted_at=now)
            box[message.message_id] = _Letter(letter, now)
        return True

    async def read_mail(self, worker_id: UUID, limit: int) -> list[Message]:
        """Return open requests to sagas of this worker, oldest first, some of each saga."""
        letters = [
            letter
            for saga_id in self._inbox
            if self._rows[saga_id]["owner"] == worker_id
            for letter in self._open(saga_id)[:MAIL_OF_ONE]
        ]
        letters.sort(key=lambda letter: letter.created_at)
        return [letter.message for letter in letters[:limit]]

    async def read_mail_of(self, saga_id: UUID, limit: int) -> list[Message]:
        """Return open requests to one saga, oldest first."""
        return [letter.message for letter in self._open(saga_id)[:limit]]

    def _open(self, saga_id: UUID) -> list[_Letter]:
        letters = self._inbox.get(saga_id, {}).values()
        return sorted(
            (letter for letter in letters if letter.answered_at is None),
            key=lambda letter: letter.created_at,
        )

    def _take(self, saga_id: UUID, message_id: UUID) -> None:
        letter = self._inbox[saga_id].get(message_id)
        if letter is not None and letter.answered_at is None:
            letter.answered_at = self._now()

    async def dismiss_mail(self, worker_id: UUID, dismissals: Sequence[Dismissal]) -> None:
        """Answer requests that cause no event, of sagas that this worker owns."""
        for dismissal in dismissals:
            row = self._rows[dismissal.saga_id]
            letter = self._inbox[dismissal.saga_id].get(dismissal.message_id)
            if letter is None or letter.answered_at is not None:
                continue
            is_current = row["owner"] == worker_id or row["last_seq"] == dismissal.seq
            if is_current and dismissal.posted_at in {None, letter.created_at}:
                letter.answered_at, letter.refused = self._now(), dismissal.reason
                for message in dismissal.outbox:
                    self._leave(message)

    async def answer(self, saga_id: UUID, message_id: UUID) -> Answer:
        """Return what became of a request."""
        letter = self._inbox[saga_id].get(message_id)
        if letter is not None and letter.refused is not None:
            return Answer(reply=Reply.REFUSED, reason=letter.refused)
        is_open = letter is not None and letter.answered_at is None
        return Answer(reply=Reply.OPEN if is_open else Reply.TAKEN)

    async def sweep(self) -> None:
        """Delete answers that whoever asked has had the time to read."""
        oldest = self._now() - _ANSWERS_LAST
        for box in self._inbox.values():
            for message_id, letter in list(box.items()):
                if letter.answered_at is not None and letter.answered_at < oldest:
                    del box[message_id]

    # -- transactions and limits -----------------------------------------------------------

    async def begin(self, timeout: timedelta) -> Transaction:  # noqa: ASYNC109
        """Open a transaction for a transactional step."""
        del timeout
        return _MemoryTransaction(self)

    def commit(self, append: Append, worker_id: UUID) -> AppendResult | None:
        """Append at once, for a transactional step; None if the worker died at it."""
        encoded = encode_append(append)
        crash = self._fault(worker_id)
        result = None if crash is Crash.BEFORE else self._appended(encoded, worker_id)
        if crash is not None:
            self._kill(worker_id)
            return None
        return result

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
        """Return how many of *wanted* attempts may begin, over all workers."""
        permits, retry_at = wanted, None
        if concurrency is not None:
            held = sum(
                count
                for (held_key, owner), count in self._held.items()
                if held_key == key and self._lives(owner)
            )
            permits = max(0, min(permits, concurrency - held))
        if interval is not None and permits:
            permits, free_at = conforming(
                self._free_at.get(key), self._now(), interval, burst, permits
            )
            self._free_at[key] = free_at
            if not permits:
                retry_at = free_at - interval * (burst - 1)
        if concurrency is not None:
            self._held[key, worker_id] += permits
        return Grant(permits=permits, retry_at=retry_at)

    async def release_permits(self, worker_id: UUID, key: str, permits: int) -> None:
        """Give back permits of a limit on concurrency."""
        self._held[key, worker_id] = max(self._held[key, worker_id] - permits, 0)

    # -- definitions -----------------------------------------------------------------------

    async def register_definitions(self, graphs: Mapping[DefinitionKey, Mapping[str, Any]]) -> None:
        """Record the shapes that a worker brings; known ones stay as they are."""
        for key, graph in graphs.items():
            self._graphs.setdefault(key, load(dump(graph)))

    async def conflicting(
        self, definitions: Sequence[DefinitionKey]
    ) -> list[tuple[DefinitionKey, int]]:
        """Return shapes of unfinished sagas that have the name and version of another here."""
        here = {definition[:2] for definition in definitions}
        found = Counter(
            _definition(row)
            for row in self._rows.values()
            if not Status(row["status"]).is_terminal
            and _definition(row)[:2] in here
            and _definition(row) not in definitions
        )
        return list(found.items())

    async def graph(self, definition: DefinitionKey) -> Mapping[str, Any] | None:
        """Return the shape that was recorded for a definition; None if there is none."""
        return self._graphs.get(definition)

    # -- looking ---------------------------------------------------------------------------

    async def get(self, saga_id: UUID) -> SagaRow | None:
        """Return the row of *saga_id*; None if there is none."""
        row = self._rows.get(saga_id)
        return None if row is None else saga_row(row)

    async def list_sagas(
        self,
        *,
        before: UUID | None = None,
        limit: int = 100,
    ) -> list[SagaRow]:
        """Return at most *limit* rows, youngest first; filters need SQL."""
        rows = sorted(self._rows.values(), key=lambda row: row["saga_id"], reverse=True)
        return [saga_row(row) for row in rows if before is None or row["saga_id"] < before][:limit]

    async def children(self, saga_id: UUID) -> list[SagaRow]:
        """Return the sagas that *saga_id* has started as its steps, oldest first."""
        rows = [row for row in self._rows.values() if row["parent_id"] == saga_id]
        rows.sort(key=lambda row: (row["created_at"], row["saga_id"]))
        return [saga_row(row) for row in rows]

    async def history(self, saga_id: UUID) -> tuple[StoredEvent, ...]:
        """Return all events of *saga_id* in order; () if there is no such saga."""
        return self._history(saga_id)

    def _history(self, saga_id: UUID) -> tuple[StoredEvent, ...]:
        return tuple(
            stored_event(
                event.row._asdict()
                | {"recorded_at": event.recorded_at, "worker_id": event.worker_id}
            )
            for event in self._events.get(saga_id, ())
        )

    async def settled(self, saga_ids: Sequence[UUID]) -> set[UUID]:
        """Return which of *saga_ids* have ended or are parked."""
        return {
            saga_id
            for saga_id in saga_ids
            if saga_id in self._rows and Status(self._rows[saga_id]["status"]).is_settled
        }

    async def now(self) -> datetime:
        """Return the store's clock."""
        return self._now()

    async def start_within(self, connection: object, start: Start) -> NoReturn:
        """Refuse: there is no transaction to be in."""
        del start
        _refuse(connection)

    def expire_leases(self, worker_id: UUID | None = None) -> None:
        """End the lease of a worker now, as time would; None for all."""
        for each, worker in self._workers.items():
            if worker_id is None or each == worker_id:
                worker.lease_until = self._now()


class _MemoryTransaction:
    """A transactional step's append; there is no database for the step's own rows."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    @property
    def connection(self) -> Any:
        """Refuse."""
        raise DefinitionError("the in-memory store has no connection: script this step's outcome")

    @property
    def session(self) -> Any:
        """Refuse."""
        raise DefinitionError("the in-memory store has no session: script this step's outcome")

    def may_succeed(self, error: BaseException) -> bool:
        """Whether *error* is the database's: there is none."""
        del error
        return False

    async def commit(self, append: Append, worker_id: UUID) -> AppendResult | RolledBack:
        """Append; whoever died at it is never answered."""
        result = self._store.commit(append, worker_id)
        if result is None:
            await asyncio.get_running_loop().create_future()
        assert result is not None
        return result

    async def rollback(self) -> None:
        """Do nothing."""


def _definition(row: Mapping[str, Any]) -> DefinitionKey:
    return row["name"], row["version"], row["fingerprint"]


def _steps(text: str) -> list[str]:
    return text.split(STEP_SEPARATOR) if text else []


def _refuse(connection: object) -> NoReturn:
    raise TypeError(f"the in-memory store knows no transactions, such as {connection!r}")


def _but_one(orphans: Sequence[Mapping[str, Any]], suspicion: Suspicion) -> list[UUID]:
    """Return the ids of *orphans*, with at most one of those under suspicion."""
    suspects = sorted(row["saga_id"] for row in orphans if row["claims"] == suspicion.claims)
    others = [row["saga_id"] for row in orphans if row["claims"] != suspicion.claims]
    return [*suspects[: 0 if suspicion.is_busy else 1], *others]

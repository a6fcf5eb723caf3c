"""Who commits? A few writers, each with a connection, that take whatever has queued.

Group commit without a timer: while one statement is in flight, the next batch gathers. A
saga is in one batch at a time, because its next decision waits for this one's outcome.

An answer can be lost after the commit. So an error that leaves the outcome open is never
guessed at: the batch is read back on a fresh connection, and what did not arrive is sent
again, byte for byte. The guard of the statement makes that safe even if the first one is
still on its way: only one of the two finds the row at its expected number. For the same
reason a row that was not taken is read back too: our own first statement may have been it.

A batch that fails as a whole is halved until the row that is to blame stands alone. If it
is bad, it is refused; if somebody else's transaction holds it, it waits on a connection
that is kept for such rows, and no other saga waits with it.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar
from uuid import UUID

from eventsaga import failpoints
from eventsaga.core.events import (
    SagaEvent,
    StepCompensated,
    StepCompensationFailed,
    StepCompensationStarted,
    StepFailed,
    StepInDoubt,
    StepStarted,
    StepSucceeded,
    VerificationStarted,
)
from eventsaga.observe.log import logger
from eventsaga.observe.observer import Observers
from eventsaga.settings import Settings
from eventsaga.store.ports import Append, Committed, Fenced, Refused, Start
from eventsaga.store.postgres import append as appending
from eventsaga.store.postgres import start as starting
from eventsaga.store.postgres.append import EncodedAppend, encode_append
from eventsaga.store.postgres.connect import (
    Connection,
    discard,
    is_contention,
    is_infrastructure,
    open_connection,
    outcome_is_unknown,
)
from eventsaga.store.postgres.sql import qualify
from eventsaga.store.postgres.start import EncodedStart, encode_start

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0
# How long a statement waits for a row that another transaction holds: at first until an
# ordinary one has ended, later only to find out which row it is.
_PATIENCE: Final = "500ms"
_IMPATIENCE: Final = "20ms"

_INTENTS: Final = (StepStarted, VerificationStarted, StepCompensationStarted)
_RESULTS: Final = (
    StepSucceeded,
    StepFailed,
    StepInDoubt,
    StepCompensated,
    StepCompensationFailed,
)

_log = logger("store")

_Result = TypeVar("_Result")
Item = TypeVar("Item", EncodedAppend, EncodedStart)


class Sender(Protocol[Item]):
    """Commits batches of one kind, and finds out what became of one."""

    async def send(
        self, connection: Connection, batch: Sequence[Item], lock_timeout: str
    ) -> list[Item]:
        """Commit *batch*, answer what is certain, and return what must be read back."""
        ...

    async def read_back(self, connection: Connection, batch: Sequence[Item]) -> list[Item]:
        """Answer what is certain of *batch* and return what did not happen."""
        ...

    def refuse(self, item: Item, error: Exception) -> None:
        """Answer that *item* will never be taken."""
        ...


class AppendSender:
    """Appends events to sagas of one worker."""

    def __init__(self, worker_id: UUID, schema: str) -> None:
        self._worker_id = worker_id
        self._append = qualify(appending.APPEND, schema)
        self._read_back = qualify(appending.READ_BACK, schema)

    async def send(
        self, connection: Connection, batch: Sequence[EncodedAppend], lock_timeout: str
    ) -> list[EncodedAppend]:
        """Append *batch*; a saga that does not take its events is fenced, or has them."""
        sent = appending.append_all(connection, self._append, batch, self._worker_id, lock_timeout)
        if failpoints.armed:
            names, text = _kinds("append", [item.append.events for item in batch])
            sent = failpoints.around(sent, *names, text=text, cut=connection.terminate)
        taken = await sent
        for item in batch:
            if item.saga_id in taken:
                _deliver(item.append.done, Committed(item.saga.last_hash))
        return [item for item in batch if item.saga_id not in taken]

    async def read_back(
        self, connection: Connection, batch: Sequence[EncodedAppend]
    ) -> list[EncodedAppend]:
        """Find out which of *batch* are stored, still to be sent, or fenced."""
        found = appending.read_back(connection, self._read_back, batch, self._worker_id)
        if failpoints.armed:
            found = failpoints.around(found, "read_back", text="", cut=connection.terminate)
        stored, still_open = await found
        for item in batch:
            if item.saga_id in stored:
                _deliver(item.append.done, Committed(item.saga.last_hash))
            elif item.saga_id not in still_open:
                _deliver(item.append.done, Fenced())
        return [item for item in batch if item.saga_id in still_open]

    def refuse(self, item: EncodedAppend, error: Exception) -> None:
        """Answer that the database does not take these events."""
        _deliver(item.append.done, Refused(error))


class StartSender:
    """Creates sagas, for one worker or for nobody in particular."""

    def __init__(self, worker_id: UUID | None, schema: str) -> None:
        self._worker_id = worker_id
        self._start = qualify(starting.START, schema)
        self._read_back = qualify(starting.READ_BACK, schema)

    async def send(
        self, connection: Connection, batch: Sequence[EncodedStart], lock_timeout: str
    ) -> list[EncodedStart]:
        """Create the sagas of *batch*; those whose key is taken must be read back."""
        arguments = starting.start_arguments(batch, self._worker_id, lock_timeout)
        sent = connection.fetch(self._start, *arguments)
        if failpoints.armed:
            names, text = _kinds("start", [item.start.events for item in batch])
            sent = failpoints.around(sent, *names, text=text, cut=connection.terminate)
        created = {row["saga_id"] for row in await sent}
        for item in batch:
            if item.saga_id in created:
                _deliver(item.start.done, item.started())
        return [item for item in batch if item.saga_id not in created]

    async def read_back(
        self, connection: Connection, batch: Sequence[EncodedStart]
    ) -> list[EncodedStart]:
        """Find out which of *batch* exist, under their own id or under their key's."""
        rows = await connection.fetch(self._read_back, *starting.read_back_arguments(batch))
        answers = {row["saga_id"]: row for row in rows}
        missing: list[EncodedStart] = []
        for item in batch:
            result = starting.answer(item, answers[item.saga_id])
            if result is None:
                missing.append(item)
            else:
                _deliver(item.start.done, result)
        return missing

    def refuse(self, item: EncodedStart, error: Exception) -> None:
        """Answer that the database does not take this saga."""
        _deliver(item.start.done, Refused(error))


class Line(Protocol):
    """The way to the tables: connections, and who sends what over them."""

    async def connect(self) -> Connection:
        """Open a connection for the caller alone."""
        ...

    def appends(self, worker_id: UUID) -> Sender[EncodedAppend]:
        """Return who appends for a worker."""
        ...

    def starts(self, worker_id: UUID | None) -> Sender[EncodedStart]:
        """Return who creates sagas for a worker, or for nobody in particular."""
        ...


class PostgresLine:
    """The way to a PostgreSQL.

    Args:
        url: The database.
        settings: Timeouts and schema.
    """

    def __init__(self, url: str, settings: Settings) -> None:
        self._url = url
        self._settings = settings

    async def connect(self) -> Connection:
        """Open a connection for the caller alone."""
        return await open_connection(self._url, self._settings)

    def appends(self, worker_id: UUID) -> AppendSender:
        """Return who appends for a worker."""
        return AppendSender(worker_id, self._settings.schema)

    def starts(self, worker_id: UUID | None) -> StartSender:
        """Return who creates sagas for a worker, or for nobody in particular."""
        return StartSender(worker_id, self._settings.schema)


class _Lane(Generic[Item]):
    """What waits to be sent by one sender."""

    def __init__(self, sender: Sender[Item]) -> None:
        self.sender: Sender[Item] = sender
        self.waiting: deque[Item] = deque()

    def take(self, most: int) -> list[Item]:
        return [self.waiting.popleft() for _ in range(min(most, len(self.waiting)))]


class Writer:
    """Commits starts and appends in batches over a few connections.

    Args:
        line: The way to the tables.
        settings: Batch bound and number of connections.
        observers: Told of every batch; None for nobody.
    """

    def __init__(self, line: Line, settings: Settings, observers: Observers | None = None) -> None:
        self._line = line
        self._observers = Observers() if observers is None else observers
        self._settings = settings
        self._appends: dict[UUID, _Lane[EncodedAppend]] = {}
        self._starts: dict[UUID | None, _Lane[EncodedStart]] = {}
        # A lane stands here while it has something to send and nobody has taken it.
        self._ready: asyncio.Queue[_Lane[Any]] = asyncio.Queue()
        self._queued: set[int] = set()
        # Items that stand alone behind somebody else's lock, with their lanes.
        self._aside: asyncio.Queue[tuple[_Lane[Any], Any]] = asyncio.Queue()
        # Batches in flight, and items that were set aside.
        self._unsettled = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._tasks: list[asyncio.Task[None]] = []

    def open(self) -> None:
        """Begin to write; connections are opened when they are first needed."""
        self._tasks = [
            asyncio.create_task(self._write(), name=f"eventsaga-writer-{number}")
            for number in range(self._settings.append_writers)
        ]
        self._tasks.append(
            asyncio.create_task(self._wait_for_locks(), name="eventsaga-writer-aside")
        )

    async def close(self, grace: float) -> None:
        """Write what has queued, for at most *grace* seconds, and stop."""
        try:
            async with asyncio.timeout(grace):
                await self._idle.wait()
        except TimeoutError:
            _log.warning("writer_closed_with_appends_in_flight")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def append(self, append: Append, worker_id: UUID) -> None:
        """Queue *append*; its ``done`` is called when the outcome is certain."""
        lane = self._appends.get(worker_id)
        if lane is None:
            lane = _Lane(self._line.appends(worker_id))
            self._appends[worker_id] = lane
        lane.waiting.append(encode_append(append))
        self._announce(lane)

    def start(self, start: Start, worker_id: UUID | None) -> None:
        """Queue *start*; its ``done`` is called when the outcome is certain."""
        lane = self._starts.get(worker_id)
        if lane is None:
            lane = _Lane(self._line.starts(worker_id))
            self._starts[worker_id] = lane
        lane.waiting.append(encode_start(start))
        self._announce(lane)

    def _announce(self, lane: _Lane[Any]) -> None:
        self._idle.clear()
        if id(lane) not in self._queued:
            self._queued.add(id(lane))
            self._ready.put_nowait(lane)

    async def _write(self) -> None:
        connection: Connection | None = None
        try:
            while True:
                lane = await self._ready.get()
                self._queued.discard(id(lane))
                batch = lane.take(self._settings.append_batch)
                if lane.waiting:
                    self._announce(lane)
                self._unsettled += 1
                sent = time.monotonic()
                try:
                    connection = await self._flush(connection, lane, batch, _PATIENCE)
                    self._observers.appended(len(batch), time.monotonic() - sent)
                finally:
                    self._settle()
        finally:
            await discard(connection)

    async def _wait_for_locks(self) -> None:
        """Send what was set aside, one at a time; what is still locked comes round again."""
        connection: Connection | None = None
        try:
            while True:
                lane, item = await self._aside.get()
                try:
                    await asyncio.sleep(jittered(0))
                    connection = await self._flush(connection, lane, [item], _PATIENCE)
                finally:
                    self._settle()
                if self._aside.empty():
                    await discard(connection)
                    connection = None
        finally:
            await discard(connection)

    def _set_aside(self, lane: _Lane[Any], item: Any, error: Exception) -> None:
        _log.warning("append_delayed", error=repr(error), sagas=1)
        self._unsettled += 1
        self._aside.put_nowait((lane, item))

    def _settle(self) -> None:
        self._unsettled -= 1
        if not self._unsettled and self._ready.empty():
            self._idle.set()

    async def _flush(
        self,
        connection: Connection | None,
        lane: _Lane[Any],
        batch: Sequence[Any],
        lock_timeout: str,
    ) -> Connection | None:
        """Bring every item of *batch* to a certain outcome; return a healthy connection."""
        sender, todo, read_back, pauses = lane.sender, list(batch), False, 0
        while todo:
            connection = connection or await self._connected()
            try:
                if read_back:
                    todo, read_back = await sender.read_back(connection, todo), False
                else:
                    todo, read_back = await sender.send(connection, todo, lock_timeout), True
            except Exception as error:  # noqa: BLE001 - sorted right below
                # A driver whose connection breaks while it looks up types raises whatever it
                # stumbles over.
                is_broken = connection.is_closed()
                if is_broken or (is_infrastructure(error) and not is_contention(error)):
                    # On another connection: this one may lead to what is a standby by now.
                    await discard(connection)
                    read_back = read_back or is_broken or outcome_is_unknown(error)
                    connection = None
                    pauses += 1
                    _log.warning("append_delayed", error=repr(error), sagas=len(todo))
                    await asyncio.sleep(jittered(pauses))
                elif len(todo) > 1:
                    half = len(todo) // 2
                    for part in (todo[:half], todo[half:]):
                        connection = await self._flush(connection, lane, part, _IMPATIENCE)
                    return connection
                elif is_contention(error):
                    self._set_aside(lane, todo[0], error)
                    return connection
                else:
                    sender.refuse(todo[0], error)
                    return connection
        return connection

    async def _connected(self) -> Connection:
        """Return a new connection, however long that takes: no saga is to blame for it."""
        pauses = 0
        while True:
            try:
                return await self._line.connect()
            except Exception as error:  # noqa: BLE001 - a wrong password is not the saga's either
                pauses += 1
                _log.warning("database_not_reached", error=repr(error))
                await asyncio.sleep(jittered(pauses))


def _kinds(name: str, batch: Sequence[Sequence[SagaEvent]]) -> tuple[list[str], str]:
    """Return the names of the failpoints of *batch*, *name* first, and what it says."""
    events = [event for saga in batch for event in saga]
    names = [name]
    if any(isinstance(event, _INTENTS) for event in events):
        names.append("intent_commit")
    if any(isinstance(event, _RESULTS) for event in events):
        names.append("result_commit")
    return names, " ".join(map(_said, events))


def _said(event: SagaEvent) -> str:
    step = getattr(event, "step", None)
    return type(event).__name__ if step is None else f"{type(event).__name__}/{step}"


def _deliver(done: Callable[[_Result], None], result: _Result) -> None:
    try:
        done(result)
    except Exception:  # noqa: BLE001 - a bug in a receiver must not stop the writer
        # The outcome is a fact whatever its receiver makes of it; the batch goes on.
        _log.exception("append_outcome_not_handled")


def jittered(pauses: int) -> float:
    """Return how long to wait: with full jitter, so that writers do not return all at once."""
    ceiling = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(pauses, 16))
    return random.uniform(0, ceiling)  # noqa: S311 - not for secrets

"""Who commits? A few writers, each with a connection, that take whatever has queued.

Group commit without a timer: while one statement is in flight, the next batch gathers. A
saga is in one batch at a time, because its next decision waits for this one's outcome.

An answer can be lost after the commit. So an error that leaves the outcome open is never
guessed at: the batch is read back on a fresh connection, and what did not arrive is sent
again, byte for byte. The guard of the statement makes that safe even if the first one is
still on its way: only one of the two finds the row at its expected number.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar
from uuid import UUID

from eventsaga.observe.log import logger
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

_log = logger("store")

_Result = TypeVar("_Result")
Item = TypeVar("Item", EncodedAppend, EncodedStart)


class Sender(Protocol[Item]):
    """Commits batches of one kind, and finds out what became of one."""

    async def send(self, connection: Connection, batch: Sequence[Item]) -> list[Item]:
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
        self, connection: Connection, batch: Sequence[EncodedAppend]
    ) -> list[EncodedAppend]:
        """Append *batch*; a saga that the statement does not return is fenced."""
        taken = await appending.append_all(connection, self._append, batch, self._worker_id)
        for item in batch:
            fate = Committed(item.saga.last_hash) if item.saga_id in taken else Fenced()
            _deliver(item.append.done, fate)
        return []

    async def read_back(
        self, connection: Connection, batch: Sequence[EncodedAppend]
    ) -> list[EncodedAppend]:
        """Find out which of *batch* are stored, still to be sent, or fenced."""
        stored, still_open = await appending.read_back(
            connection, self._read_back, batch, self._worker_id
        )
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
        self, connection: Connection, batch: Sequence[EncodedStart]
    ) -> list[EncodedStart]:
        """Create the sagas of *batch*; those whose key is taken must be read back."""
        arguments = starting.start_arguments(batch, self._worker_id)
        created = {row["saga_id"] for row in await connection.fetch(self._start, *arguments)}
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
        url: The database.
        settings: Batch bound, number of connections, timeout, schema.
    """

    def __init__(self, url: str, settings: Settings) -> None:
        self._url = url
        self._settings = settings
        self._appends: dict[UUID, _Lane[EncodedAppend]] = {}
        self._starts: dict[UUID | None, _Lane[EncodedStart]] = {}
        # A lane stands here while it has something to send and nobody has taken it.
        self._ready: asyncio.Queue[_Lane[Any]] = asyncio.Queue()
        self._queued: set[int] = set()
        # Batches in flight, and items that wait for somebody else's lock.
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
            lane = _Lane[EncodedAppend](AppendSender(worker_id, self._settings.schema))
            self._appends[worker_id] = lane
        lane.waiting.append(encode_append(append))
        self._announce(lane)

    def start(self, start: Start, worker_id: UUID | None) -> None:
        """Queue *start*; its ``done`` is called when the outcome is certain."""
        lane = self._starts.get(worker_id)
        if lane is None:
            lane = _Lane[EncodedStart](StartSender(worker_id, self._settings.schema))
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
                try:
                    connection = await self._flush(connection, lane, batch)
                finally:
                    self._settle()
        finally:
            await discard(connection)

    def _settle(self) -> None:
        self._unsettled -= 1
        if not self._unsettled and self._ready.empty():
            self._idle.set()

    async def _flush(
        self, connection: Connection | None, lane: _Lane[Any], batch: Sequence[Any]
    ) -> Connection | None:
        """Bring every item of *batch* to a certain outcome; return a healthy connection."""
        sender, todo, read_back, pauses = lane.sender, list(batch), False, 0
        while todo:
            try:
                connection = connection or await open_connection(self._url, self._settings)
                if read_back:
                    todo, read_back = await sender.read_back(connection, todo), False
                    continue
                todo, read_back = await sender.send(connection, todo), True
            except Exception as error:  # noqa: BLE001 - sorted right below
                if outcome_is_unknown(error):
                    await discard(connection)
                    connection, read_back = None, True
                if is_infrastructure(error) and not is_contention(error):
                    pauses += 1
                    _log.warning("append_delayed", error=repr(error), sagas=len(todo))
                    await asyncio.sleep(_jittered(pauses))
                elif len(todo) > 1:
                    # One bad or locked row must fail, or wait, alone.
                    half = len(todo) // 2
                    connection = await self._flush(connection, lane, todo[:half])
                    return await self._flush(connection, lane, todo[half:])
                elif is_contention(error):
                    self._send_later(lane, todo[0], error)
                    return connection
                else:
                    sender.refuse(todo[0], error)
                    return connection
        return connection

    def _send_later(self, lane: _Lane[Any], item: Any, error: Exception) -> None:
        """Queue *item* again after a pause: nobody else shall wait for its lock meanwhile."""
        _log.warning("append_delayed", error=repr(error), sagas=1)
        self._unsettled += 1

        def again() -> None:
            lane.waiting.append(item)
            self._announce(lane)
            self._settle()

        asyncio.get_running_loop().call_later(_jittered(2), again)


def _deliver(done: Callable[[_Result], None], result: _Result) -> None:
    try:
        done(result)
    except Exception:  # noqa: BLE001 - a bug in a receiver must not stop the writer
        # The outcome is a fact whatever its receiver makes of it; the batch goes on.
        _log.exception("append_outcome_not_handled")


def _jittered(pauses: int) -> float:
    """Return how long to wait: with full jitter, so that writers do not return all at once."""
    ceiling = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(pauses, 16))
    return random.uniform(0, ceiling)  # noqa: S311 - not for secrets

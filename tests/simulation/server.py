"""What is between a process and its tables? Requests that travel, and answers that may not come.

The tables are those of the store in memory; what reaches them is executed whether or not
somebody still waits for the answer. Appends go through the engine's own writer.
"""

import asyncio
import contextlib
import contextvars
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, Generic, Self, TypeVar
from uuid import UUID

import asyncpg

from eventsaga.errors import DatabaseUnavailableError
from eventsaga.settings import Settings
from eventsaga.store.ports import (
    Append,
    AppendResult,
    Committed,
    Fenced,
    Refused,
    RolledBack,
    Start,
    Started,
    StartResult,
)
from eventsaga.store.postgres.append import EncodedAppend, encode_append
from eventsaga.store.postgres.start import EncodedStart
from eventsaga.store.postgres.writer import Writer
from eventsaga.testing.memory import MemoryStore
from tests.simulation.loop import PROCESS, SERVER

_Answer = TypeVar("_Answer")

_LAN: Final = 0.002
_TIMEOUT: Final = 15.0


class Fate(StrEnum):
    """What becomes of a request."""

    ANSWERED = "answered"
    NOT_SENT = "lost before it took effect"
    NOT_ANSWERED = "took effect, and its answer was lost"
    SWALLOWED = "took effect, and nothing came back for a long time"
    REFUSED = "rolled back: a deadlock"


_DOWN: Final = (Fate.NOT_SENT, Fate.NOT_ANSWERED)
_TROUBLE: Final = (Fate.NOT_SENT, Fate.NOT_ANSWERED, Fate.SWALLOWED, Fate.REFUSED)


@dataclass
class Weather:
    """How bad it is out there; one a simulation.

    Attributes:
        lots: Draws every fate.
        trouble: Share of requests that something happens to.
        slow: Share of requests that take long.
        down: Whether the server is.
        cut: Processes that do not reach it.
    """

    lots: random.Random
    trouble: float = 0.0
    slow: float = 0.0
    down: bool = False
    cut: set[int] = field(default_factory=set[int])

    def back_up(self) -> None:
        """Let the server be up again."""
        self.down = False

    def clear_up(self) -> None:
        """End all trouble."""
        self.trouble = self.slow = 0.0
        self.cut.clear()
        self.back_up()

    def fate(self) -> Fate:
        """Draw what becomes of a request."""
        if self.down or PROCESS.get() in self.cut:
            return self.lots.choice(_DOWN) if self.down else Fate.NOT_SENT
        if self.lots.random() < self.trouble:
            return self.lots.choice(_TROUBLE)
        return Fate.ANSWERED

    def delay(self) -> float:
        """Draw how long one way takes, in seconds."""
        if self.lots.random() < self.slow:
            return self.lots.uniform(0, 4)
        return self.lots.uniform(0, _LAN)


def outside() -> contextvars.Context:
    """Return a context in which things happen to nobody's process."""
    context = contextvars.copy_context()
    context.run(PROCESS.set, SERVER)
    return context


async def travel(weather: Weather, execute: Callable[[], _Answer]) -> _Answer:
    """Have *execute* called on the other side and return its answer.

    Raises:
        ConnectionResetError: If the outcome is not known.
        asyncpg.DeadlockDetectedError: If it was rolled back.
        TimeoutError: If nothing came back for a long time.
    """
    return await _Journey(weather, execute).answer


class _Journey(Generic[_Answer]):
    """One request on its way there, and its answer on the way back.

    Args:
        weather: On the way.
        execute: What it asks for.
    """

    def __init__(self, weather: Weather, execute: Callable[[], _Answer]) -> None:
        self._weather = weather
        self._execute = execute
        self._loop = asyncio.get_running_loop()
        self._context = outside()
        self._fate, there, self._back = weather.fate(), weather.delay(), weather.delay()
        self.answer: asyncio.Future[_Answer] = self._loop.create_future()
        self._loop.call_later(there, self._arrive, context=self._context)

    def _arrive(self) -> None:
        if self._fate is Fate.NOT_SENT or self._weather.down:
            self._fail(ConnectionResetError("gone"))
        elif self._fate is Fate.REFUSED:
            self._fail(asyncpg.DeadlockDetectedError("rolled back"))
        else:
            try:
                self._return(self._execute())
            except Exception as error:  # noqa: BLE001 - the other side's answer
                self._fail(error)

    def _return(self, result: _Answer) -> None:
        match self._fate:
            case Fate.ANSWERED:
                self._later(self._back, self._deliver, result)
            case Fate.NOT_ANSWERED:
                self._later(self._back, self._fail, ConnectionResetError("gone"))
            case _:
                self._later(_TIMEOUT, self._fail, TimeoutError())

    def _later(self, seconds: float, do: Callable[[Any], None], what: object) -> None:
        self._loop.call_later(seconds, do, what, context=self._context)

    def _fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

    def _deliver(self, result: _Answer) -> None:
        if not self.answer.done():
            self.answer.set_result(result)


class Tables(MemoryStore):
    """The tables, with the two statements of the writer, and those of the user."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        super().__init__(now)
        self.user_rows: list[str] = []

    def take(self, batch: Sequence[EncodedAppend], worker_id: UUID) -> dict[UUID, bytes]:
        """Append what is not fenced, and return the heads of those sagas."""
        taken: dict[UUID, bytes] = {}
        for item in batch:
            result = self._appended(item, worker_id)
            if isinstance(result, Committed):
                taken[item.saga_id] = result.last_hash
        return taken

    def stored(
        self, batch: Sequence[EncodedAppend], worker_id: UUID
    ) -> tuple[set[UUID], set[UUID]]:
        """Return which of *batch* are stored, and which can still be appended."""
        stored: set[UUID] = set()
        still_open: set[UUID] = set()
        for item in batch:
            row, events = self._rows[item.saga_id], self._events[item.saga_id]
            expected = item.append.expected
            if len(events) > expected and events[expected].row.hash == item.events[0].hash:
                stored.add(item.saga_id)
            elif row["last_seq"] == expected and row["owner"] == worker_id:
                still_open.add(item.saga_id)
        return stored, still_open

    def create(self, batch: Sequence[EncodedStart], worker_id: UUID | None) -> set[UUID]:
        """Create what is new, and return it."""
        created: set[UUID] = set()
        for item in batch:
            result = self._started(item, worker_id)
            if isinstance(result, Started) and result.created:
                created.add(item.saga_id)
        return created

    def created(self, item: EncodedStart) -> StartResult | None:
        """Return what became of a start; None if it did not happen."""
        events = self._events.get(item.saga_id)
        if events:
            ours = events[0].row.hash == item.events[0].hash
            return item.started() if ours else Started(item.saga_id, created=False)
        if item.saga.key is None or (item.saga.name, item.saga.key) not in self._keys:
            return None
        return self._started(item, None)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All rows of ``sagas``."""
        return list(self._rows.values())


class _Connection:
    """Stands for one; what happens to it happens to each request."""

    def terminate(self) -> None:
        """Do nothing."""

    def is_closed(self) -> bool:
        """Return that it is not."""
        return False


class _AppendSender:
    def __init__(self, tables: Tables, weather: Weather, worker_id: UUID) -> None:
        self._tables = tables
        self._weather = weather
        self._worker_id = worker_id

    async def send(
        self, _connection: object, batch: Sequence[EncodedAppend], _lock_timeout: str
    ) -> list[EncodedAppend]:
        taken = await travel(self._weather, lambda: self._tables.take(batch, self._worker_id))
        for item in batch:
            if item.saga_id in taken:
                item.append.done(Committed(taken[item.saga_id]))
        return [item for item in batch if item.saga_id not in taken]

    async def read_back(
        self, _connection: object, batch: Sequence[EncodedAppend]
    ) -> list[EncodedAppend]:
        stored, still_open = await travel(
            self._weather, lambda: self._tables.stored(batch, self._worker_id)
        )
        for item in batch:
            if item.saga_id in stored:
                item.append.done(Committed(item.saga.last_hash))
            elif item.saga_id not in still_open:
                item.append.done(Fenced())
        return [item for item in batch if item.saga_id in still_open]

    def refuse(self, item: EncodedAppend, error: Exception) -> None:
        item.append.done(Refused(error))


class _StartSender:
    def __init__(self, tables: Tables, weather: Weather, worker_id: UUID | None) -> None:
        self._tables = tables
        self._weather = weather
        self._worker_id = worker_id

    async def send(
        self, _connection: object, batch: Sequence[EncodedStart], _lock_timeout: str
    ) -> list[EncodedStart]:
        created = await travel(self._weather, lambda: self._tables.create(batch, self._worker_id))
        for item in batch:
            if item.saga_id in created:
                item.start.done(item.started())
        return [item for item in batch if item.saga_id not in created]

    async def read_back(
        self, _connection: object, batch: Sequence[EncodedStart]
    ) -> list[EncodedStart]:
        missing: list[EncodedStart] = []
        for item in batch:
            result = await travel(self._weather, lambda item=item: self._tables.created(item))  # type: ignore[misc]
            if result is None:
                missing.append(item)
            else:
                item.start.done(result)
        return missing

    def refuse(self, item: EncodedStart, error: Exception) -> None:
        item.start.done(Refused(error))


class _Line:
    def __init__(self, tables: Tables, weather: Weather) -> None:
        self._tables = tables
        self._weather = weather

    async def connect(self) -> Any:
        await travel(self._weather, lambda: None)
        return _Connection()

    def appends(self, worker_id: UUID) -> Any:
        return _AppendSender(self._tables, self._weather, worker_id)

    def starts(self, worker_id: UUID | None) -> Any:
        return _StartSender(self._tables, self._weather, worker_id)


class _Transaction:
    """A transactional step's; the user's rows and the append are taken together or not at all."""

    def __init__(self, tables: Tables, weather: Weather) -> None:
        self._tables = tables
        self._weather = weather
        self.session: list[str] = []
        self.connection = self.session

    def may_succeed(self, error: BaseException) -> bool:
        return isinstance(error, ConnectionError | TimeoutError | asyncpg.PostgresError)

    async def commit(self, append: Append, worker_id: UUID) -> AppendResult | RolledBack:
        item = encode_append(append)

        def execute() -> dict[UUID, bytes]:
            taken = self._tables.take([item], worker_id)
            if taken:
                self._tables.user_rows += self.session
            return taken

        try:
            taken = await travel(self._weather, execute)
        except asyncpg.PostgresError as error:
            return RolledBack(error=error, may_succeed=True)
        except (ConnectionError, TimeoutError) as error:
            return await self._looked_up(item, worker_id, error)
        return Committed(item.saga.last_hash) if taken else Fenced()

    async def _looked_up(
        self, item: EncodedAppend, worker_id: UUID, error: Exception
    ) -> AppendResult | RolledBack:
        while True:
            with contextlib.suppress(ConnectionError, TimeoutError, asyncpg.PostgresError):
                stored, still_open = await travel(
                    self._weather, lambda: self._tables.stored([item], worker_id)
                )
                break
            await asyncio.sleep(_LAN)
        if stored:
            return Committed(item.saga.last_hash)
        return RolledBack(error=error, may_succeed=True) if still_open else Fenced()

    async def rollback(self) -> None:
        self.session.clear()


class RemoteStore:
    """The tables as one process sees them; see `eventsaga.store.ports.Store`."""

    def __init__(self, tables: Tables, weather: Weather, settings: Settings) -> None:
        self._tables = tables
        self._weather = weather
        self._writer = Writer(_Line(tables, weather), settings)

    async def __aenter__(self) -> Self:
        self._writer.open()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._writer.close(1.0)

    def append(self, append: Append, worker_id: UUID) -> None:
        """Queue *append*."""
        self._writer.append(append, worker_id)

    def start(self, start: Start, worker_id: UUID | None) -> None:
        """Queue *start*."""
        self._writer.start(start, worker_id)

    async def begin(self, _timeout: timedelta) -> _Transaction:
        """Open a transaction."""
        return _Transaction(self._tables, self._weather)

    def __getattr__(self, verb: str) -> Any:
        there = getattr(self._tables, verb)

        async def asked(*args: Any, **kwargs: Any) -> Any:
            def execute() -> Any:
                try:
                    there(*args, **kwargs).send(None)
                except StopIteration as answer:
                    return answer.value
                raise AssertionError("the tables wait for nobody")

            try:
                return await travel(self._weather, execute)
            except (ConnectionError, TimeoutError, asyncpg.PostgresError) as error:
                raise DatabaseUnavailableError(str(error)) from error

        return asked

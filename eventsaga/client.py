"""How do I use it? Start sagas, wait for them, look at them, and run a worker beside."""

import asyncio
import hashlib
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Generic, Self, TypeVar
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncEngine

from eventsaga.core.commands import StartSaga, Wake
from eventsaga.core.decide import transition
from eventsaga.core.state import Phase, State, Status, replay
from eventsaga.errors import (
    DefinitionError,
    IllegalCommandError,
    PayloadError,
    SagaNotFoundError,
    UnknownSagaError,
)
from eventsaga.identity import new_id
from eventsaga.runtime.clock import DatabaseClock
from eventsaga.runtime.waiting import Waiting
from eventsaga.runtime.worker import Worker, definition_key
from eventsaga.saga import Saga
from eventsaga.settings import Settings
from eventsaga.store.ports import Refused, SagaRow, Start, StartResult, StoredEvent
from eventsaga.store.postgres.store import PostgresStore
from eventsaga.store.projection import current_steps, error_of
from eventsaga.wire.payload import dump, dump_canonical, to_json_object, to_model

Context = TypeVar("Context")

_MAX_KEY: Final = 500
_MAX_CORRELATION_ID: Final = 200
_MAX_ACTOR: Final = 200
_REALIGN_SECONDS: Final = 60.0
_BREATHE_EVERY: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaError:
    """Why a saga went back, or waits.

    Attributes:
        step_name: The step that failed; None if no step did.
        message: What was reported.
        timestamp: When.
    """

    step_name: str | None
    message: str
    timestamp: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaState(Generic[Context]):
    """A saga as its history has it.

    Attributes:
        saga_id: The saga.
        saga_name: Its definition.
        version: Version of the definition.
        status: Where it stands.
        context: The context model; a dict if the saga is not registered here.
        completed_steps: Steps that succeeded and were not compensated, in order.
        compensated_steps: Steps whose compensation is done, in order of their start.
        in_doubt_steps: Steps whose effect may have happened, and nobody knows.
        current_steps: Steps that are running or waiting for another attempt.
        error: Why it went back, or waits; None if it does neither.
        correlation_id: Sent along with every call of the saga.
        seq: Number of events.
        created_at: Time of the first event.
        updated_at: Time of the last event.
    """

    saga_id: UUID
    saga_name: str
    version: int
    status: Status
    context: Context
    completed_steps: tuple[str, ...]
    compensated_steps: tuple[str, ...]
    in_doubt_steps: tuple[str, ...]
    current_steps: tuple[str, ...]
    error: SagaError | None
    correlation_id: str
    seq: int
    created_at: datetime
    updated_at: datetime


class SagaHandle:
    """A saga that was started. Cheap: it holds nothing but the id.

    Attributes:
        id: The saga.
        created: Whether this start created it; False if its key had done so before.
    """

    def __init__(self, orchestrator: "Orchestrator", saga_id: UUID, *, created: bool) -> None:
        self.id = saga_id
        self.created = created
        self._orchestrator = orchestrator

    def __repr__(self) -> str:
        return f"SagaHandle({self.id})"

    async def result(self, timeout: float | None = None) -> SagaState[Any]:  # noqa: ASYNC109
        """Wait until the saga has ended or is parked, and return where it stands.

        Args:
            timeout: Wait at most so many seconds; None for as long as it takes.

        Raises:
            TimeoutError: If it takes longer; the saga goes on.
        """
        return await self._orchestrator.wait(self.id, timeout=timeout)

    async def state(self) -> SagaState[Any]:
        """Return where the saga stands now."""
        return await self._orchestrator.get(self.id)

    async def history(self) -> tuple[StoredEvent, ...]:
        """Return all events of the saga in order."""
        return await self._orchestrator.history(self.id)

    async def cancel(self, reason: str, *, actor: str = "client") -> None:
        """Ask the saga to go back; see `Orchestrator.cancel`."""
        await self._orchestrator.cancel(self.id, reason, actor=actor)


class Orchestrator:
    """Starts sagas in a PostgreSQL database and, unless told not to, runs them.

    Use it with ``async with``; on leaving, the worker is drained.

    Args:
        database: URL of the database, or an engine whose URL is taken.
        sagas: What can be started here by name and, with a worker, what it runs. Several
            versions of one saga may be given; the highest is started.
        worker: Whether to run sagas in this process.
        settings: Limits and times; None for those of the environment.

    Raises:
        DefinitionError: If two sagas have the same name and version.
        DatabaseUnavailableError: On entry, if the database cannot be reached.
        SchemaOutdatedError: On entry, if it was not migrated (``eventsaga db upgrade``).
    """

    def __init__(
        self,
        database: str | AsyncEngine,
        sagas: Sequence[Saga[Any]] = (),
        *,
        worker: bool = True,
        settings: Settings | None = None,
    ) -> None:
        self.settings = Settings.from_environment() if settings is None else settings
        self.store = PostgresStore(database, self.settings)
        self._sagas = {definition_key(saga): saga for saga in sagas}
        self._newest = _newest(sagas)
        self._with_worker = worker and bool(sagas)
        self._clock = DatabaseClock()
        self._aligned_at = float("-inf")
        self._waiting = Waiting(self.store)
        self._worker: Worker | None = None

    @property
    def sagas(self) -> tuple[Saga[Any], ...]:
        """What can be started here and, with a worker, what it runs."""
        return tuple(self._sagas.values())

    async def __aenter__(self) -> Self:
        await self.store.__aenter__()
        try:
            await self._align()
            if self._with_worker:
                worker = Worker(
                    self.store, self._sagas, self.settings, self._clock, self._waiting.settled
                )
                await worker.open()
                self._worker = worker
                self._waiting.runs_here = worker.runs
        except BaseException:
            await self.store.__aexit__()
            raise
        return self

    async def __aexit__(self, *_error: object) -> None:
        try:
            if self._worker is not None:
                await self._worker.close()
        finally:
            await self._waiting.close()
            await self.store.__aexit__()

    # -- starting --------------------------------------------------------------------------

    async def start(
        self,
        saga: str | Saga[Any],
        context: BaseModel | Mapping[str, Any],
        *,
        key: str | None = None,
        correlation_id: str | None = None,
        connection: object = None,
    ) -> SagaHandle:
        """Start a saga; on return it is durable.

        Args:
            saga: The name of a registered saga, or the saga.
            context: The input: its context model, or a mapping that fits it.
            key: The same key starts the same saga only once, from however many processes.
            correlation_id: Sent along with every call; None for the saga's id.
            connection: The caller's `AsyncSession`, `AsyncConnection` or asyncpg
                connection: the saga exists if and only if its transaction commits, and
                is picked up by a worker afterwards.

        Raises:
            UnknownSagaError: If no saga of this name is registered.
            PayloadError: If the context cannot be stored or does not fit the model.
            KeyConflictError: If the key was used with a different context.
            DatabaseUnavailableError: If the caller's connection fails.
        """
        bound = self._registered(saga)
        plain = self._checked(bound, context)
        await self._align()
        here = connection is None and self._worker is not None and self._worker.has_room
        start = self._prepared(bound, plain, key, correlation_id, here=here)
        if connection is not None:
            result = await self.store.start_within(connection, start)
        else:
            result = await self._sent(bound, start)
        if isinstance(result, Refused):
            raise result.error
        return SagaHandle(self, result.saga_id, created=result.created)

    async def start_many(
        self,
        saga: str | Saga[Any],
        contexts: Iterable[BaseModel | Mapping[str, Any]],
        *,
        keys: Iterable[str] | None = None,
    ) -> list[SagaHandle]:
        """Start one saga per context, together; on return all are durable.

        All contexts are checked before the first saga is started.

        Args:
            saga: The name of a registered saga, or the saga.
            contexts: The inputs.
            keys: One key per context, in the same order; None for no keys.

        Raises:
            ValueError: If there are not as many keys as contexts.
            PayloadError: If a context is refused; none was started.
            ExceptionGroup: If some were not started, for example by `KeyConflictError`;
                all others were.
        """
        bound = self._registered(saga)
        checked: list[dict[str, Any]] = []
        for number, context in enumerate(contexts):
            checked.append(self._checked(bound, context, what=f"$[{number}]"))
            await _breathe(number)
        named = [None] * len(checked) if keys is None else list(keys)
        if len(named) != len(checked):
            raise ValueError(f"{len(checked)} contexts, but {len(named)} keys")
        await self._align()
        waits: list[asyncio.Future[StartResult]] = []
        for number, (plain, key) in enumerate(zip(checked, named, strict=True)):
            await _breathe(number)
            here = self._worker is not None and self._worker.has_room
            start = self._prepared(bound, plain, key, None, here=here)
            waits.append(self._sent(bound, start))
        results = await asyncio.gather(*waits)
        errors = [result.error for result in results if isinstance(result, Refused)]
        if errors:
            raise ExceptionGroup(f"{len(errors)} of {len(results)} sagas were not started", errors)
        return [
            SagaHandle(self, result.saga_id, created=result.created)
            for result in results
            if not isinstance(result, Refused)
        ]

    def _registered(self, saga: str | Saga[Any]) -> Saga[Any]:
        name = saga if isinstance(saga, str) else saga.name
        found = self._newest.get(name) if isinstance(saga, str) else saga
        if found is None or definition_key(found) not in self._sagas:
            raise UnknownSagaError(name, tuple(self._newest))
        return found

    def _checked(
        self, saga: Saga[Any], context: BaseModel | Mapping[str, Any], *, what: str = "$"
    ) -> dict[str, Any]:
        if isinstance(context, BaseModel) and not isinstance(context, saga.context):
            kind, wanted = type(context).__name__, saga.context.__name__
            raise PayloadError(what, f"saga {saga.name!r} takes {wanted}, not {kind}")
        plain = to_json_object(context, what=what)
        # Back and forth once: what is stored is what every later load will see.
        model = to_model(saga.context, dump(plain), what=what)
        return plain if isinstance(context, BaseModel) else to_json_object(model, what=what)

    def _prepared(
        self,
        saga: Saga[Any],
        context: dict[str, Any],
        key: str | None,
        correlation_id: str | None,
        *,
        here: bool,
    ) -> Start:
        """Return the start of a saga; *here* if this worker drives it at once."""
        saga_id = new_id()
        command = StartSaga(
            at=self._clock.now(),
            context=context,
            correlation_id=_checked_text(
                "correlation_id", correlation_id or str(saga_id), _MAX_CORRELATION_ID
            ),
            key=None if key is None else _checked_text("key", key, _MAX_KEY),
        )
        decided = transition(saga.definition, State(saga_id), command)
        events, state = decided.events, decided.state
        if here:
            # Intent of the first step in the first commit: N steps cost N + 1 commits.
            first = transition(saga.definition, state, Wake(at=command.at))
            events, state = events + first.events, first.state
        digest = hashlib.sha256(dump_canonical(context).encode()).digest()
        return Start(events=events, state=state, owned=here, digest=digest, done=_ignored)

    def _sent(self, saga: Saga[Any], start: Start) -> asyncio.Future[StartResult]:
        answer: asyncio.Future[StartResult] = asyncio.get_running_loop().create_future()
        start.done = _resolver(answer)
        if start.owned and self._worker is not None:
            self._worker.start(saga, start)
        else:
            self.store.start(start, None)
            if self._worker is not None:
                answer.add_done_callback(lambda _: self._poke())
        return answer

    def _poke(self) -> None:
        if self._worker is not None:
            self._worker.poke()

    # -- looking ---------------------------------------------------------------------------

    async def get(self, saga_id: UUID) -> SagaState[Any]:
        """Return where a saga stands, from its history.

        Raises:
            SagaNotFoundError: If there is no such saga.
        """
        history = await self.history(saga_id)
        return self._view(replay((stored.event for stored in history), State(saga_id)))

    async def list(
        self,
        *,
        statuses: Sequence[Status] | None = None,
        name: str | None = None,
        correlation_id: str | None = None,
        before: UUID | None = None,
        limit: int = 100,
    ) -> Sequence[SagaRow]:
        """Return sagas as the projection has them, youngest first.

        Args:
            statuses: Only these; None for all.
            name: Only sagas of this definition.
            correlation_id: Only those that were started with it.
            before: The page that follows the one whose last saga has this id.
            limit: At most so many.
        """
        return await self.store.list_sagas(
            statuses=statuses, name=name, correlation_id=correlation_id, before=before, limit=limit
        )

    async def history(self, saga_id: UUID) -> tuple[StoredEvent, ...]:
        """Return all events of a saga in order.

        Raises:
            SagaNotFoundError: If there is no such saga.
        """
        history = await self.store.history(saga_id)
        if not history:
            raise SagaNotFoundError(saga_id)
        return history

    async def wait(
        self,
        saga_id: UUID,
        *,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> SagaState[Any]:
        """Wait until a saga has ended or is parked, and return where it stands.

        Raises:
            TimeoutError: If it takes longer than *timeout* seconds; the saga goes on.
            SagaNotFoundError: If there is no such saga.
        """
        if self._worker is None or not self._worker.runs(saga_id):
            state = await self.get(saga_id)
            if state.status.is_settled:
                return state
        try:
            async with asyncio.timeout(timeout):
                settled = await self._waiting.wait(saga_id)
        except TimeoutError:
            raise TimeoutError(f"saga {saga_id} is not finished after {timeout:g} s") from None
        return await self.get(saga_id) if settled is None else self._view(settled)

    def _view(self, state: State) -> SagaState[Any]:
        saga = self._sagas.get((state.saga_name, state.version, state.fingerprint))
        error = error_of(state)
        return SagaState(
            saga_id=state.saga_id,
            saga_name=state.saga_name,
            version=state.version,
            status=state.status,
            context=dict(state.context)
            if saga is None
            else to_model(saga.context, dump(state.context)),
            completed_steps=tuple(state.in_phase(Phase.SUCCEEDED)),
            compensated_steps=tuple(state.in_phase(Phase.COMPENSATED)),
            in_doubt_steps=tuple(name for name, step in state.steps.items() if step.is_in_doubt),
            current_steps=current_steps(state),
            error=None
            if error is None
            else SagaError(
                step_name=error["step_name"],
                message=error["message"],
                timestamp=datetime.fromisoformat(error["timestamp"]),
            ),
            correlation_id=state.correlation_id,
            seq=state.seq,
            created_at=state.created_at,
            updated_at=state.updated_at,
        )

    # -- commanding ------------------------------------------------------------------------

    async def cancel(self, saga_id: UUID, reason: str, *, actor: str = "client") -> None:
        """Ask a saga to stop and go back; what has happened is compensated.

        On return the request is durable; the saga's owner takes it at its next step.

        Args:
            saga_id: The saga.
            reason: Recorded with the request.
            actor: Who asks; recorded too.

        Raises:
            SagaNotFoundError: If there is no such saga.
            IllegalCommandError: If it has ended, or is parked.
            PayloadError: If *reason* or *actor* cannot be stored.
        """
        row = await self.store.get(saga_id)
        if row is None:
            raise SagaNotFoundError(saga_id)
        if row.status.is_settled:
            raise IllegalCommandError("cancel", f"the saga is {row.status} already")
        data = to_json_object({"reason": reason})
        actor = _checked_text("actor", actor, _MAX_ACTOR)
        await self.store.post(saga_id, new_id(), "cancel", data, actor)
        self._poke()

    # -- running ---------------------------------------------------------------------------

    async def run(self) -> None:
        """Run the worker until SIGTERM or SIGINT, then drain it.

        Raises:
            DefinitionError: If there is no worker to run.
        """
        if self._worker is None:
            raise DefinitionError(
                "there is nothing to run: pass sagas to Orchestrator(), and not worker=False"
            )
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        try:
            await stop.wait()
        finally:
            # A second signal finds the default handler: as good as a crash, and as safe.
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
        await self.drain()

    async def drain(self) -> None:
        """Stop claiming, let running attempts end or hand them over, release all sagas."""
        if self._worker is not None:
            await self._worker.drain()

    async def _align(self) -> None:
        """Set the clock by the database's, where no heartbeat does so."""
        now = self._clock.monotonic()
        if self._worker is None and now - self._aligned_at > _REALIGN_SECONDS:
            answered = await self.store.now()
            self._aligned_at = self._clock.monotonic()
            self._clock.align(answered, sent=now, received=self._aligned_at)


def _newest(sagas: Sequence[Saga[Any]]) -> dict[str, Saga[Any]]:
    newest: dict[str, Saga[Any]] = {}
    seen: set[tuple[str, int]] = set()
    for saga in sorted(sagas, key=lambda saga: saga.definition.version):
        identity = (saga.name, saga.definition.version)
        if identity in seen:
            raise DefinitionError(f"saga {saga.name!r} version {identity[1]} is registered twice")
        seen.add(identity)
        newest[saga.name] = saga
    return newest


async def _breathe(number: int) -> None:
    """Let heartbeats and running sagas have their turn in a long loop."""
    if number % _BREATHE_EVERY == 0:
        await asyncio.sleep(0)


def _checked_text(what: str, text: str, longest: int) -> str:
    if not text or len(text) > longest or not text.isprintable():
        raise PayloadError(what, f"must be 1 to {longest} printable characters, not {text[:60]!r}")
    if what == "correlation_id" and not text.isascii():
        raise PayloadError(what, "must be ASCII, because it is sent in a header")
    return text


def _resolver(answer: "asyncio.Future[StartResult]") -> Callable[[StartResult], None]:
    def resolve(result: StartResult) -> None:
        # The caller may have stopped waiting; the saga exists all the same.
        if not answer.done():
            answer.set_result(result)

    return resolve


def _ignored(_result: StartResult) -> None:
    """Stand in until somebody waits for the result."""

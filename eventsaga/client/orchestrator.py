"""Who starts sagas, waits for them, looks at them, and runs a worker beside?"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Self, cast
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncEngine

from eventsaga import failpoints
from eventsaga.client import feed as feeds
from eventsaga.client.feed import Feed
from eventsaga.client.handle import SagaHandle
from eventsaga.client.monitor import Monitor
from eventsaga.client.operator import Operator
from eventsaga.client.registered import distinct, newest
from eventsaga.client.standing import history_of, state_of
from eventsaga.client.stop import stop_signal
from eventsaga.client.travel import until
from eventsaga.client.view import SagaState, view
from eventsaga.contexts import checked_input
from eventsaga.core.evolve import replay
from eventsaga.core.state import State, Status
from eventsaga.errors import DefinitionError, SagaNotFoundError, UnknownSagaError
from eventsaga.observe.alert import AlertHandler
from eventsaga.observe.life import LifeLog
from eventsaga.observe.log import logger
from eventsaga.observe.observer import Observer, Observers
from eventsaga.observe.trace import SagaSpans, is_on
from eventsaga.runtime.clock import DatabaseClock
from eventsaga.runtime.prepare import checked_key, prepare
from eventsaga.runtime.schedule import Scheduler
from eventsaga.runtime.waiting import Waiting
from eventsaga.runtime.worker import Worker, definition_key
from eventsaga.saga import Saga, with_children
from eventsaga.schedule import Schedule
from eventsaga.settings import Settings
from eventsaga.store.ports import (
    Refused,
    SagaFilter,
    SagaRow,
    Start,
    StartResult,
    Store,
    StoredEvent,
)
from eventsaga.store.postgres.store import PostgresStore
from eventsaga.wire import sealing
from eventsaga.wire.sealing import PayloadCodec

_REALIGN_SECONDS: Final = 60.0
_BREATHE_EVERY: Final = 50

_log = logger("client")


class Orchestrator(Operator):
    """Starts sagas in a PostgreSQL database and, unless told not to, runs them.

    Use it with ``async with``; on leaving, the worker is drained.

    Args:
        database: URL of the database, or an engine whose URL is taken; in tests, a store.
        sagas: What can be started here by name and, with a worker, what it runs. Several
            versions of one saga may be given; the highest is started.
        schedules: What starts by itself, from any process that has a worker.
        worker: Whether to run sagas in this process.
        settings: Limits and times; None for those of the environment.
        clock: For tests in virtual time; None for the database's.
        codec: Seals payloads on their way to the tables; for the whole process, from here on.
            None for the one that the settings name, or none.
        on_alert: Called, where there is a worker, with each `Alert` as it is raised: by one
            worker of the database, and again by the next one if that dies. None for nobody.

    Raises:
        DefinitionError: If two sagas have the same name and version, two schedules the
            same name, or a schedule a saga that is not given.
        DatabaseUnavailableError: On entry, if the database cannot be reached.
        SchemaOutdatedError: On entry, if it was not migrated (``eventsaga db upgrade``).
    """

    def __init__(
        self,
        database: str | AsyncEngine | Store,
        sagas: Sequence[Saga[Any]] = (),
        *,
        schedules: Sequence[Schedule] = (),
        worker: bool = True,
        settings: Settings | None = None,
        clock: DatabaseClock | None = None,
        codec: PayloadCodec | None = None,
        on_alert: AlertHandler | None = None,
    ) -> None:
        self.settings = Settings.from_environment() if settings is None else settings
        sealing.install(codec or sealing.load(self.settings.codec))
        self._observers = Observers()
        self._observers.add(LifeLog())
        self._on_alert = on_alert
        # A store of another kind passes the same suite of tests.
        # Nobody is woken up for a saga of a test in virtual time.
        self._is_watched = isinstance(database, str | AsyncEngine)
        store = (
            PostgresStore(database, self.settings, self._observers)
            if isinstance(database, str | AsyncEngine)
            else cast("PostgresStore", database)
        )
        family = with_children(sagas)
        super().__init__(store, {definition_key(saga): saga for saga in family})
        self._newest = newest(family)
        self._schedules = distinct(schedules, self._sagas)
        self._with_worker = worker and bool(sagas)
        self._clock = DatabaseClock() if clock is None else clock
        self._aligned_at = float("-inf")
        self._waiting = Waiting(self.store, self.settings.poll.total_seconds() / 2)
        self._worker: Worker | None = None
        self._scheduler: Scheduler | None = None
        self._monitor: asyncio.Task[None] | None = None

    @property
    def sagas(self) -> tuple[Saga[Any], ...]:
        """What can be started here and, with a worker, what it runs."""
        return tuple(self._sagas.values())

    @property
    def runs_sagas(self) -> bool:
        """Whether it has a worker, or gets one when it is opened."""
        return self._with_worker

    async def __aenter__(self) -> Self:
        for points in failpoints.arm_from_environment():
            _log.warning("failpoints_armed", points=points)
        await self.store.__aenter__()
        try:
            await self._align()
            if self._sagas:
                # Also by those who only start: tools can then judge these sagas without code.
                shapes = {key: saga.definition.shape() for key, saga in self._sagas.items()}
                await self.store.register_definitions(shapes)
            if self._with_worker:
                if is_on():
                    self._observers.add(SagaSpans())
                worker = Worker(
                    self.store,
                    self._sagas,
                    self.settings,
                    self._clock,
                    self._waiting.settled,
                    observers=self._observers,
                )
                await worker.open()
                self._worker = worker
                self._waiting.runs_here = worker.runs
                await self._open_scheduler()
                if self._is_watched:
                    self._open_monitor(worker)
        except BaseException:
            if self._worker is not None:
                await self._worker.close()
            await self.store.__aexit__()
            raise
        return self

    async def __aexit__(self, *_error: object) -> None:
        try:
            await self._close_scheduler()
            await self._close_monitor()
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
        tenant: str | None = None,
        connection: object = None,
    ) -> SagaHandle:
        """Start a saga; on return it is durable.

        Args:
            saga: The name of a registered saga, or the saga.
            context: The input: its context model, or a mapping that fits it.
            key: The same key starts the same saga only once, from however many processes.
            correlation_id: Sent along with every call; None for the saga's id.
            tenant: Whose it is; each has keys of its own. None for nobody in particular.
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
        plain = checked_input(bound, context)
        await self._align()
        here = connection is None and self._worker is not None and self._worker.has_room(bound)
        start = prepare(
            bound,
            plain,
            at=self._clock.now(),
            key=key,
            correlation_id=correlation_id,
            tenant=tenant,
            begin=here,
        )
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
        tenant: str | None = None,
    ) -> list[SagaHandle]:
        """Start one saga per context, together; on return all are durable.

        All contexts are checked before the first saga is started.

        Args:
            saga: The name of a registered saga, or the saga.
            contexts: The inputs.
            keys: One key per context, in the same order; None for no keys.
            tenant: Whose they all are; None for nobody in particular.

        Raises:
            ValueError: If there are not as many keys as contexts.
            PayloadError: If a context or a key is refused; none was started.
            ExceptionGroup: If some were not started, for example by `KeyConflictError`;
                all others were.
        """
        bound = self._registered(saga)
        checked: list[dict[str, Any]] = []
        for number, context in enumerate(contexts):
            checked.append(checked_input(bound, context, what=f"$[{number}]"))
            await _breathe(number)
        named = [None] * len(checked) if keys is None else list(keys)
        if len(named) != len(checked):
            raise ValueError(f"{len(checked)} contexts, but {len(named)} keys")
        await self._align()
        for name in named:
            if name is not None:
                checked_key(name)
        waits: list[asyncio.Future[StartResult]] = []
        for number, (plain, key) in enumerate(zip(checked, named, strict=True)):
            await _breathe(number)
            here = self._worker is not None and self._worker.has_room(bound)
            start = prepare(
                bound,
                plain,
                at=self._clock.now(),
                key=key,
                correlation_id=None,
                tenant=tenant,
                begin=here,
            )
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
        return view(await state_of(self.store, saga_id), self._sagas)

    async def state_at(
        self, saga_id: UUID, *, seq: int | None = None, at: datetime | None = None
    ) -> SagaState[Any]:
        """Return where a saga stood after an event, or at an instant.

        Args:
            saga_id: The saga.
            seq: After the event of this number.
            at: At this instant, which must have a timezone: after all events that the
                database had stored by then.

        Raises:
            SagaNotFoundError: If there is no such saga.
            NoSuchMomentError: If it had not begun then, or has no such event.
            ValueError: If not one of *seq* and *at* is given, or *at* has no timezone.
        """
        moment = seq if at is None else at
        if moment is None or (seq is not None and at is not None):
            raise ValueError("give either seq or at")
        if at is not None and at.tzinfo is None:
            raise ValueError("at must have a timezone")
        history = until(await self.history(saga_id), moment)
        state = replay((stored.event for stored in history), State(saga_id))
        return view(state, self._sagas)

    async def list(
        self,
        *,
        statuses: Sequence[Status] | None = None,
        name: str | None = None,
        step: str | None = None,
        correlation_id: str | None = None,
        tenant: str | None = None,
        created_before: datetime | None = None,
        created_after: datetime | None = None,
        where: Mapping[str, str] | None = None,
        text: str | None = None,
        before: UUID | None = None,
        limit: int = 100,
    ) -> Sequence[SagaRow]:
        """Return sagas as the projection has them, youngest first, that pass all that is given.

        Args:
            statuses: Only these.
            name: Only sagas of this definition.
            step: Only those that stand at it, or went back or wait because of it.
            correlation_id: Only those that were started with it.
            tenant: Only those that belong to it.
            created_before: Only those that were started before this instant.
            created_after: Only those that were started at or after it.
            where: Only those with these values in their context, as of the last change of
                their status: paths of names with dots between them, and values as text.
            text: Only those that have it, in whatever case, in id, name, error or context.
            before: The page that follows the one whose last saga has this id.
            limit: At most so many.
        """
        wanted = SagaFilter(
            statuses=statuses,
            name=name,
            step=step,
            correlation_id=correlation_id,
            tenant=tenant,
            created_before=created_before,
            created_after=created_after,
            where=where or {},
            text=text,
        )
        return await self.store.list_sagas(wanted, before=before, limit=limit)

    async def history(self, saga_id: UUID) -> tuple[StoredEvent, ...]:
        """Return all events of a saga in order.

        Raises:
            SagaNotFoundError: If there is no such saga.
        """
        return await history_of(self.store, saga_id)

    async def children(self, saga_id: UUID) -> Sequence[SagaRow]:
        """Return the sagas that a saga has started as its steps, oldest first.

        They are as the projection has them; none for a saga without children.

        Raises:
            SagaNotFoundError: If there is no such saga.
        """
        children = await self.store.children(saga_id)
        if not children and await self.store.get(saga_id) is None:
            raise SagaNotFoundError(saga_id)
        return children

    async def wait(
        self,
        saga_id: UUID,
        *,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> SagaState[Any]:
        """Wait until a saga has ended or is parked, and return where it stands.

        Args:
            saga_id: The saga.
            timeout: Wait at most so many seconds; None for as long as it takes.

        Raises:
            TimeoutError: If it takes longer; the saga goes on.
            SagaNotFoundError: If there is no such saga.
        """
        if self._worker is None or not self._worker.runs(saga_id):
            state = await self.get(saga_id)
            if state.status.is_settled:
                return state
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                settled = await self._waiting.wait(saga_id)
        except TimeoutError:
            if not limit.expired():
                raise  # another clock than ours
            raise TimeoutError(f"saga {saga_id} is not finished after {timeout:g} s") from None
        return await self.get(saga_id) if settled is None else view(settled, self._sagas)

    def feed(
        self,
        consumer: str,
        *,
        limit: int = feeds.LIMIT,
        lease: timedelta | float = feeds.LEASE,
    ) -> Feed:
        """Return the feed of a consumer: every committed event once, those of a saga in order.

        How far it is, is kept in the database under its name. What has not been committed by
        `Batch.commit` comes again, to this process or to another one: at least once. With
        ``take(connection=…)`` it is part of the caller's transaction: once.

        Args:
            consumer: Who reads; a new one begins with the first event there is.
            limit: Events in a batch at most.
            lease: How long a batch may take, in seconds or as a `timedelta`; after that,
                another process may take it, too.

        Raises:
            ValueError: If *consumer* is no name, or *limit* or *lease* not positive.
        """
        allowed = lease if isinstance(lease, timedelta) else timedelta(seconds=lease)
        return Feed(self.store, consumer, limit=limit, lease=allowed)

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
        # A second signal finds the default handler: as good as a crash, and as safe.
        with stop_signal() as told:
            await told
        await self.drain()

    async def drain(self) -> None:
        """Stop claiming, let running attempts end or hand them over, release all sagas."""
        await self._close_scheduler()
        if self._worker is not None:
            await self._worker.drain()

    async def _open_scheduler(self) -> None:
        worker = self._worker
        assert worker is not None, "only workers start slots"
        scheduler = Scheduler(
            self.store, self._schedules, self._clock, lambda: worker.worker_id, self._poke
        )
        await scheduler.open()
        self._scheduler = scheduler

    async def _close_scheduler(self) -> None:
        if self._scheduler is not None:
            await self._scheduler.close()

    def observe(self, observer: Observer) -> None:
        """Tell *observer* what this process does, from now on."""
        self._observers.add(observer)

    def _open_monitor(self, worker: Worker) -> None:
        monitor = Monitor(
            self.store, self.sagas, lambda: worker.worker_id, self._observers, self._on_alert
        )
        self._monitor = asyncio.create_task(monitor.keep(), name="eventsaga-monitor")

    async def _close_monitor(self) -> None:
        if self._monitor is not None:
            self._monitor.cancel()
            await asyncio.gather(self._monitor, return_exceptions=True)

    async def vanish(self) -> None:
        """Stop as if the process had died: nothing is finished, recorded or given up."""
        await self._close_monitor()
        if self._worker is not None:
            await self._worker.vanish()
        await self._waiting.close()

    async def _align(self) -> None:
        """Set the clock by the database's, where no heartbeat does so."""
        now = self._clock.monotonic()
        if self._worker is None and now - self._aligned_at > _REALIGN_SECONDS:
            answered = await self.store.now()
            self._aligned_at = self._clock.monotonic()
            self._clock.align(answered, sent=now, received=self._aligned_at)


async def _breathe(number: int) -> None:
    """Let heartbeats and running sagas have their turn in a long loop."""
    if number % _BREATHE_EVERY == 0:
        await asyncio.sleep(0)


def _resolver(answer: "asyncio.Future[StartResult]") -> Callable[[StartResult], None]:
    def resolve(result: StartResult) -> None:
        # The caller may have stopped waiting; the saga exists all the same.
        if not answer.done():
            answer.set_result(result)

    return resolve

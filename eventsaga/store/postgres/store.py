"""How does all of it come together? The store that orchestrators and tools are given.

It owns the connections and nothing else: every verb is a function of its own module.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from functools import update_wrapper
from types import CoroutineType, MappingProxyType
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar
from uuid import UUID

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from eventsaga import failpoints
from eventsaga.errors import DatabaseUnavailableError, EventSagaError
from eventsaga.observe.observer import Observers
from eventsaga.settings import Settings
from eventsaga.store.ports import (
    NOBODY,
    Answer,
    Append,
    Claimed,
    DefinitionKey,
    Dismissal,
    GivenUp,
    Grant,
    Incarnation,
    Message,
    Renewal,
    SagaFilter,
    SagaRow,
    Start,
    StartResult,
    StoredEvent,
    Stranded,
    Suspicion,
    Transaction,
)
from eventsaga.store.postgres import (
    claim,
    define,
    incarnation,
    lease,
    limits,
    mail,
    read,
    schedule,
)
from eventsaga.store.postgres import start as starting
from eventsaga.store.postgres.connect import (
    CONNECTION_ERRORS,
    Connection,
    Pool,
    database_url,
    open_pool,
    outcome_is_unknown,
    unavailable,
)
from eventsaga.store.postgres.migrate import check_revision
from eventsaga.store.postgres.sql import qualify
from eventsaga.store.postgres.transact import Transactions
from eventsaga.store.postgres.writer import PostgresLine, Writer
from eventsaga.store.slots import Planned

_ALL_SAGAS: Final = SagaFilter()
_NONE: Final[Mapping[str, int]] = MappingProxyType({})

_Arguments = ParamSpec("_Arguments")
_Answer = TypeVar("_Answer")


def _failing(
    verb: Callable[Concatenate["PostgresStore", _Arguments], Awaitable[_Answer]],
) -> Callable[Concatenate["PostgresStore", _Arguments], "CoroutineType[Any, Any, _Answer]"]:
    """Put failpoints before and after *verb*, under its name."""
    name = verb.__name__

    async def watched(
        store: "PostgresStore", /, *args: _Arguments.args, **kwargs: _Arguments.kwargs
    ) -> _Answer:
        if not failpoints.armed:
            return await verb(store, *args, **kwargs)
        try:
            await failpoints.reach(f"before_{name}")
            answer = await verb(store, *args, **kwargs)
            await failpoints.reach(f"after_{name}")
        except ConnectionError as error:
            raise unavailable(error, store.url) from error
        return answer

    update_wrapper(watched, verb)
    return watched  # type: ignore[return-value]  # CoroutineType to pyright, Coroutine to mypy


def _asked_again(
    verb: Callable[Concatenate["PostgresStore", _Arguments], Awaitable[_Answer]],
) -> Callable[Concatenate["PostgresStore", _Arguments], "CoroutineType[Any, Any, _Answer]"]:
    """Send *verb*, which does no harm twice, once more if its connection broke.

    After a restart of the server every pooled connection is broken: the first error makes
    the pool drop them all, so the second try is on a fresh one.
    """
    watched = _failing(verb)

    async def twice(
        store: "PostgresStore", /, *args: _Arguments.args, **kwargs: _Arguments.kwargs
    ) -> _Answer:
        try:
            return await watched(store, *args, **kwargs)
        except DatabaseUnavailableError as error:
            if error.__cause__ is None or not outcome_is_unknown(error.__cause__):
                raise
        return await watched(store, *args, **kwargs)

    update_wrapper(twice, verb)
    return twice  # type: ignore[return-value]  # CoroutineType to pyright, Coroutine to mypy


@dataclass(frozen=True, slots=True)
class _Statements:
    """Every statement of the verbs, for the store's schema."""

    claim_sagas: str = claim.CLAIM
    lock_names: str = claim.LOCK_NAMES
    owned_sagas: str = claim.OWNED
    histories: str = claim.HISTORIES
    give_up: str = claim.GIVE_UP
    register_worker: str = lease.REGISTER
    renew: str = lease.RENEW
    release: str = lease.RELEASE
    see_incarnation: str = incarnation.SEE
    show_incarnation: str = incarnation.SHOW
    accept_incarnation: str = incarnation.ACCEPT
    neighbours: str = lease.NEIGHBOURS
    end_leases: str = lease.END
    record_definitions: str = define.RECORD
    post: str = mail.POST
    read_mail: str = mail.READ
    read_mail_of: str = mail.READ_OF
    sweep_mail: str = mail.SWEEP
    dismiss_mail: str = mail.DISMISS
    answer: str = mail.ANSWER
    lock_limit: str = limits.LOCK
    held_permits: str = limits.HELD
    hold_permits: str = limits.HOLD
    pass_limit: str = limits.ADVANCE
    release_permits: str = limits.RELEASE
    sweep_permits: str = limits.SWEEP
    sweep_workers: str = lease.SWEEP
    children: str = read.CHILDREN
    conflicting: str = read.CONFLICTING
    graph: str = read.GRAPH
    get_saga: str = read.GET
    find_sagas: str = read.FIND
    find_events: str = read.FIND_EVENTS
    list_sagas: str = read.LIST
    list_open_sagas: str = read.LIST_OPEN
    history: str = read.HISTORY
    settled: str = read.SETTLED
    stranded: str = read.STRANDED
    start: str = starting.START
    read_back_start: str = starting.READ_BACK
    plan_schedule: str = schedule.PLAN
    planned: str = schedule.PLANNED
    lock_slot: str = schedule.LOCK
    advance_slot: str = schedule.ADVANCE

    @classmethod
    def in_schema(cls, schema: str) -> Self:
        return cls(**{field.name: qualify(str(field.default), schema) for field in fields(cls)})


class PostgresStore:
    """Keeps sagas in PostgreSQL. Open it with ``async with``.

    Args:
        database: URL, or an engine whose URL is taken.
        settings: Schema, pool and batch sizes, timeouts.
        observers: Told of every batch of appends; None for nobody.

    Raises:
        DatabaseUnavailableError: On entry, if the database cannot be reached.
        SchemaOutdatedError: On entry, if it was not migrated to this version.
    """

    def __init__(
        self,
        database: str | AsyncEngine,
        settings: Settings,
        observers: Observers | None = None,
    ) -> None:
        self.url = database_url(database)
        self.settings = settings
        self._sql = _Statements.in_schema(settings.schema)
        self._writer = Writer(PostgresLine(self.url, settings), settings, observers)
        self._transactions = Transactions(database, self.url, settings)
        self._pool: Pool | None = None
        # Heartbeats never wait behind other queries.
        self._heart: Pool | None = None

    async def __aenter__(self) -> Self:
        self._pool = await open_pool(self.url, self.settings, self.settings.pool_size)
        self._heart = await open_pool(self.url, self.settings, 1, eager=False)
        try:
            async with self.connection() as connection:
                await check_revision(connection, self.settings.schema)
        except EventSagaError:
            self._terminate()
            raise
        self._writer.open()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._writer.close(self.settings.drain_timeout.total_seconds())
        await self._transactions.close()
        self._terminate()

    def _terminate(self) -> None:
        for pool in (self._pool, self._heart):
            if pool is not None:
                pool.terminate()

    @asynccontextmanager
    async def connection(self, *, heart: bool = False) -> AsyncGenerator[Connection]:
        """Lend a connection of the pool; it is not returned broken.

        Args:
            heart: Whether to take the one that is kept for heartbeats.

        Raises:
            DatabaseUnavailableError: If there is none, or it fails under the caller.
        """
        pool = self._heart if heart else self._pool
        assert pool is not None, "the store is not open"
        try:
            timeout = self.settings.statement_timeout.total_seconds()
            connection = await pool.acquire(timeout=timeout)
        except CONNECTION_ERRORS as error:
            raise unavailable(error, self.url) from error
        try:
            yield connection  # type: ignore[misc]
        except Exception as error:
            # The driver stumbles over a connection that breaks while it looks up types.
            if not isinstance(error, CONNECTION_ERRORS) and not connection.is_closed():
                raise
            # Whatever state it is in, nobody else shall meet it, nor its siblings.
            with suppress(asyncpg.InterfaceError):  # the pool may have noticed before us
                connection.terminate()
            await pool.expire_connections()
            raise unavailable(error, self.url) from error
        finally:
            await pool.release(connection)

    # -- what the runtime needs: see `Store` -----------------------------------------------

    def append(self, append: Append, worker_id: UUID) -> None:
        """Queue *append*; ``append.done`` is called when its outcome is known."""
        self._writer.append(append, worker_id)

    def start(self, start: Start, worker_id: UUID | None) -> None:
        """Queue *start*; ``start.done`` is called when its outcome is known."""
        self._writer.start(start, worker_id)

    @_asked_again
    async def register_worker(
        self,
        worker_id: UUID,
        lease_time: timedelta,
        definitions: Sequence[DefinitionKey],
        process: str | None = None,
    ) -> datetime:
        """Grant the first lease and return the database's clock."""
        async with self.connection() as connection:
            brought = lease.registration(worker_id, lease_time, definitions, process)
            now: datetime = await connection.fetchval(self._sql.register_worker, *brought)
            return now

    @_asked_again
    async def renew(self, worker_id: UUID, lease_time: timedelta) -> Renewal:
        """Extend the lease if it has not ended."""
        async with self.connection(heart=True) as connection:
            return await lease.renew(connection, self._sql.renew, worker_id, lease_time)

    @_asked_again
    async def release(self, worker_id: UUID) -> int:
        """End the lease, give up all sagas of the worker, and return their number."""
        async with self.connection() as connection:
            return await lease.release(connection, self._sql.release, worker_id)

    @_asked_again
    async def see_incarnation(self) -> Incarnation:
        """Note which history of the database this is, and return it."""
        async with self.connection() as connection:
            await connection.execute(self._sql.see_incarnation)
            return await incarnation.show(connection, self._sql.show_incarnation)

    @_asked_again
    async def incarnation(self) -> Incarnation:
        """Return which history of the database this is."""
        async with self.connection() as connection:
            return await incarnation.show(connection, self._sql.show_incarnation)

    @_asked_again
    async def accept_incarnation(self, actor: str, reason: str) -> int:
        """Let go on what was held, and return how many sagas that are."""
        async with self.connection() as connection:
            return int(await connection.fetchval(self._sql.accept_incarnation, actor, reason))

    @_asked_again
    async def neighbours(self, machine: str) -> list[tuple[UUID, str]]:
        """Return the living workers of *machine*, each with its process."""
        async with self.connection(heart=True) as connection:
            rows = await connection.fetch(self._sql.neighbours, machine)
        return [(row["worker_id"], row["process"]) for row in rows]

    @_asked_again
    async def end_leases(self, worker_ids: Sequence[UUID]) -> None:
        """End the leases of workers whose processes have ended."""
        async with self.connection(heart=True) as connection:
            await connection.execute(self._sql.end_leases, list(worker_ids))

    @_asked_again
    async def register_definitions(self, graphs: Mapping[DefinitionKey, Mapping[str, Any]]) -> None:
        """Record the shapes that a worker brings."""
        async with self.connection() as connection:
            await define.record(connection, self._sql.record_definitions, graphs)

    @_failing
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
        async with self.connection() as connection:
            rows = await claim.claim(
                connection,
                self._sql.claim_sagas,
                self._sql.lock_names,
                worker_id,
                definitions,
                limit,
                priorities,
                max_running,
                live,
                suspicion,
            )
            if failpoints.armed and rows:
                await failpoints.reach("after_claim_commit")
            return await claim.load(connection, self._sql.histories, rows)

    @_asked_again
    async def load_owned(
        self, worker_id: UUID, known: Sequence[UUID], live: Collection[DefinitionKey] = ()
    ) -> list[Claimed]:
        """Return what the worker owns beyond *known*, after an answer was lost."""
        async with self.connection() as connection:
            rows = await connection.fetch(
                self._sql.owned_sagas, worker_id, list(known), *claim.parts(live)
            )
            return await claim.load(connection, self._sql.histories, rows)

    @_asked_again
    async def give_up(self, worker_id: UUID, sagas: Sequence[GivenUp]) -> None:
        """Leave sagas of the worker to anybody, each from an instant on; None for never."""
        async with self.connection() as connection:
            await claim.give_up(connection, self._sql.give_up, worker_id, sagas)

    @_asked_again
    async def read_mail(self, worker_id: UUID, limit: int) -> list[Message]:
        """Return requests to sagas of this worker, oldest first."""
        async with self.connection() as connection:
            return await mail.read(connection, self._sql.read_mail, worker_id, limit)

    @_asked_again
    async def read_mail_of(self, saga_id: UUID, limit: int) -> list[Message]:
        """Return open requests to one saga, oldest first."""
        async with self.connection() as connection:
            return await mail.read(connection, self._sql.read_mail_of, saga_id, limit)

    @_asked_again
    async def dismiss_mail(self, worker_id: UUID, dismissals: Sequence[Dismissal]) -> None:
        """Answer requests that cause no event, of sagas that this worker owns."""
        async with self.connection() as connection:
            await mail.dismiss(connection, self._sql.dismiss_mail, worker_id, dismissals)

    async def begin(self, timeout: timedelta) -> Transaction:  # noqa: ASYNC109
        """Open a transaction for a transactional step, as soon as a connection is free.

        Args:
            timeout: The longest time that the step may take.

        Raises:
            DatabaseUnavailableError: If the database cannot be reached.
        """
        return await self._transactions.begin(timeout)

    # -- what clients and tools need -------------------------------------------------------

    @_failing
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

        Not asked again when the answer is lost: permits would be held twice.
        """
        sql = self._sql
        statements = (sql.lock_limit, sql.held_permits, sql.hold_permits, sql.pass_limit)
        async with self.connection() as connection:
            return await limits.acquire(
                connection,
                statements,
                worker_id,
                key,
                wanted,
                concurrency=concurrency,
                interval=interval,
                burst=burst,
            )

    @_failing
    async def release_permits(self, worker_id: UUID, key: str, permits: int) -> None:
        """Give back permits; more than are held, all of them."""
        async with self.connection() as connection:
            await connection.execute(self._sql.release_permits, key, worker_id, permits)

    @_asked_again
    async def conflicting(
        self, definitions: Sequence[DefinitionKey]
    ) -> list[tuple[DefinitionKey, int]]:
        """Return shapes of unfinished sagas that have the name and version of another here."""
        async with self.connection() as connection:
            return await read.conflicting(connection, self._sql.conflicting, definitions)

    @_asked_again
    async def graph(self, definition: DefinitionKey) -> Mapping[str, Any] | None:
        """Return the shape that was recorded for a definition; None if there is none."""
        async with self.connection() as connection:
            return await read.graph(connection, self._sql.graph, definition)

    @_asked_again
    async def post(self, message: Message) -> bool:
        """Leave a request in a saga's inbox; return whether there is such a saga."""
        async with self.connection() as connection:
            return await mail.post(connection, self._sql.post, message)

    async def post_within(self, connection: object, message: Message) -> bool:
        """Leave a request inside the transaction that is open on *connection*.

        Args:
            connection: An `AsyncSession`, an `AsyncConnection`, or one of asyncpg.
            message: The request.

        Raises:
            TypeError: If *connection* is none of these.
        """
        (row,) = await starting.fetch_within(
            connection, self._sql.post, mail.post_arguments(message)
        )
        return bool(row["sagas"])

    @_asked_again
    async def answer(self, saga_id: UUID, message_id: UUID) -> Answer:
        """Return what became of a request."""
        async with self.connection() as connection:
            return await mail.answer(connection, self._sql.answer, saga_id, message_id)

    @_asked_again
    async def children(self, saga_id: UUID) -> list[SagaRow]:
        """Return the sagas that *saga_id* has started as its steps, oldest first."""
        async with self.connection() as connection:
            rows = await connection.fetch(self._sql.children, saga_id)
        return [read.saga_row(row) for row in rows]

    @_asked_again
    async def sweep(self) -> None:
        """Delete answers older than an hour, permits of workers that are gone, and old workers."""
        async with self.connection() as connection:
            await connection.execute(self._sql.sweep_mail)
            await connection.execute(self._sql.sweep_permits)
            await connection.execute(self._sql.sweep_workers)

    @_asked_again
    async def get(self, saga_id: UUID) -> SagaRow | None:
        """Return the row of *saga_id*; None if there is none."""
        async with self.connection() as connection:
            return await read.get(connection, self._sql.get_saga, saga_id)

    @_asked_again
    async def find(self, first: UUID, last: UUID, limit: int) -> list[UUID]:
        """Return at most *limit* ids from *first* to *last* for which anything is stored."""
        async with self.connection() as connection:
            return await read.find(
                connection, self._sql.find_sagas, self._sql.find_events, first, last, limit
            )

    @_asked_again
    async def list_sagas(
        self,
        wanted: SagaFilter = _ALL_SAGAS,
        *,
        before: UUID | None = None,
        limit: int = 100,
    ) -> list[SagaRow]:
        """Return at most *limit* rows that pass *wanted*, youngest first."""
        statement = self._sql.list_open_sagas if wanted.is_open else self._sql.list_sagas
        async with self.connection() as connection:
            return await read.list_sagas(connection, statement, wanted, before, limit)

    @_asked_again
    async def history(self, saga_id: UUID) -> tuple[StoredEvent, ...]:
        """Return all events of *saga_id* in order; () if there is no such saga."""
        async with self.connection() as connection:
            return await read.history(connection, self._sql.history, saga_id)

    @_asked_again
    async def settled(self, saga_ids: Sequence[UUID]) -> set[UUID]:
        """Return which of *saga_ids* have ended or are parked."""
        async with self.connection() as connection:
            rows = await connection.fetch(self._sql.settled, list(saga_ids))
        return {row["saga_id"] for row in rows}

    @_asked_again
    async def stranded(self) -> list[Stranded]:
        """Return what waits for a definition that no living worker has."""
        async with self.connection() as connection:
            return await read.stranded(connection, self._sql.stranded)

    @_asked_again
    async def now(self) -> datetime:
        """Return the database's clock."""
        async with self.connection() as connection:
            now: datetime = await connection.fetchval("SELECT clock_timestamp()")
        return now

    # -- schedules: see `SlotStore` --------------------------------------------------------

    @_asked_again
    async def plan_schedule(
        self,
        worker_id: UUID,
        name: str,
        *,
        saga_name: str,
        cron: str,
        timezone: str,
        slot: datetime,
    ) -> None:
        """Record a schedule; one that is recorded with the same expression keeps its slot."""
        arguments = (name, saga_name, cron, timezone, slot, worker_id)
        async with self.connection() as connection:
            await connection.execute(self._sql.plan_schedule, *arguments)

    @_asked_again
    async def planned(self, names: Sequence[str]) -> list[Planned]:
        """Return the next slot of each schedule of *names*."""
        async with self.connection() as connection:
            return await schedule.planned(connection, self._sql.planned, names)

    @_failing
    async def start_slot(
        self, planned: Planned, start: Start, following: datetime
    ) -> StartResult | None:
        """Start what is due at a slot and go on to the *following* one, in one transaction."""
        sql = self._sql
        statements = (sql.lock_slot, sql.advance_slot, sql.start, sql.read_back_start)
        async with self.connection() as connection:
            return await schedule.start_slot(connection, statements, planned, start, following)

    @_failing
    async def skip_slots(self, planned: Planned, following: datetime) -> bool:
        """Go on to the *following* slot without a start; False if another worker did."""
        async with self.connection() as connection:
            return await schedule.skip(connection, self._sql.advance_slot, planned, following)

    async def start_within(self, connection: object, start: Start) -> StartResult:
        """Create a saga inside the transaction that is open on *connection*.

        Args:
            connection: An `AsyncSession`, an `AsyncConnection`, or one of asyncpg.
            start: Unowned; ``start.done`` is not called.

        Raises:
            TypeError: If *connection* is none of these.
        """
        sql = self._sql
        return await starting.start_within(connection, sql.start, sql.read_back_start, start)

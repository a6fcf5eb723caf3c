"""How does a test get a saga into a store? By the same transitions that the runtime makes."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg

from eventsaga.core.commands import (
    Command,
    RecordFailure,
    RecordSuccess,
    Recover,
    StartSaga,
    Wake,
)
from eventsaga.core.decide import transition
from eventsaga.core.definition import SagaDefinition, StepDefinition
from eventsaga.core.events import Operation, SagaEvent
from eventsaga.core.react import RunStep, react
from eventsaga.core.state import State, replay
from eventsaga.identity import new_id
from eventsaga.settings import Settings
from eventsaga.store.ports import (
    Append,
    AppendResult,
    Claimed,
    Committed,
    DefinitionKey,
    Start,
    Started,
    StartResult,
    Store,
)
from eventsaga.store.postgres.store import PostgresStore
from eventsaga.wire.payload import dump_canonical

LEASE: Final = timedelta(minutes=10)


def definition_of(*steps: str, name: str = "order", version: int = 1) -> SagaDefinition:
    """Return a saga of *steps*, one after the other, each with a compensation."""
    nodes = tuple(StepDefinition(name=step, compensable=True) for step in steps)
    return SagaDefinition(name=name, version=version, nodes=nodes)


ORDER: Final = definition_of("reserve", "charge", "ship")


def key_of(definition: SagaDefinition) -> DefinitionKey:
    """Return what a worker must have to claim sagas of *definition*."""
    return definition.name, definition.version, definition.fingerprint


ORDERS: Final = (key_of(ORDER),)


@dataclass(slots=True, kw_only=True)
class Held:
    """A saga as its owner has it in memory."""

    definition: SagaDefinition
    state: State
    last_hash: bytes

    @property
    def saga_id(self) -> UUID:
        """The saga."""
        return self.state.saga_id


@asynccontextmanager
async def impatient_store(url: str) -> AsyncGenerator[PostgresStore]:
    """Open a store whose only writer gives a statement up after 0.3 s.

    Everything else has the usual patience, so a busy machine makes no test fail.
    """
    settings = Settings(append_writers=1)
    async with PostgresStore(url, settings) as store:
        store._writer._settings = replace(settings, statement_timeout=timedelta(seconds=0.3))
        yield store


# -- starting -----------------------------------------------------------------------------


def new_start(
    *,
    key: str | None = None,
    context: Mapping[str, Any] | None = None,
    owned: bool = False,
    definition: SagaDefinition = ORDER,
    at: datetime | None = None,
) -> Start:
    """Return a start; an owned one has the intent of its first step."""
    at = at or datetime.now(UTC)
    state = State(new_id())
    given = {"order_id": "o-1"} if context is None else dict(context)
    commands: list[Command] = [
        StartSaga(at=at, context=given, correlation_id=str(state.saga_id), key=key)
    ]
    if owned:
        commands.append(Wake(at=at))
    events: tuple[SagaEvent, ...] = ()
    for command in commands:
        decided = transition(definition, state, command)
        events, state = events + decided.events, decided.state
    digest = sha256(dump_canonical(given).encode()).digest()
    return Start(events=events, state=state, owned=owned, digest=digest, done=_unasked)


def _unasked(_result: object) -> None:
    """Stand in for a receiver that is not there yet."""


def queue_start(
    store: Store, start: Start, owner: UUID | None = None
) -> asyncio.Future[StartResult]:
    """Queue *start* and return its outcome to be."""
    outcome: asyncio.Future[StartResult] = asyncio.get_running_loop().create_future()
    start.done = outcome.set_result
    store.start(start, owner)
    return outcome


async def start_saga(
    store: Store, owner: UUID | None = None, *, definition: SagaDefinition = ORDER, **given: Any
) -> Held:
    """Start a saga for *owner*, whose first step is running, or for nobody."""
    start = new_start(owned=owner is not None, definition=definition, **given)
    result = await queue_start(store, start, owner)
    assert isinstance(result, Started)
    assert result.created
    return Held(definition=definition, state=start.state, last_hash=result.last_hash)


async def start_sagas(store: Store, owner: UUID | None, count: int) -> list[Held]:
    """Start *count* sagas."""
    return list(await asyncio.gather(*(start_saga(store, owner) for _ in range(count))))


# -- appending ----------------------------------------------------------------------------


def command_for(held: Held, at: datetime | None = None) -> Command:
    """Return a command that brings *held* forward: what runs succeeds, otherwise it wakes."""
    at = at or datetime.now(UTC)
    for effect in react(held.definition, held.state):
        if isinstance(effect, RunStep):
            return RecordSuccess(
                at=at,
                step=effect.step,
                attempt=effect.attempt,
                operation=effect.operation,
                result={effect.step: "done"},
            )
    return Wake(at=at)


def failure_of(step: str, at: datetime | None = None) -> RecordFailure:
    """Return the definite failure of *step*."""
    return RecordFailure(
        at=at or datetime.now(UTC),
        step=step,
        attempt=1,
        operation=Operation.EXECUTE,
        error_type="CardDeclinedError",
        message="declined",
        jitter=0.5,
        retryable=False,
    )


def new_append(held: Held, command: Command | None = None, **options: Any) -> Append:
    """Return what *command* appends to *held*; see `command_for`."""
    decided = transition(held.definition, held.state, command or command_for(held))
    assert decided.events
    return Append(
        expected=held.state.seq,
        previous_hash=held.last_hash,
        events=decided.events,
        before=held.state.status,
        state=decided.state,
        done=_unasked,
        **options,
    )


def queue_append(store: Store, append: Append, owner: UUID) -> asyncio.Future[AppendResult]:
    """Queue *append* and return its outcome to be."""
    outcome: asyncio.Future[AppendResult] = asyncio.get_running_loop().create_future()
    append.done = outcome.set_result
    store.append(append, owner)
    return outcome


async def advance(
    store: Store, held: Held, owner: UUID, command: Command | None = None, **options: Any
) -> AppendResult:
    """Append what *command* causes; if it is taken, *held* moves on. See `command_for`."""
    append = new_append(held, command, **options)
    result = await queue_append(store, append, owner)
    if isinstance(result, Committed):
        held.state, held.last_hash = append.state, result.last_hash
    return result


# -- workers and takeovers ----------------------------------------------------------------


async def new_worker(
    store: Store, definitions: Sequence[DefinitionKey] = ORDERS, lease: timedelta = LEASE
) -> UUID:
    """Register a worker."""
    worker_id = uuid4()
    await store.register_worker(worker_id, lease, definitions)
    return worker_id


async def end_lease(connection: asyncpg.Connection, worker_id: UUID) -> None:
    """Let the database's clock stand after the end of the worker's lease."""
    await connection.execute(
        "UPDATE eventsaga.workers SET lease_until = clock_timestamp() WHERE worker_id = $1",
        worker_id,
    )


def hold(claimed: Claimed, definition: SagaDefinition = ORDER) -> Held:
    """Return a claimed saga as its new owner has it in memory."""
    events = (stored.event for stored in claimed.history)
    return Held(
        definition=definition,
        state=replay(events, State(claimed.saga_id)),
        last_hash=claimed.history[-1].hash,
    )


async def take_over(
    store: Store, connection: asyncpg.Connection, previous: UUID, *, recovered: bool = True
) -> tuple[UUID, list[Held]]:
    """Let another worker take all sagas of *previous*, whose lease ends.

    Args:
        store: The new worker's.
        connection: Moves the clock.
        previous: Loses its sagas.
        recovered: Whether the new owner appends `SagaRecovered` already.
    """
    worker_id = await new_worker(store)
    await end_lease(connection, previous)
    taken = [hold(claimed) for claimed in await store.claim(worker_id, ORDERS, 1000)]
    if recovered:
        for held in taken:
            command = Recover(
                at=datetime.now(UTC), worker_id=worker_id, previous_worker_id=previous
            )
            append = new_append(held, command)
            result = await queue_append(store, append, worker_id)
            assert isinstance(result, Committed)
            held.state, held.last_hash = append.state, result.last_hash
    return worker_id, taken

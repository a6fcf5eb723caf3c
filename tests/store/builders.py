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
    Park,
    RecordFailure,
    RecordSuccess,
    Recover,
    RetrySaga,
    StartSaga,
    Wake,
)
from eventsaga.core.decide import transition
from eventsaga.core.definition import StepDefinition
from eventsaga.core.events import Operation, ParkReason, SagaEvent
from eventsaga.core.evolve import replay
from eventsaga.core.graph import SagaDefinition
from eventsaga.core.react import RunStep, react
from eventsaga.core.state import State
from eventsaga.identity import derived_id, new_id
from eventsaga.settings import Settings
from eventsaga.store.ports import (
    Append,
    AppendResult,
    Claimed,
    Committed,
    DefinitionKey,
    Dismissal,
    Message,
    Start,
    Started,
    StartResult,
    Store,
)
from eventsaga.store.postgres.store import PostgresStore
from eventsaga.store.postgres.writer import PostgresLine
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
        hasty = replace(settings, statement_timeout=timedelta(seconds=0.3))
        store._writer._line = PostgresLine(store.url, hasty)
        store._writer._settings = hasty
        yield store


# -- starting -----------------------------------------------------------------------------


def new_start(
    *,
    key: str | None = None,
    context: Mapping[str, Any] | None = None,
    owned: bool = False,
    definition: SagaDefinition = ORDER,
    at: datetime | None = None,
    parent: tuple[UUID, str] | None = None,
) -> Start:
    """Return a start; an owned one has the intent of its first step.

    Args:
        key: None for none.
        context: The input.
        owned: Whether its starter runs it.
        definition: Its shape.
        at: When; None for now.
        parent: The saga and the step that it is; then its id follows from them.
    """
    at = at or datetime.now(UTC)
    parent_id, parent_step = parent or (None, None)
    state = State(derived_id(*parent) if parent else new_id())
    given = {"order_id": "o-1"} if context is None else dict(context)
    commands: list[Command] = [
        StartSaga(
            at=at,
            context=given,
            correlation_id=str(state.saga_id),
            key=key,
            parent_id=parent_id,
            parent_step=parent_step,
        )
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


def park(at: datetime | None = None) -> Park:
    """Return a request of the engine's to wait for a person."""
    at = at or datetime.now(UTC)
    return Park(at=at, reason=ParkReason.POISON, message="it kills workers", remedy="look")


def retry(at: datetime | None = None) -> RetrySaga:
    """Return a person's request to go on."""
    return RetrySaga(at=at or datetime.now(UTC), reason="repaired", actor="ada")


def new_append(held: Held, command: Command | None = None, **options: Any) -> Append:
    """Return what *command* appends to *held*; see `command_for`."""
    return new_batch(held, command or command_for(held), **options)


def new_batch(held: Held, *commands: Command | None, **options: Any) -> Append:
    """Return what *commands*, one after the other, append to *held* at once.

    None stands for a command that brings it forward.
    """
    events: tuple[SagaEvent, ...] = ()
    state = held.state
    for command in commands:
        given = command or command_for(replace(held, state=state))
        decided = transition(held.definition, state, given)
        assert decided.events
        events, state = events + decided.events, decided.state
    # As the runtime does: a saga that has nothing to do any more is due never.
    options.setdefault("release", state.status.is_settled)
    return Append(
        expected=held.state.seq,
        previous_hash=held.last_hash,
        events=events,
        state=state,
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


# -- requests from outside ------------------------------------------------------------------


def dismissal(held: Held, message_id: UUID, reason: str | None = None) -> Dismissal:
    """What the owner of *held* says of a request that causes no event."""
    return Dismissal(held.saga_id, message_id, reason, held.state.seq)


def new_message(
    saga_id: UUID, reason: str = "r", *, message_id: UUID | None = None, **data: Any
) -> Message:
    """Return a request of Ada's to end the saga."""
    return Message(
        saga_id=saga_id,
        message_id=message_id or uuid4(),
        kind="cancel",
        data={"reason": reason} | data,
        actor="ada",
    )


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

"""Where does a saga stand, and by which definition? Its id is all that is known.

The definition is the registered one, or the shape that was stored with it.
"""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from eventsaga.core.evolve import replay
from eventsaga.core.graph import SagaDefinition
from eventsaga.core.shape import nodes_from
from eventsaga.core.state import State, Status
from eventsaga.errors import SagaNotFoundError, UnknownSagaError
from eventsaga.runtime.worker import definition_key
from eventsaga.saga import Saga
from eventsaga.store.ports import StoredEvent
from eventsaga.store.postgres.store import PostgresStore


async def history_of(store: PostgresStore, saga_id: UUID) -> tuple[StoredEvent, ...]:
    """Return all events of a saga in order.

    Raises:
        SagaNotFoundError: If there is no such saga.
    """
    history = await store.history(saga_id)
    if not history:
        raise SagaNotFoundError(saga_id)
    return history


async def state_of(store: PostgresStore, saga_id: UUID) -> State:
    """Return where a saga stands, from its history.

    Raises:
        SagaNotFoundError: If there is no such saga.
    """
    history = await history_of(store, saga_id)
    return replay((stored.event for stored in history), State(saga_id))


async def bound_to_parent(store: PostgresStore, state: State) -> str | None:
    """Return why a child may not be undone by itself; None if it may.

    Its parent's history says that it has completed. Only a parent that was given up leaves
    its children to whoever cleans up after it.
    """
    if state.parent_id is None:
        return None
    try:
        parent = await state_of(store, state.parent_id)
    except SagaNotFoundError:
        return None
    if parent.status is Status.FAILED:
        return None
    return (
        f"it is a child of saga {parent.saga_id}, which is {parent.status}: undo that one, and "
        "this one goes back with it"
    )


async def judged(
    store: PostgresStore, sagas: Iterable[Saga[Any]], saga_id: UUID
) -> tuple[State, SagaDefinition]:
    """Return where a saga stands, and the definition that it was started with.

    Args:
        store: An open store.
        sagas: What is at hand as code.
        saga_id: The saga.

    Raises:
        SagaNotFoundError: If there is no such saga.
        UnknownSagaError: If its definition is neither one of *sagas* nor stored.
    """
    state = await state_of(store, saga_id)
    key = (state.saga_name, state.version, state.fingerprint)
    known = {definition_key(saga): saga for saga in sagas}
    if key in known:
        return state, known[key].definition
    shape = await store.graph(key)
    if shape is None:
        raise UnknownSagaError(state.saga_name, tuple(name for name, _, _ in known))
    nodes = nodes_from(shape)
    return state, SagaDefinition(name=state.saga_name, version=state.version, nodes=nodes)

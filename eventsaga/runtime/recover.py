"""How does a saga go on that was claimed? Its history is replayed, and one command follows.

There is no more to recovery than this: the command is decided like any other, and what is
due then is what `react` says of the state, as after every append.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from eventsaga.core.commands import Command, Park, Recover
from eventsaga.core.events import ParkReason
from eventsaga.core.evolve import replay
from eventsaga.core.state import Phase, State
from eventsaga.errors import CorruptHistoryError
from eventsaga.saga import Saga
from eventsaga.store.ports import Claimed, DefinitionKey


def load(
    claimed: Claimed, sagas: Mapping[DefinitionKey, Saga[Any]]
) -> tuple[Saga[Any], State, bytes]:
    """Return the saga's functions, where it stands, and the head of its chain.

    Raises:
        EventSagaError: If its history cannot be read, or is of another definition than
            its row says.
    """
    if claimed.unreadable is not None:
        raise claimed.unreadable
    state = replay((stored.event for stored in claimed.history), State(claimed.saga_id))
    saga = sagas.get((state.saga_name, state.version, state.fingerprint))
    if saga is None:
        raise CorruptHistoryError(claimed.saga_id, 1, "its definition is not the one of its row")
    return saga, state, claimed.history[-1].hash


def next_command(
    claimed: Claimed, state: State, *, worker_id: UUID, now: datetime, most_claims: int
) -> Command | None:
    """Return what a worker decides first of a saga that it has just claimed; None for nothing.

    It reads the saga's mail then, and sends `Wake` after that.

    Args:
        claimed: The claim.
        state: Where the saga stands.
        worker_id: The new owner.
        now: The database's time.
        most_claims: Beyond so many claims without progress it is not run again.
    """
    at = max(now, state.updated_at)
    previous = _previous_owner(claimed, state, worker_id)
    if claimed.claims > most_claims:
        return Park(
            at=at,
            reason=ParkReason.POISON,
            message=f"taken over {claimed.claims - 1} times in a row without progress",
            remedy="find out why its worker dies whenever it runs; undo its effects by hand",
        )
    if previous is not None:
        return Recover(at=at, worker_id=worker_id, previous_worker_id=previous, hold=True)
    return None


def _previous_owner(claimed: Claimed, state: State, worker_id: UUID) -> UUID | None:
    """Return who may have left attempts behind; None if nobody did."""
    if claimed.previous_owner is not None:
        return claimed.previous_owner
    if next(state.in_phase(Phase.RUNNING, Phase.COMPENSATING), None) is None:
        return None
    # An attempt that nobody owns: whoever wrote last had it.
    return claimed.history[-1].worker_id or worker_id

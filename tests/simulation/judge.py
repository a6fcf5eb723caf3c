"""Did everything happen once, and was it known? The tables held against the ledger."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

from eventsaga.core.events import SagaEvent, SagaRecovered, StepCompensationStarted, StepStarted
from eventsaga.core.evolve import replay
from eventsaga.core.graph import SagaDefinition
from eventsaga.core.state import Phase, State, Status
from eventsaga.store.ports import StoredEvent
from eventsaga.store.projection import project
from tests.core.invariants import complaints
from tests.simulation.server import Tables
from tests.simulation.world import Participant

_Row = Mapping[str, Any]


async def judged(
    tables: Tables, participant: Participant, definitions: Mapping[str, SagaDefinition]
) -> list[str]:
    """Return what must not be."""
    found: list[str] = []
    for row in tables.rows:
        history = await tables.history(row["saga_id"])
        events = [stored.event for stored in history]
        complained = complaints(definitions[row["name"]], events)
        found += [f"{row['name']} {row['saga_id']}: {it}" for it in complained]
        if not complained:
            found += _of_the_row(row, events)
            found += _of_the_ledger(row, events, participant)
            found += _of_the_fence(history)
    found += (f"{key}: done {n} times" for key, n in participant.applied.items() if n > 1)
    found += (f"{key}: {n} rows" for key, n in Counter(tables.user_rows).items() if n > 1)
    return found


def rests(row: _Row) -> bool:
    """Whether nobody has to do anything for the saga of *row*."""
    return Status(row["status"]).is_settled and row["owner"] is None and row["wake_at"] is None


def _of_the_row(row: _Row, events: Sequence[SagaEvent]) -> Iterator[str]:
    saga_id: UUID = row["saga_id"]
    projection = project(saga_id, events)
    if (projection.last_seq, projection.status.value) != (row["last_seq"], row["status"]):
        yield f"{saga_id}: the row is not the fold of the events"
    if not rests(row):
        where = f"{row['status']}, owner {row['owner']}, due {row['wake_at']}"
        yield f"{row['name']} {saga_id}: never came to rest: {where}"


def _of_the_ledger(
    row: _Row, events: Sequence[SagaEvent], participant: Participant
) -> Iterator[str]:
    """Yield where the events say something else than the participant did."""
    saga_id: UUID = row["saga_id"]
    state = replay(events, State(saga_id))
    announced = {
        event.idempotency_key
        for event in events
        if isinstance(event, StepStarted | StepCompensationStarted)
    }
    asked = {key for key in participant.requests if key.startswith(f"{saga_id}/")}
    for key in asked - announced:
        if "/on_" not in key:  # a hook has no intent of its own
            yield f"{key}: asked for, and never announced"
    for name, step in state.steps.items():
        key = f"{saga_id}/{name}"
        done = participant.applied.get(key, 0) > 0
        undone = participant.applied.get(f"{key}/compensate", 0) > 0
        if step.phase is Phase.SUCCEEDED and key in asked and not done:
            yield f"{key}: recorded, and never done"
        if state.status is Status.COMPENSATED and done and not undone:
            yield f"{key}: done, and never undone"
        if state.status is Status.COMPLETED and undone:
            yield f"{key}: undone, and the saga completed"


def _of_the_fence(history: Sequence[StoredEvent]) -> Iterator[str]:
    """Yield events of a worker from which the saga had been taken."""
    gone: set[UUID] = set()
    for stored in history:
        if isinstance(stored.event, SagaRecovered):
            gone.add(stored.event.previous_worker_id)
        if stored.worker_id in gone:
            yield f"{stored.saga_id} {stored.seq}: {stored.worker_id} had lost the saga"

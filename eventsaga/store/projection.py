"""What does a row of ``sagas`` say? The one place that derives it from a saga's events.

The append writes it, `verify` recomputes it and `rebuild` repairs it; all three ask here.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from eventsaga.core.events import SagaEvent
from eventsaga.core.evolve import apply
from eventsaga.core.state import State, Status
from eventsaga.wire.payload import dump


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """The columns of a row that are a fold of the saga's events.

    Attributes:
        context: JSON text of the context as of the last change of status.
        error: JSON text of the error; None if there is none.
    """

    name: str
    version: int
    fingerprint: str
    status: Status
    current_steps: tuple[str, ...]
    context: str
    error: str | None
    correlation_id: str
    last_seq: int
    created_at: datetime
    updated_at: datetime
    parent_id: UUID | None
    parent_step: str | None
    tenant: str | None


def project(saga_id: UUID, events: Iterable[SagaEvent]) -> Projection:
    """Return the row that *events*, a whole history, stand for."""
    state = State(saga_id)
    for event in events:
        apply(state, event)
    return Projection(
        name=state.saga_name,
        version=state.version,
        fingerprint=state.fingerprint,
        status=state.status,
        current_steps=current_steps(state),
        context=dump(state.shown_context),
        error=error_text(state),
        correlation_id=state.correlation_id,
        last_seq=state.seq,
        created_at=state.created_at,
        updated_at=state.updated_at,
        parent_id=state.parent_id,
        parent_step=state.parent_step,
        tenant=state.tenant,
    )


def current_steps(state: State) -> tuple[str, ...]:
    """Return the steps that are running or waiting, none once the saga is settled."""
    return () if state.status.is_settled else tuple(sorted(state.open_steps))


def error_of(state: State) -> dict[str, Any] | None:
    """Return why the saga goes back or waits, as JSON data; None if it does neither."""
    if state.status is Status.PARKED:
        # What a person has to mend stands above what turned the saga back.
        step, message, at = next(iter(state.stuck_steps), None), state.park_message, state.park_at
    elif state.turn is not None:
        step, message, at = state.turn.step, state.turn.message, state.turn.at
    else:
        return None
    return {"step_name": step, "message": message, "timestamp": at.isoformat()}


def error_text(state: State) -> str | None:
    """Return `error_of` as JSON text."""
    error = error_of(state)
    return None if error is None else dump(error)

"""Where does a saga stand, as its user sees it? The state of the core with the user's model."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

from eventsaga.contexts import to_context
from eventsaga.core.state import Phase, State, Status
from eventsaga.saga import Saga
from eventsaga.store.ports import DefinitionKey
from eventsaga.store.projection import current_steps, error_of
from eventsaga.wire.sealing import is_sealed

Context = TypeVar("Context")


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
        context: The context model; a dict if the saga is not registered here, or if a value
            was taken out of it, or is sealed and cannot be opened here.
        completed_steps: Steps that succeeded and were not compensated, in order.
        compensated_steps: Steps whose compensation is done, in order of their start.
        in_doubt_steps: Steps whose effect may have happened, and nobody knows.
        current_steps: Steps that are running or waiting for another attempt.
        error: Why it went back, or waits; None if it does neither.
        correlation_id: Sent along with every call of the saga.
        tenant: Whose it is; None for nobody in particular.
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
    tenant: str | None = None


def view(state: State, sagas: Mapping[DefinitionKey, Saga[Any]]) -> SagaState[Any]:
    """Return *state* with the context as the model of its saga, if that is one of *sagas*."""
    saga = sagas.get((state.saga_name, state.version, state.fingerprint))
    return SagaState(
        saga_id=state.saga_id,
        saga_name=state.saga_name,
        version=state.version,
        status=state.status,
        context=_shown(state, saga),
        completed_steps=tuple(state.in_phase(Phase.SUCCEEDED)),
        compensated_steps=tuple(state.in_phase(Phase.COMPENSATED)),
        in_doubt_steps=tuple(name for name, step in state.steps.items() if step.is_in_doubt),
        current_steps=current_steps(state),
        error=_error(state),
        correlation_id=state.correlation_id,
        seq=state.seq,
        created_at=state.created_at,
        updated_at=state.updated_at,
        tenant=state.tenant,
    )


def _shown(state: State, saga: Saga[Any] | None) -> Any:
    if state.input is not None:
        return {}  # nobody has validated it
    if saga is None or state.is_redacted or is_sealed(state.context):
        return dict(state.context)
    return to_context(saga, state.context)


def _error(state: State) -> SagaError | None:
    error = error_of(state)
    if error is None:
        return None
    return SagaError(
        step_name=error["step_name"],
        message=error["message"],
        timestamp=datetime.fromisoformat(error["timestamp"]),
    )

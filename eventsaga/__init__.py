"""eventsaga: an event-sourced saga orchestrator that lives in your own PostgreSQL."""

from eventsaga.client import Orchestrator, SagaHandle, SagaState
from eventsaga.core.state import Status
from eventsaga.errors import (
    DatabaseUnavailableError,
    DefinitionError,
    EventSagaError,
    IllegalCommandError,
    InDoubtError,
    KeyConflictError,
    PayloadError,
    PermanentError,
    SagaNotFoundError,
    SchemaOutdatedError,
    TemporaryError,
    UnknownSagaError,
)
from eventsaga.runtime.context import StepContext
from eventsaga.saga import Parallel, Retry, Saga, Step
from eventsaga.settings import Settings

__version__ = "0.1.0"

__all__ = [
    "DatabaseUnavailableError",
    "DefinitionError",
    "EventSagaError",
    "IllegalCommandError",
    "InDoubtError",
    "KeyConflictError",
    "Orchestrator",
    "Parallel",
    "PayloadError",
    "PermanentError",
    "Retry",
    "Saga",
    "SagaHandle",
    "SagaNotFoundError",
    "SagaState",
    "SchemaOutdatedError",
    "Settings",
    "Status",
    "Step",
    "StepContext",
    "TemporaryError",
    "UnknownSagaError",
]

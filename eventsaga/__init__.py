"""eventsaga: an event-sourced saga orchestrator that lives in your own PostgreSQL."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
        SettingsError,
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
    "SettingsError",
    "Status",
    "Step",
    "StepContext",
    "TemporaryError",
    "UnknownSagaError",
]

# Imported on first use: the command line answers --help, and the demo's services start,
# without loading the drivers of a database that they may never reach.
_HOMES = {
    "DatabaseUnavailableError": "eventsaga.errors",
    "DefinitionError": "eventsaga.errors",
    "EventSagaError": "eventsaga.errors",
    "IllegalCommandError": "eventsaga.errors",
    "InDoubtError": "eventsaga.errors",
    "KeyConflictError": "eventsaga.errors",
    "Orchestrator": "eventsaga.client",
    "Parallel": "eventsaga.saga",
    "PayloadError": "eventsaga.errors",
    "PermanentError": "eventsaga.errors",
    "Retry": "eventsaga.saga",
    "Saga": "eventsaga.saga",
    "SagaHandle": "eventsaga.client",
    "SagaNotFoundError": "eventsaga.errors",
    "SagaState": "eventsaga.client",
    "SchemaOutdatedError": "eventsaga.errors",
    "Settings": "eventsaga.settings",
    "SettingsError": "eventsaga.errors",
    "Status": "eventsaga.core.state",
    "Step": "eventsaga.saga",
    "StepContext": "eventsaga.runtime.context",
    "TemporaryError": "eventsaga.errors",
    "UnknownSagaError": "eventsaga.errors",
}


def __getattr__(name: str) -> Any:
    """Return a public name from the module that it lives in."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    """Return the public names, also those that nobody has used yet."""
    return sorted((*globals(), *__all__))

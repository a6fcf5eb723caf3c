"""eventsaga: an event-sourced saga orchestrator that lives in your own PostgreSQL."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from eventsaga.client import Orchestrator, SagaHandle, SagaState
    from eventsaga.core.state import Status
    from eventsaga.errors import (
        CorruptHistoryError,
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
        UnknownEventError,
        UnknownSagaError,
    )
    from eventsaga.runtime.context import StepContext
    from eventsaga.saga import Parallel, Retry, Saga, Step
    from eventsaga.settings import Settings

__version__ = "0.1.0"

__all__ = [
    "CorruptHistoryError",
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
    "UnknownEventError",
    "UnknownSagaError",
]

_ROOM_OF: Final = {
    "Orchestrator": "client",
    "Parallel": "saga",
    "Retry": "saga",
    "Saga": "saga",
    "SagaHandle": "client",
    "SagaState": "client",
    "Settings": "settings",
    "Status": "core.state",
    "Step": "saga",
    "StepContext": "runtime.context",
}


def __getattr__(name: str) -> Any:
    # On first use: all of it together takes half a second, which `eventsaga --help` has not.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_ROOM_OF.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

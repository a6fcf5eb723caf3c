"""eventsaga: an event-sourced saga orchestrator that lives in your own PostgreSQL."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from eventsaga.client import Batch, Explanation, Feed, Orchestrator, SagaHandle, SagaState
    from eventsaga.core.state import Status
    from eventsaga.errors import (
        AnchorError,
        ArchiveError,
        CorruptHistoryError,
        DatabaseUnavailableError,
        DefinitionChangedError,
        DefinitionError,
        EventSagaError,
        FeedNumberingError,
        FeedTakenError,
        IllegalCommandError,
        InDoubtError,
        KeyConflictError,
        NoSuchMomentError,
        PayloadError,
        PermanentError,
        SagaNotFoundError,
        SchemaOutdatedError,
        SealedError,
        SettingsError,
        TemporaryError,
        TransactionMisusedError,
        UnknownEventError,
        UnknownSagaError,
    )
    from eventsaga.runtime.context import StepContext
    from eventsaga.saga import (
        ChildSaga,
        ForEach,
        Parallel,
        Rate,
        Retry,
        Saga,
        Sleep,
        Step,
        WaitForSignal,
    )
    from eventsaga.schedule import Schedule
    from eventsaga.settings import Settings

__version__ = "0.1.0"

__all__ = [
    "AnchorError",
    "ArchiveError",
    "Batch",
    "ChildSaga",
    "CorruptHistoryError",
    "DatabaseUnavailableError",
    "DefinitionChangedError",
    "DefinitionError",
    "EventSagaError",
    "Explanation",
    "Feed",
    "FeedNumberingError",
    "FeedTakenError",
    "ForEach",
    "IllegalCommandError",
    "InDoubtError",
    "KeyConflictError",
    "NoSuchMomentError",
    "Orchestrator",
    "Parallel",
    "PayloadError",
    "PermanentError",
    "Rate",
    "Retry",
    "Saga",
    "SagaHandle",
    "SagaNotFoundError",
    "SagaState",
    "Schedule",
    "SchemaOutdatedError",
    "SealedError",
    "Settings",
    "SettingsError",
    "Sleep",
    "Status",
    "Step",
    "StepContext",
    "TemporaryError",
    "TransactionMisusedError",
    "UnknownEventError",
    "UnknownSagaError",
    "WaitForSignal",
]

_ROOM_OF: Final = {
    "Batch": "client",
    "Feed": "client",
    "WaitForSignal": "saga",
    "Sleep": "saga",
    "Rate": "saga",
    "ForEach": "saga",
    "ChildSaga": "saga",
    "Orchestrator": "client",
    "Parallel": "saga",
    "Retry": "saga",
    "Saga": "saga",
    "SagaHandle": "client",
    "SagaState": "client",
    "Schedule": "schedule",
    "Settings": "settings",
    "Explanation": "client",
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

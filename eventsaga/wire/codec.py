"""How is an event stored? A stored name, a schema version and JSON data.

Stored names are data and forever: classes may be renamed or moved, a name is never used
again for something else. When the data of a name changes shape, its schema version is
raised and an upcaster from the version before is added; stored events are never touched.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, cast

from pydantic import TypeAdapter, ValidationError

from eventsaga.core import events as ev
from eventsaga.errors import UnknownEventError
from eventsaga.wire.payload import load

Upcaster = Callable[[Mapping[str, Any]], Mapping[str, Any]]

_CLASS_OF: Final[Mapping[str, type[ev.SagaEvent]]] = {
    "SagaStarted": ev.SagaStarted,
    "SagaAccepted": ev.SagaAccepted,
    "StepStarted": ev.StepStarted,
    "StepSucceeded": ev.StepSucceeded,
    "StepFailed": ev.StepFailed,
    "StepInDoubt": ev.StepInDoubt,
    "CompensationStarted": ev.CompensationStarted,
    "StepCompensationStarted": ev.StepCompensationStarted,
    "StepCompensated": ev.StepCompensated,
    "StepCompensationFailed": ev.StepCompensationFailed,
    "SagaCancelRequested": ev.SagaCancelRequested,
    "SagaDeadlineExceeded": ev.SagaDeadlineExceeded,
    "SagaRecovered": ev.SagaRecovered,
    "SagaParked": ev.SagaParked,
    "SagaCompleted": ev.SagaCompleted,
    "SagaCompensated": ev.SagaCompensated,
    "VerificationStarted": ev.VerificationStarted,
    "StepSkipped": ev.StepSkipped,
    "ForEachStarted": ev.ForEachStarted,
    "TimerStarted": ev.TimerStarted,
    "TimerFired": ev.TimerFired,
    "SignalAwaited": ev.SignalAwaited,
    "SignalReceived": ev.SignalReceived,
    "ChildStarted": ev.ChildStarted,
    "ChildEnded": ev.ChildEnded,
    "SagaRetried": ev.SagaRetried,
    "StepResolved": ev.StepResolved,
    "UndoRequested": ev.UndoRequested,
    "SagaFailed": ev.SagaFailed,
    "HookDelivered": ev.HookDelivered,
    "HookFailed": ev.HookFailed,
    "DataRedacted": ev.DataRedacted,
}
_NAME_OF: Final = {cls: name for name, cls in _CLASS_OF.items()}

# Names that are not listed are still at version 1.
_VERSION_OF: Final[Mapping[str, int]] = {}
# (name, version) -> what turns its data into that of version + 1.
_UPCASTERS: Final[Mapping[tuple[str, int], Upcaster]] = {}

# The instant has a column of its own.
_NOT_IN_DATA: Final = {"at"}


def stored_name(event: ev.SagaEvent) -> str:
    """Return the name under which *event* is stored."""
    return _NAME_OF[type(event)]


def schema_version(name: str) -> int:
    """Return the schema version with which events named *name* are written now."""
    return _VERSION_OF.get(name, 1)


def encode(event: ev.SagaEvent) -> bytes:
    """Return the JSON text of *event*'s data, exactly as it is hashed and stored.

    Fields that are None are left out, so a later optional field needs no new version.
    """
    return _adapter(type(event)).dump_json(event, exclude=_NOT_IN_DATA, exclude_none=True)


def decode(name: str, version: int, at: datetime, text: str | None) -> ev.SagaEvent:
    """Return the event that was stored under *name*.

    Raises:
        UnknownEventError: If a newer eventsaga wrote it.
        ValueError: If the data is not what this name stands for, or is gone.
    """
    cls = _CLASS_OF.get(name)
    if cls is None or version > schema_version(name):
        raise UnknownEventError(name, version)
    data = _json_object(name, text)
    try:
        return _adapter(cls).validate_python({**upcast(name, version, data), "at": at})
    except ValidationError as error:
        raise ValueError(f"{name}: {error.error_count()} fields do not fit") from error
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{name}: the data of version {version} does not fit") from error


def _json_object(name: str, text: str | None) -> dict[str, Any]:
    data = None if text is None else load(text)
    if not isinstance(data, dict):
        raise ValueError(f"{name}: the data is no JSON object")  # noqa: TRY004 - data, not types
    return cast("dict[str, Any]", data)


def upcast(
    name: str,
    version: int,
    data: Mapping[str, Any],
    *,
    to_version: int | None = None,
    upcasters: Mapping[tuple[str, int], Upcaster] = _UPCASTERS,
) -> Mapping[str, Any]:
    """Return *data* as the newest version of *name* would have written it.

    Args:
        name: Stored name of the event.
        version: Schema version of *data*.
        data: Stored data; not changed.
        to_version: Version to reach; None for the one that this code writes.
        upcasters: Pure functions by (name, version), each one version further.

    Raises:
        UnknownEventError: If there is no way from *version*.
    """
    for step in range(version, to_version or schema_version(name)):
        upcaster = upcasters.get((name, step))
        if upcaster is None:
            raise UnknownEventError(name, version)
        data = upcaster(data)
    return data


_ADAPTERS: Final[dict[type[ev.SagaEvent], TypeAdapter[ev.SagaEvent]]] = {}


def _adapter(cls: type[ev.SagaEvent]) -> TypeAdapter[ev.SagaEvent]:
    # Built on first use: all of them together cost a process 20 ms at start-up.
    adapter = _ADAPTERS.get(cls)
    if adapter is None:
        adapter = _ADAPTERS[cls] = TypeAdapter(cls)
    return adapter

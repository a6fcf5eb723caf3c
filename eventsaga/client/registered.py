"""What can be started by its name, and by the calendar? What was given, if it fits together."""

from collections.abc import Mapping, Sequence
from typing import Any

from eventsaga.errors import DefinitionError
from eventsaga.runtime.worker import definition_key
from eventsaga.saga import Saga
from eventsaga.schedule import Schedule
from eventsaga.store.ports import DefinitionKey


def newest(sagas: Sequence[Saga[Any]]) -> dict[str, Saga[Any]]:
    """Return the highest version of each saga by its name.

    Raises:
        DefinitionError: If two have the same name and version.
    """
    highest: dict[str, Saga[Any]] = {}
    seen: set[tuple[str, int]] = set()
    for saga in sorted(sagas, key=lambda saga: saga.definition.version):
        identity = (saga.name, saga.definition.version)
        if identity in seen:
            raise DefinitionError(f"saga {saga.name!r} version {identity[1]} is registered twice")
        seen.add(identity)
        highest[saga.name] = saga
    return highest


def distinct(
    schedules: Sequence[Schedule], sagas: Mapping[DefinitionKey, Saga[Any]]
) -> tuple[Schedule, ...]:
    """Return *schedules*, which have different names and start some of *sagas*.

    Raises:
        DefinitionError: If that is not so.
    """
    names: set[str] = set()
    for schedule in schedules:
        if schedule.name in names:
            raise DefinitionError(f"schedule {schedule.name!r} is registered twice")
        if definition_key(schedule.saga) not in sagas:
            raise DefinitionError(
                f"schedule {schedule.name!r}: {schedule.saga!r} is not registered"
            )
        names.add(schedule.name)
    return tuple(schedules)

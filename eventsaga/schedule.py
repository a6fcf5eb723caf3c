"""When does a saga start by itself? A cron expression, and the slots that it has.

A slot is an instant. Which instants an expression means on the two days a year on which
clocks change is cronsim's to know, which follows Debian's cron: a time of day that the
clock jumps over is run right after the jump, one that it shows twice is run the first time,
and what runs every hour or every few minutes goes on evenly.
"""

import inspect
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pydantic import BaseModel

from eventsaga.contexts import checked_input
from eventsaga.core.definition import require_identifier
from eventsaga.errors import DefinitionError, PayloadError
from eventsaga.saga import Duration, Saga, to_timedelta

Input = BaseModel | Mapping[str, Any]
"""A context model, or a mapping that fits it."""

_FIELDS: Final = 5
_A_DAY: Final = timedelta(days=1)


class Schedule:
    """Starts a saga at every slot of a cron expression: once, over all workers.

    Pass it to `Orchestrator`. Any process that has a worker may start a slot, and the slot
    is never started before its time by the database's clock.

    Args:
        name: Unique within a database; letters, digits, ``_``, ``.`` and ``-``.
        saga: What is started; the orchestrator must have it too.
        cron: Five fields: minute, hour, day of month, month, day of week.
        timezone: Its name in the tz database, such as ``Europe/Berlin``.
        context: The input of every slot, or a function of the slot (an aware datetime in
            *timezone*) that returns it. It runs on the event loop, in any process, and
            more than once if it must: let it be quick, and do nothing.
        catch_up: Slots that were missed because no worker ran are started afterwards,
            oldest first, if they are younger than this. A slot that is less than a minute
            late was not missed.

    Raises:
        DefinitionError: If a part of it cannot work; names the schedule.
    """

    def __init__(
        self,
        name: str,
        saga: Saga[Any],
        *,
        cron: str,
        timezone: str = "UTC",
        context: Input | Callable[[datetime], Input],
        catch_up: Duration = _A_DAY,
    ) -> None:
        require_identifier("schedule", name)
        self.name = name
        self.saga = saga
        self.cron = cron
        self.timezone = timezone
        try:
            self.catch_up = to_timedelta("catch_up", catch_up)
            self._zone = _zone(timezone)
            self._context = _checked(saga, context)
            _require_slots(cron, self._zone)
        except DefinitionError as error:
            raise DefinitionError(f"schedule {name!r}: {error}") from error

    def __repr__(self) -> str:
        return f"Schedule({self.name!r}, {self.saga!r}, cron={self.cron!r})"

    def next_after(self, instant: datetime) -> datetime:
        """Return the first slot after *instant*, in UTC.

        Args:
            instant: Aware.
        """
        return _next_after(self.cron, self._zone, instant)

    def key(self, slot: datetime) -> str:
        """Return the start key of *slot*, which no other slot has."""
        return f"schedule/{self.name}/{slot.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"

    def input_at(self, slot: datetime) -> dict[str, Any]:
        """Return the input of *slot* as JSON data.

        Raises:
            PayloadError: If what the function returned cannot be stored, or does not fit.
            Exception: Whatever the function raises.
        """
        if not callable(self._context):
            return self._context
        return checked_input(self.saga, self._context(slot.astimezone(self._zone)))


def _zone(timezone: str) -> ZoneInfo:
    try:
        return ZoneInfo(timezone)
    except (KeyError, ValueError, TypeError, OSError) as error:  # OSError: the name of a folder
        raise DefinitionError(
            f"timezone {timezone!r} is not in the tz database (a system without one can "
            "install the package tzdata)"
        ) from error


def _require_slots(cron: str, zone: ZoneInfo) -> None:
    try:
        if len(cron.split()) != _FIELDS:
            raise DefinitionError(f"cron {cron!r} must have five fields, as in '0 2 * * *'")
        _next_after(cron, zone, datetime.now(UTC))
    except (CronSimError, AttributeError) as error:
        raise DefinitionError(f"cron {cron!r} cannot be read: {error}") from error
    except StopIteration as error:
        raise DefinitionError(f"cron {cron!r} never comes") from error


def _next_after(cron: str, zone: ZoneInfo, instant: datetime) -> datetime:
    after = instant.astimezone(UTC)
    # The library counts by the wall clock, which shows an hour twice a year: in the second
    # one it begins with slots of the first.
    slots = CronSim(cron, after.astimezone(zone))
    while (slot := next(slots).astimezone(UTC)) <= after:
        pass
    return slot


def _checked(saga: Saga[Any], context: object) -> dict[str, Any] | Callable[[datetime], Input]:
    """Return *context*, checked if it is there already."""
    if isinstance(context, BaseModel | Mapping):
        given: Input = context  # pyright: ignore[reportUnknownVariableType]
        try:
            return checked_input(saga, given)
        except PayloadError as error:
            raise DefinitionError(f"its context cannot be used: {error}") from error
    if not callable(context) or inspect.iscoroutinefunction(context):
        raise DefinitionError(
            "its context must be a model, a mapping, or a plain function of the slot, "
            f"not {context!r}"
        )
    return cast("Callable[[datetime], Input]", context)

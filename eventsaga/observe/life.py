"""What is logged of the life of a saga? What a person may want to know, without its data."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from eventsaga.core.events import (
    CompensationStarted,
    SagaCompensated,
    SagaCompleted,
    SagaEvent,
    SagaFailed,
    SagaParked,
    SagaStarted,
    StepCompensationFailed,
    StepFailed,
    StepInDoubt,
)
from eventsaga.core.state import State
from eventsaga.observe.log import logger
from eventsaga.observe.observer import Observer

_LEVELS: Final[Mapping[type[Any], tuple[int, str]]] = {
    SagaStarted: (logging.DEBUG, "saga_started"),
    SagaCompleted: (logging.DEBUG, "saga_completed"),
    SagaCompensated: (logging.INFO, "saga_compensated"),
    SagaFailed: (logging.INFO, "saga_failed"),
    SagaParked: (logging.WARNING, "saga_parked"),
    CompensationStarted: (logging.INFO, "compensation_started"),
    StepFailed: (logging.INFO, "step_failed"),
    StepInDoubt: (logging.WARNING, "step_in_doubt"),
    StepCompensationFailed: (logging.WARNING, "compensation_failed"),
}
# Messages are left out: they hold whatever a participant has said.
_FIELDS: Final = ("step", "attempt", "operation", "error_type", "reason", "because_of", "actor")

_log = logger("saga")
_stdlib = logging.getLogger("eventsaga.saga")


class LifeLog(Observer):
    """Logs what becomes of sagas; an `Observer`."""

    def committed(self, state: State, events: Sequence[SagaEvent], /) -> None:
        """Log those of *events* that somebody listens to."""
        for event in events:
            level, name = _LEVELS.get(type(event), (0, ""))
            if level and _stdlib.isEnabledFor(level):
                _log.log(level, name, **_fields(state, event))


def _fields(state: State, event: SagaEvent) -> dict[str, Any]:
    found = ((field, getattr(event, field, None)) for field in _FIELDS)
    return {
        "saga_id": str(state.saga_id),
        "saga_name": state.saga_name,
        "correlation_id": state.correlation_id,
        **{field: str(value) for field, value in found if value is not None},
    }

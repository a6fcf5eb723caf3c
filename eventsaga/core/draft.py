"""What is a decision, while it is being made? The events so far, and where they lead."""

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from eventsaga.core.answers import Answers
from eventsaga.core.definition import StepName
from eventsaga.core.events import Operation, SagaEvent
from eventsaga.core.evolve import apply
from eventsaga.core.graph import SagaDefinition
from eventsaga.core.state import State, StepState
from eventsaga.identity import derived_id

_LONGEST_WAIT: Final = timedelta(days=100 * 365)


class Draft:
    """A decision being made.

    Args:
        definition: What may happen.
        state: Where the saga stands; folded in place.
        answers: The user's functions.
    """

    __slots__ = ("answers", "definition", "events", "state")

    def __init__(self, definition: SagaDefinition, state: State, answers: Answers) -> None:
        self.definition = definition
        self.state = state
        self.answers = answers
        self.events: list[SagaEvent] = []

    def emit(self, event: SagaEvent) -> None:
        """Decide *event*, and go on from the state that it leads to."""
        self.events.append(event)
        apply(self.state, event)


def later(at: datetime, wait: timedelta) -> datetime:
    """Return *at* plus *wait*; an instant beyond the year 9999 cannot be written."""
    return at + min(wait, _LONGEST_WAIT)


def idempotency_key(state: State, step: StepName, operation: Operation) -> str:
    """Return the key of *operation*; the same for every attempt, process and restart."""
    key = f"{state.saga_id}/{step}"
    return f"{key}/compensate" if operation is Operation.COMPENSATE else key


def child_id(parent: UUID, step: StepName, attempt: int) -> UUID:
    """Return the id of a child: the same whenever it is asked for, and as old as its parent."""
    return derived_id(parent, f"{step}/{attempt}", same_age=True)


def key_is_dead(ttl: timedelta | None, first_at: datetime | None, at: datetime) -> bool:
    """Whether the other side may have forgotten the key that was first sent at *first_at*."""
    return ttl is not None and first_at is not None and at - first_at > ttl


def due(step: StepState, at: datetime) -> bool:
    """Whether the time that *step* waits for has come."""
    return step.retry_at is not None and step.retry_at <= at

"""What is a history, to whoever judges it? Events in order, and what is known of their saga."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from eventsaga.core.events import SagaEvent
from eventsaga.core.graph import SagaDefinition
from eventsaga.store.examine import Violation


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known about the sagas of one definition.

    Attributes:
        definition: Their shape.
        has_policies: Whether it is the definition itself. A recorded shape has none: there
            attempts cannot be judged.
        most_takeovers: Takeovers in a row without progress, beyond which a saga must have
            been parked; None if that is not known.
    """

    definition: SagaDefinition
    has_policies: bool = False
    most_takeovers: int | None = None


class Told:
    """One saga's history, column by column, and what is known about it.

    Args:
        saga_id: The saga.
        events: All its events, or those from the first one on.
        workers: Who wrote each; () if that is not known.
        recorded_at: When each was stored, by the database's clock; () if that is not known.
        known: What is known about its definition; None for nothing.
    """

    __slots__ = ("events", "kinds", "known", "recorded_at", "saga_id", "workers")

    def __init__(
        self,
        saga_id: UUID,
        events: Sequence[SagaEvent],
        *,
        workers: Sequence[UUID | None] = (),
        recorded_at: Sequence[datetime | None] = (),
        known: Known | None = None,
    ) -> None:
        self.saga_id = saga_id
        self.events = events
        self.workers = workers
        self.recorded_at = recorded_at
        self.known = known
        # Most sagas are in order, and by this most judges know it at once.
        self.kinds = set(map(type, events))

    def numbered(self) -> Iterator[tuple[int, SagaEvent]]:
        """Return the events with their numbers."""
        return enumerate(self.events, 1)

    def violation(self, seq: int | None, invariant: int, message: str) -> Violation:
        """Return what is wrong with this saga."""
        return Violation(self.saga_id, seq, invariant, message)


Judge = Callable[[Told], Iterator[Violation]]
"""Yields what is wrong with a history, by one invariant."""

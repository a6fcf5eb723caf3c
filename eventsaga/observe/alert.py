"""What should a person know of? Sagas that cannot help themselves, and histories that lie."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID


class AlertKind(StrEnum):
    """What is wrong.

    Attributes:
        STUCK: A saga has made no progress for longer than it may.
        PARKED: A saga waits for a person.
        IN_DOUBT: A step's effect may have happened, and nobody has known for too long.
        NO_WORKER: Sagas are due, and no living worker has their definition.
        VIOLATION: The history of a saga breaks an invariant, such as the chain of hashes.
    """

    STUCK = "stuck"
    PARKED = "parked"
    IN_DOUBT = "in_doubt"
    NO_WORKER = "no_worker"
    VIOLATION = "violation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """Something that a person should know of.

    Attributes:
        kind: What is wrong.
        saga_name: The definition concerned; "" if it is not known.
        saga_id: The saga concerned; None if it is many.
        step: The step concerned, if one is.
        since: Since when; None if that is not known.
        message: What is known.
    """

    kind: AlertKind
    saga_name: str
    saga_id: UUID | None = None
    step: str | None = None
    since: datetime | None = None
    message: str = ""

    @property
    def subject(self) -> tuple[AlertKind, str, UUID | None, str | None]:
        """What it is about: another alert about the same is no news."""
        return self.kind, self.saga_name, self.saga_id, self.step


AlertHandler = Callable[[Alert], Awaitable[None] | None]
"""A function, plain or not, that is called with each alert as it is raised."""

"""What can a store do for schedules? Plan slots, and start each of them once."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from eventsaga.store.ports import Start, StartResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """The next slot of a schedule.

    Attributes:
        name: The schedule.
        cron: The expression by which the slot was computed.
        timezone: Where the expression counts.
        slot: Not started yet, and due then (UTC).
        now: The database's clock when it was read.
        is_kept: Whether the worker that planned it is alive.
    """

    name: str
    cron: str
    timezone: str
    slot: datetime
    now: datetime
    is_kept: bool


class SlotStore(Protocol):
    """Where schedules are kept.

    A method that cannot reach the database raises `DatabaseUnavailableError`.
    """

    async def now(self) -> datetime:
        """Return the database's clock."""
        ...

    async def plan_schedule(
        self,
        worker_id: UUID,
        name: str,
        *,
        saga_name: str,
        cron: str,
        timezone: str,
        slot: datetime,
    ) -> None:
        """Record a schedule whose next slot is *slot*, kept by *worker_id*.

        One that is recorded with the same expression and timezone keeps its slot.
        """
        ...

    async def planned(self, names: Sequence[str]) -> list[Planned]:
        """Return the next slot of each schedule of *names*."""
        ...

    async def start_slot(
        self, planned: Planned, start: Start, following: datetime
    ) -> StartResult | None:
        """Start what is due at a slot and go on to the *following* one, in one transaction.

        Returns:
            None if it is not due yet, or another worker has started it or is about to.
        """
        ...

    async def skip_slots(self, planned: Planned, following: datetime) -> bool:
        """Go on to the *following* slot without a start; False if another worker did."""
        ...

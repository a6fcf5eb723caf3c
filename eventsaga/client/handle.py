"""What does a start return? The saga's id, and what can be asked of it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pydantic import BaseModel

from eventsaga.client.view import SagaState
from eventsaga.store.ports import StoredEvent

if TYPE_CHECKING:
    from eventsaga.client.orchestrator import Orchestrator


class SagaHandle:
    """A saga that was started. Cheap: it holds nothing but the id.

    Attributes:
        id: The saga.
        created: Whether this start created it; False if its key had done so before.
    """

    def __init__(self, orchestrator: "Orchestrator", saga_id: UUID, *, created: bool) -> None:
        self.id = saga_id
        self.created = created
        self._orchestrator = orchestrator

    def __repr__(self) -> str:
        return f"SagaHandle({self.id})"

    async def result(self, timeout: float | None = None) -> SagaState[Any]:  # noqa: ASYNC109
        """Wait until the saga has ended or is parked, and return where it stands.

        Args:
            timeout: Wait at most so many seconds; None for as long as it takes.

        Raises:
            TimeoutError: If it takes longer; the saga goes on.
        """
        return await self._orchestrator.wait(self.id, timeout=timeout)

    async def state(self) -> SagaState[Any]:
        """Return where the saga stands now."""
        return await self._orchestrator.get(self.id)

    async def history(self) -> tuple[StoredEvent, ...]:
        """Return all events of the saga in order."""
        return await self._orchestrator.history(self.id)

    async def signal(
        self,
        name: str,
        payload: BaseModel | Mapping[str, Any] | None = None,
        *,
        id: UUID | str | None = None,  # noqa: A002 - the word of the field
        actor: str = "client",
    ) -> None:
        """Tell the saga what it waits for; see `Orchestrator.signal`."""
        await self._orchestrator.signal(self.id, name, payload, id=id, actor=actor)

    async def cancel(self, reason: str, *, actor: str = "client") -> bool:
        """Ask the saga to go back; see `Orchestrator.cancel`."""
        return await self._orchestrator.cancel(self.id, reason, actor=actor)

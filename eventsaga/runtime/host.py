"""What does a run need of the worker that it lives in?"""

from collections.abc import Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from eventsaga.core.state import State
from eventsaga.observe.observer import Observers
from eventsaga.runtime.clock import Clock
from eventsaga.runtime.execute import Tools
from eventsaga.saga import Limit, Saga
from eventsaga.settings import Settings
from eventsaga.store.ports import Append, Dismissal, Message, Transaction

if TYPE_CHECKING:
    from eventsaga.runtime.run import Run


class Host(Protocol):
    """The worker, as a run sees it."""

    settings: Settings
    tools: Tools
    observers: Observers

    @property
    def worker_id(self) -> UUID:
        """The identity under which this process owns sagas now."""
        ...

    @property
    def clock(self) -> Clock:
        """The database's time."""
        ...

    @property
    def may_start_effects(self) -> bool:
        """Whether enough of the lease is left to begin something."""
        ...

    @property
    def draining(self) -> bool:
        """Whether the worker is about to stop."""
        ...

    def append(self, append: Append) -> None:
        """Append for this worker."""
        ...

    async def begin(self, timeout: timedelta) -> Transaction:  # noqa: ASYNC109
        """Open a transaction for a transactional step that may take *timeout*."""
        ...

    def permit(self, limit: Limit) -> AbstractAsyncContextManager[None]:
        """Wait for a permit of *limit*, and hold it until the block ends."""
        ...

    async def start_child(
        self, saga: Saga[Any], child: UUID, context: dict[str, Any], parent: State, step: str
    ) -> None:
        """See to it that a child exists; on return it is durable."""
        ...

    def do(self, chore: Coroutine[Any, Any, Any]) -> None:
        """Run *chore* beside everything else."""
        ...

    async def post(self, message: Message) -> None:
        """Leave a message in the inbox of another saga; on return it is durable."""
        ...

    async def mail_of(self, saga_id: UUID) -> list[Message]:
        """Return the open requests to a saga, oldest first."""
        ...

    def dismiss(self, dismissals: Sequence[Dismissal]) -> Coroutine[Any, Any, None]:
        """Answer requests that cause no event, as the owner that this worker is now."""
        ...

    def settled(self, run: "Run") -> None:
        """Take note that the saga of *run* has ended or is parked."""
        ...

    def ended(self, run: "Run") -> None:
        """Take note that *run* is over here, and its saga nobody's."""
        ...

    def give_up(self, run: "Run", wake_at: datetime | None) -> None:
        """Leave the saga of *run* to anybody, from *wake_at* on; None for never."""
        ...

    def fenced(self, run: "Run") -> None:
        """Take note that another worker owns the saga, or that its events are not those here."""
        ...

    def failed(self, run: "Run", error: Exception) -> None:
        """Take note that *run* cannot go on because of *error*, which is not the saga's."""
        ...

"""Who waits for a saga to end? Told at once if it ends here, by polling if elsewhere."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final, Protocol
from uuid import UUID

from eventsaga.core.state import State
from eventsaga.errors import DatabaseUnavailableError
from eventsaga.observe.log import logger

_log = logger("client")

_SHORTEST: Final = 0.02
_LONGEST: Final = 0.5


class _Store(Protocol):
    async def settled(self, saga_ids: Sequence[UUID]) -> set[UUID]: ...


class Waiting:
    """Futures by saga, and one poll for all of them.

    Args:
        store: Asked which of the sagas have settled.
        longest: Seconds between two questions, at most.
    """

    def __init__(self, store: _Store, longest: float = _LONGEST) -> None:
        self._longest = longest
        self.runs_here: Callable[[UUID], bool] = _nowhere
        self._store = store
        self._waiters: defaultdict[UUID, set[asyncio.Future[State | None]]] = defaultdict(set)
        self._poller: asyncio.Task[None] | None = None
        self._pause = _SHORTEST

    async def wait(self, saga_id: UUID) -> State | None:
        """Return when the saga has ended or is parked: its state, if that was here."""
        waiter: asyncio.Future[State | None] = asyncio.get_running_loop().create_future()
        self._waiters[saga_id].add(waiter)
        self._pause = _SHORTEST
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll(), name="eventsaga-waiting")
        try:
            return await waiter
        finally:
            waiters = self._waiters.get(saga_id)
            if waiters is not None:
                waiters.discard(waiter)
                if not waiters:
                    del self._waiters[saga_id]

    def settled(self, saga_id: UUID, state: State | None = None) -> None:
        """Tell all who wait for the saga; *state* if it settled in this process."""
        for waiter in self._waiters.pop(saga_id, ()):
            if not waiter.done():
                waiter.set_result(state)

    async def close(self) -> None:
        """Stop polling."""
        if self._poller is not None:
            self._poller.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._poller

    async def _poll(self) -> None:
        while self._waiters:
            await asyncio.sleep(self._pause)
            self._pause = min(self._longest, self._pause * 1.5)
            # What runs here will be told of by the worker.
            elsewhere = [saga_id for saga_id in self._waiters if not self.runs_here(saga_id)]
            try:
                settled = await self._store.settled(elsewhere) if elsewhere else set[UUID]()
            except DatabaseUnavailableError as error:
                _log.warning("waiting_without_database", error=str(error))
                continue
            for saga_id in settled:
                self.settled(saga_id)


def _nowhere(_saga_id: UUID) -> bool:
    return False

"""How does a page learn that something has changed? One look a second, for all who listen."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any, Final
from uuid import UUID

from eventsaga.errors import EventSagaError
from eventsaga.store.postgres.overview import overview, standing
from eventsaga.store.postgres.store import PostgresStore

MOST_LISTENERS: Final = 100

_POLL_SECONDS: Final = 1.0
# A comment now and then finds out whether anybody is still there.
_SILENCE_SECONDS: Final = 15.0
_NOTHING: Final = object()


class _Listener:
    def __init__(self, saga_id: UUID | None) -> None:
        self.saga_id = saga_id
        # Whatever has changed since its page was made, it is told at the first look.
        self.known: Any = _NOTHING
        self.news = asyncio.Event()


class Live:
    """Looks at the database as long as anybody listens.

    Args:
        store: Open while it is used.
    """

    def __init__(self, store: PostgresStore) -> None:
        self._store = store
        self._listeners: set[_Listener] = set()
        self._looking: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def is_full(self) -> bool:
        """Whether nobody else may listen."""
        return self._closed or len(self._listeners) >= MOST_LISTENERS

    async def listen(self, saga_id: UUID | None) -> AsyncGenerator[bytes]:
        """Yield server-sent events: one for each change of a saga, or of the whole.

        Args:
            saga_id: None for the whole.
        """
        if self.is_full:
            # Many came at once, before the first of them listened.
            yield b"retry: 30000\n\n"
            return
        listener = _Listener(saga_id)
        self._listeners.add(listener)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_on())
        try:
            yield b"retry: 2000\n\n"
            while not self._closed:
                try:
                    async with asyncio.timeout(_SILENCE_SECONDS):
                        await listener.news.wait()
                except TimeoutError:
                    yield b": still here\n\n"
                    continue
                listener.news.clear()
                if not self._closed:
                    yield b"event: changed\ndata: {}\n\n"
        finally:
            self._listeners.discard(listener)
            if not self._listeners:
                self._rest()

    def close(self) -> None:
        """End all streams; nobody may listen from here on."""
        self._closed = True
        for listener in self._listeners:
            listener.news.set()

    def _rest(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

    async def _look_on(self) -> None:
        while True:
            # Away for a while: pages stay as they are until it is back.
            with contextlib.suppress(EventSagaError):
                await self._look()
            await asyncio.sleep(_POLL_SECONDS)

    async def _look(self) -> None:
        listeners = list(self._listeners)
        seen: dict[UUID | None, Any] = {}
        ids = {listener.saga_id for listener in listeners if listener.saga_id is not None}
        if ids:
            found = await standing(self._store, list(ids))
            seen.update((saga_id, seq) for saga_id, seq in found.items())
        if any(listener.saga_id is None for listener in listeners):
            seen[None] = await self._whole()
        for listener in listeners:
            now = seen.get(listener.saga_id)
            if listener.known != now:
                listener.news.set()
            listener.known = now

    async def _whole(self) -> object:
        look = await overview(self._store)
        workers = {(worker.worker_id, worker.sagas, worker.lives) for worker in look.workers}
        return (look.started, look.ended, look.failed, look.in_doubt, look.by_status, workers)

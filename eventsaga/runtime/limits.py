"""May this attempt begin? Permits of a limit that holds over all workers.

Attempts of this process that wait for the same limit stand in one queue. One task asks the
store for as many permits as there are attempts in it, hands them out in order, and gives
back what ended meanwhile: under load, many attempts share a statement.

An answer can be lost after the commit. Permits that may or may not be held are never
guessed at: nothing is asked for until the attempts that run have ended, and then all that
this worker can possibly hold is given back at once.
"""

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import AsyncGenerator, Callable
from datetime import timedelta
from typing import Final, NamedTuple, Protocol
from uuid import UUID

from eventsaga.errors import DatabaseUnavailableError
from eventsaga.observe.log import logger
from eventsaga.runtime.clock import Clock
from eventsaga.saga import Limit
from eventsaga.store.ports import Grant

_log = logger("worker")

_MOST_WANTED: Final = 100
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
# The clock is the database's as well as it is known: an instant may be met a little early.
_SHORTEST_WAIT: Final = 0.005
_LONGEST_WAIT: Final = 60.0


class PermitStore(Protocol):
    """What the limiter needs of a store: see `Store`."""

    async def acquire(
        self,
        worker_id: UUID,
        key: str,
        wanted: int,
        *,
        concurrency: int | None,
        interval: timedelta | None,
        burst: int,
    ) -> Grant:
        """Return how many of *wanted* attempts may begin, over all workers."""
        ...

    async def release_permits(self, worker_id: UUID, key: str, permits: int) -> None:
        """Give back permits of a limit on concurrency; more than are held, all of them."""
        ...


class Limiter:
    """Lets attempts begin when their limit allows it.

    Args:
        store: Counts permits over all workers.
        worker_id: The identity of this process now. Permits of an earlier one ended with
            its lease; they are forgotten.
        clock: The database's time.
    """

    def __init__(self, store: PermitStore, worker_id: Callable[[], UUID], clock: Clock) -> None:
        self._store = store
        self._worker_id = worker_id
        self._clock = clock
        self._queues: dict[str, _Queue] = {}
        self._closed = False

    @contextlib.asynccontextmanager
    async def permit(self, limit: Limit) -> AsyncGenerator[None]:
        """Wait for a permit, and hold it until the block ends.

        A database that cannot be reached delays the attempt; it never fails it.
        """
        queue = self._queues.get(limit.key)
        if queue is None:
            queue = _Queue(limit.key, self._store, self._worker_id, self._clock)
            self._queues[limit.key] = queue
        permit = await queue.wait(limit)
        try:
            yield
        finally:
            if not self._closed:
                queue.give_back(permit)

    async def aclose(self) -> None:
        """Stop asking. Attempts that wait are cancelled; permits end with the lease."""
        self._closed = True
        for queue in self._queues.values():
            await queue.close()


class _Permit(NamedTuple):
    """Leave to begin. Only a *counted* one, of a limit on concurrency, is given back."""

    owner: UUID
    counted: bool


class _Waiting(NamedTuple):
    """An attempt in the queue; *permit* is cancelled with it."""

    limit: Limit
    permit: "asyncio.Future[_Permit]"


class _Queue:
    """The attempts of this process that wait for one key, and the task that asks for them."""

    def __init__(
        self, key: str, store: PermitStore, worker_id: Callable[[], UUID], clock: Clock
    ) -> None:
        self._key = key
        self._store = store
        self._worker_id = worker_id
        self._clock = clock
        self._waiting: deque[_Waiting] = deque()
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._pause = _FIRST_PAUSE
        # Counted permits of `_owner`: with attempts, to be given back, and perhaps held.
        self._owner = worker_id()
        self._running = 0
        self._returned = 0
        self._doubtful = 0

    async def wait(self, limit: Limit) -> _Permit:
        """Stand in the queue until there is a permit."""
        waiting = _Waiting(limit, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._serve()
        try:
            return await waiting.permit
        except asyncio.CancelledError:
            if waiting.permit.done() and not waiting.permit.cancelled():
                self.give_back(waiting.permit.result())  # granted and cancelled at once
            raise

    def give_back(self, permit: _Permit) -> None:
        """Take note that an attempt has ended."""
        self._forget_lost_lease()
        if not permit.counted or permit.owner != self._owner:
            return
        self._running -= 1
        self._returned += 1
        self._changed.set()
        self._serve()

    async def close(self) -> None:
        """Stop asking, and cancel whoever waits."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for waiting in self._waiting:
            waiting.permit.cancel()

    def _serve(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._ask(), name=f"eventsaga-limit-{self._key}")

    def _forget_lost_lease(self) -> None:
        owner = self._worker_id()
        if owner != self._owner:
            self._owner = owner
            self._running = self._returned = self._doubtful = 0

    async def _ask(self) -> None:
        """Ask for those that wait, and give back what was returned, until neither is left."""
        while self._has_work():
            self._changed.clear()
            try:
                wait = await self._asked_once()
            except DatabaseUnavailableError as error:
                _log.warning("limit_not_asked", key=self._key, error=str(error))
                wait = self._next_pause()
            except Exception:  # noqa: BLE001 - those that wait must not wait for ever
                _log.exception("limit_not_asked", key=self._key)
                wait = self._next_pause()
            if wait > 0:
                await self._changed_within(wait)

    def _has_work(self) -> bool:
        self._forget_lost_lease()
        while self._waiting and self._waiting[0].permit.done():
            self._waiting.popleft()  # cancelled
        return bool(self._waiting or self._returned or (self._doubtful and not self._running))

    async def _asked_once(self) -> float:
        """Give back and ask; return how many seconds to wait before the next time."""
        await self._release()
        if self._doubtful:
            return _LONGEST_PAUSE  # or until one of those that run ends
        wanted = min(len(self._waiting), _MOST_WANTED)
        if not wanted:
            return 0
        limit = self._waiting[0].limit
        grant = await self._acquire(limit, wanted)
        if grant is None:
            return 0
        self._hand_out(grant.permits, counted=limit.concurrency is not None)
        if grant.permits > 0:
            self._pause = _FIRST_PAUSE
        return 0 if grant.permits >= wanted else self._wait_for(grant)

    async def _release(self) -> None:
        doubtful = 0 if self._running else self._doubtful
        permits, owner = self._returned + doubtful, self._owner
        if not permits:
            return
        # Until the answer is here nobody knows whether they are held.
        self._doubtful += self._returned
        self._returned = 0
        await self._store.release_permits(owner, self._key, permits)
        if owner == self._owner:
            self._doubtful -= permits

    async def _acquire(self, limit: Limit, wanted: int) -> Grant | None:
        """Return what is granted; None if it was granted to an identity that has ended."""
        owner = self._owner
        doubtful = 0 if limit.concurrency is None else wanted
        self._doubtful += doubtful
        grant = await self._store.acquire(
            owner,
            self._key,
            wanted,
            concurrency=limit.concurrency,
            interval=limit.interval,
            burst=limit.burst,
        )
        self._forget_lost_lease()
        if owner != self._owner:
            return None
        self._doubtful -= doubtful
        return grant

    def _hand_out(self, permits: int, *, counted: bool) -> None:
        """Give *permits* to those that have waited longest, and keep none."""
        while permits and self._waiting:
            waiting = self._waiting.popleft()
            if waiting.permit.done():
                continue
            waiting.permit.set_result(_Permit(self._owner, counted))
            permits -= 1
            self._running += counted
        if counted:
            self._returned += permits

    def _wait_for(self, grant: Grant) -> float:
        if grant.retry_at is None:
            return self._next_pause()
        seconds = (grant.retry_at - self._clock.now()).total_seconds()
        return min(max(seconds, _SHORTEST_WAIT), _LONGEST_WAIT)

    def _next_pause(self) -> float:
        """Return a pause out of step with other workers, each twice as long as the last."""
        pause, self._pause = self._pause, min(self._pause * 2, _LONGEST_PAUSE)
        return pause * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, hides nothing

    async def _changed_within(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

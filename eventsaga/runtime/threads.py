"""Where do steps that are plain functions run? In a thread that was free before they began.

An executor's own queue would take calls in beyond its threads: they would wait there with
their timeout running, and begin long after anybody could stop them. Here an attempt stands
in a queue that it can leave, and has not begun.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from contextvars import copy_context
from inspect import isawaitable
from typing import Any, Final

from eventsaga.observe.log import logger

_log = logger("worker")

_SUSPICIOUS_SECONDS: Final = 60.0


class Thread:
    """A thread that is free for one call."""

    __slots__ = ("_threads", "is_used")

    def __init__(self, threads: "Threads") -> None:
        self._threads = threads
        self.is_used = False

    async def run(self, call: Callable[[], Any]) -> object:
        """Call, and return what the call returns; a coroutine is awaited.

        Cancelled, the call goes on all the same, and keeps its thread until it ends.
        """
        self.is_used = True
        result = await self._threads.run(copy_context().run, call)
        # A lambda or a partial around a coroutine function is plain, but returns an awaitable.
        return await result if isawaitable(result) else result


class Threads:
    """As many threads as plain functions may run in at once.

    Args:
        size: How many.
    """

    def __init__(self, size: int) -> None:
        self._pool = ThreadPoolExecutor(size, thread_name_prefix="eventsaga-step")
        self._free = asyncio.Semaphore(size)

    @asynccontextmanager
    async def free(self) -> AsyncGenerator[Thread]:
        """Wait for a thread, and keep it until the block and the call in it have ended."""
        await self._wait()
        thread = Thread(self)
        try:
            yield thread
        finally:
            if not thread.is_used:
                self._free.release()

    async def _wait(self) -> None:
        if not self._free.locked():
            await self._free.acquire()
            return
        loop = asyncio.get_running_loop()
        said = "functions that never return keep theirs"
        reminder = loop.call_later(
            _SUSPICIOUS_SECONDS, lambda: _log.warning("threads_taken", remedy=said)
        )
        try:
            await self._free.acquire()
        finally:
            reminder.cancel()

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call in a thread that was found free."""
        loop = asyncio.get_running_loop()
        future = self._pool.submit(function, *arguments)

        def ended(_future: object) -> None:
            with suppress(RuntimeError):  # the loop has ended before the call
                loop.call_soon_threadsafe(self._free.release)

        future.add_done_callback(ended)
        return await asyncio.wrap_future(future)

    def shutdown(self) -> None:
        """Wait for nobody: a thread that hangs cannot be stopped, and must not hold us up."""
        self._pool.shutdown(wait=False, cancel_futures=True)

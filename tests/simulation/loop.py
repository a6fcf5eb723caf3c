"""How do several processes share one event loop? Each callback knows whose it is.

A process that is killed never runs again, without a chance to clean up; one that is frozen
finds all that has happened to it when it is thawed, late. Who goes first among those that are
ready is drawn by lot, and the same seed draws the same lots.
"""

import asyncio
import contextvars
import random
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any, Final, cast

from eventsaga.testing.virtual import VirtualLoop

SERVER: Final = 0
PROCESS: Final = contextvars.ContextVar("process", default=SERVER)
"""Whose code runs; `SERVER` is the world outside, which nothing happens to."""

_Held = tuple[list[asyncio.Handle], Callable[..., object], tuple[Any, ...]]


class ProcessLoop(VirtualLoop):
    """Virtual time, shared by processes.

    Args:
        lots: Draws who goes first.
    """

    def __init__(self, lots: random.Random) -> None:
        super().__init__()
        self._lots = lots
        self._dead: set[int] = set()
        self._frozen: set[int] = set()
        self._held: defaultdict[int, list[_Held]] = defaultdict(list)
        self.set_exception_handler(self._unexpected)
        self.unexpected: list[str] = []

    def kill(self, process: int) -> None:
        """End a process as SIGKILL does."""
        self._dead.add(process)
        self._held.pop(process, None)

    def freeze(self, process: int) -> None:
        """Stop a process as SIGSTOP does."""
        self._frozen.add(process)

    def thaw(self, process: int) -> None:
        """Let a process go on, as SIGCONT does."""
        self._frozen.discard(process)
        for handles, callback, arguments in self._held.pop(process, []):
            context = contextvars.copy_context()
            context.run(PROCESS.set, process)
            super().call_soon(self._late, handles, callback, arguments, context=context)

    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.Handle:
        """Call back as soon as its turn comes, in its process."""
        handles: list[asyncio.Handle] = []
        process = _process(context)
        handle = super().call_soon(self._gate, process, handles, callback, args, context=context)
        handles.append(handle)
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        """Call back at an instant, in its process."""
        handles: list[asyncio.Handle] = []
        process = _process(context)
        handle = super().call_at(
            when, self._gate, process, handles, callback, args, context=context
        )
        handles.append(handle)
        return handle

    def _gate(
        self,
        process: int,
        handles: list[asyncio.Handle],
        callback: Callable[..., object],
        arguments: tuple[Any, ...],
    ) -> None:
        if process in self._dead:
            return
        if process in self._frozen:
            self._held[process].append((handles, callback, arguments))
            return
        callback(*arguments)

    def _late(
        self,
        handles: list[asyncio.Handle],
        callback: Callable[..., object],
        arguments: tuple[Any, ...],
    ) -> None:
        process = PROCESS.get()
        if not handles[0].cancelled():
            self._gate(process, handles, callback, arguments)

    def _run_once(self) -> None:
        ready = cast("deque[asyncio.Handle]", self._ready)  # type: ignore[attr-defined]
        if len(ready) > 1:
            shuffled = list(ready)
            self._lots.shuffle(shuffled)
            ready.clear()
            ready.extend(shuffled)
        super()._run_once()  # type: ignore[misc]

    def _unexpected(self, _loop: object, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is not None:
            self.unexpected.append(f"{context['message']}: {error!r}")


def _process(context: contextvars.Context | None) -> int:
    return PROCESS.get() if context is None else context.get(PROCESS, SERVER)

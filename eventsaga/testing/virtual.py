"""How does a week pass in a millisecond? An event loop whose time moves only when nobody is busy.

When nothing is left to run, the loop goes straight to the next timer. Nothing is slept, so a
saga that waits for months is over at once, and every run of the same script is the same.
"""

import asyncio
import selectors
from datetime import UTC, datetime, timedelta
from typing import Final

from eventsaga.runtime.clock import DatabaseClock

BEGIN: Final = datetime(2026, 1, 1, tzinfo=UTC)


class NothingLeftError(RuntimeError):
    """Everybody waits for something that will never come."""


class _Skipping(selectors.DefaultSelector):
    """Does not wait for a timer: it moves the loop's time there."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready now; without that, let the time pass."""
        if timeout is not None and timeout <= 0:
            return []  # there is something to do, so no time passes
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise NothingLeftError("nothing is scheduled: everybody waits for ever")
            self.time += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time, which begins at 0."""

    def __init__(self) -> None:
        self._skipping = _Skipping()
        super().__init__(self._skipping)

    def time(self) -> float:
        """Return the virtual time, in seconds."""
        return self._skipping.time


class VirtualClock(DatabaseClock):
    """The time of a `VirtualLoop`, as instants from `BEGIN` on."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop

    def align(self, answered: datetime, *, sent: float, received: float) -> None:
        """Do nothing: there is only this clock."""

    def now(self) -> datetime:
        """Return the virtual instant."""
        return BEGIN + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        """Return the virtual seconds since `BEGIN`."""
        return self._loop.time()

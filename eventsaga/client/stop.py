"""When is a process told to stop? By SIGTERM or SIGINT, which mean the same."""

import asyncio
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stop_signal(
    second: Callable[[int, FrameType | None], Any] | None = None,
) -> Generator[asyncio.Future[signal.Signals]]:
    """Lend a future that the first signal resolves; for a loop in the main thread.

    Args:
        second: Handles the signals that follow, whatever the loop does; None for what
            Python does without a handler.
    """
    loop = asyncio.get_running_loop()
    told: asyncio.Future[signal.Signals] = loop.create_future()

    def first(number: signal.Signals) -> None:
        _let_go(loop)
        if second is not None:
            for each in _SIGNALS:
                # Not by the loop, which may be what hangs.
                signal.signal(each, second)
        if not told.done():
            told.set_result(number)

    for number in _SIGNALS:
        loop.add_signal_handler(number, first, number)
    try:
        yield told
    finally:
        _let_go(loop)


def _let_go(loop: asyncio.AbstractEventLoop) -> None:
    # What was let go before, and has another handler since, keeps that.
    for number in _SIGNALS:
        loop.remove_signal_handler(number)

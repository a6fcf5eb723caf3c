"""Does a process that is told to stop hear it once, and the second time at once?"""

import asyncio
import os
import signal
from types import FrameType

import pytest

from eventsaga.client.stop import stop_signal


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_first_signal_is_heard_and_the_second_handled(number: signal.Signals) -> None:
    again: list[int] = []

    def second(told: int, _frame: FrameType | None) -> None:
        again.append(told)

    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        with stop_signal(second=second) as told:
            os.kill(os.getpid(), number)
            heard = await asyncio.wait_for(told, 5)
        os.kill(os.getpid(), number)  # while it drains
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)

    assert (heard, again) == (number, [number])


async def test_without_a_second_handler_the_default_is_back_after_the_first() -> None:
    with stop_signal() as told:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(told, 5)

        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


async def test_who_was_not_told_leaves_nothing_behind() -> None:
    with stop_signal() as told:
        pass

    assert not told.done()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


async def test_who_gives_up_waiting_leaves_nothing_behind() -> None:
    async def run() -> None:
        with stop_signal() as told:
            begun.set()
            await told

    begun = asyncio.Event()
    task = asyncio.create_task(run())
    await begun.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

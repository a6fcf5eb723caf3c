"""What does a worker of a drill run? ``python -m eventsaga.drill.worker``, told by its first line.

It is a worker as any other, in a process of its own, which does to itself what its order says:
dies, stops or loses its connection at a named place. Lines of JSON on standard output say what
happens; what the user's code prints goes to standard error. It ends with whoever started it.
"""

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import IO, Any, Final

from eventsaga import failpoints
from eventsaga.client import Orchestrator
from eventsaga.drill.load import sagas_of
from eventsaga.drill.sending import send_through
from eventsaga.observe import log
from eventsaga.settings import Settings

_HOLD_SECONDS: Final = 10.0
_SIGNALS: Final = {"kill9": signal.SIGKILL, "stop": signal.SIGSTOP}
_CANCELLED: Final = "SagaCancelRequested"


class _Process:
    """This process, as its order wants it."""

    def __init__(self, channel: IO[str]) -> None:
        self._channel = channel
        self._cancelled = asyncio.Event()
        self.may_open = asyncio.Event()

    def say(self, event: str, **more: Any) -> None:
        """Tell the drill what happens."""
        self._channel.write(json.dumps({"event": event, **more}) + "\n")
        self._channel.flush()

    def arm(self, points: list[Mapping[str, Any]], until: ExitStack) -> None:
        """Put *points* on the way."""
        for point in points:
            action = self._action(point["action"])
            place, text, at = point["place"], point["text"], point["at"]
            until.enter_context(failpoints.calling(place, action, text=text, at=at))

    def _action(self, name: str) -> failpoints.Action:
        match name:
            case "watch":
                return lambda place, text: self.say("passed", place=place, text=text)
            case "hold":
                return self._hold
            case "cancelled":
                return self._see_cancelled
            case "error":
                return self._break
            case _:
                return self._strike(_SIGNALS[name])

    def _strike(self, number: int) -> failpoints.Action:
        def struck(place: str, _text: str) -> None:
            self.say("struck", place=place)
            os.kill(os.getpid(), number)

        return struck

    def _break(self, place: str, _text: str) -> None:
        self.say("struck", place=place)
        raise ConnectionResetError(f"drill at {place}")

    async def _hold(self, place: str, _text: str) -> None:
        """Wait until the saga's cancellation is recorded; the saga goes on all the same."""
        self.say("held", place=place)
        try:
            async with asyncio.timeout(_HOLD_SECONDS):
                await self._cancelled.wait()
        except TimeoutError:
            self.say("not cancelled")

    def _see_cancelled(self, place: str, text: str) -> None:
        # What is read back has lost its answer, and may be the request.
        if _CANCELLED in text or place == "after_read_back":
            self._cancelled.set()


async def _work(order: Mapping[str, Any], process: _Process) -> None:
    loop = asyncio.get_running_loop()
    threading.Thread(target=_listen, args=(loop, process), name="drill", daemon=True).start()
    sagas = sagas_of(order["module"])
    if order["recorder"]:
        send_through(order["recorder"])
    process.say("ready")
    await process.may_open.wait()
    with ExitStack() as until:
        process.arm(order["points"], until)
        url = os.environ["EVENTSAGA_DATABASE_URL"]
        orchestrator = Orchestrator(url, sagas, settings=Settings.from_environment())
        async with orchestrator:
            process.say("open")
            await orchestrator.run()


def _listen(loop: asyncio.AbstractEventLoop, process: _Process) -> None:
    for _line in sys.stdin:
        loop.call_soon_threadsafe(process.may_open.set)
    # Nobody is there any more; a crash loses nothing.
    os.kill(os.getpid(), signal.SIGKILL)


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's factory if it is installed, as ``eventsaga worker`` does."""
    try:
        import uvloop  # noqa: PLC0415 - it is optional
    except ImportError:
        return None
    return uvloop.new_event_loop


def main() -> None:
    """Run until a signal, or until the drill is gone."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    log.configure()
    order = json.loads(sys.stdin.readline())
    with asyncio.Runner(loop_factory=_fast_loop()) as runner:
        runner.run(_work(order, _Process(channel)))


if __name__ == "__main__":
    main()

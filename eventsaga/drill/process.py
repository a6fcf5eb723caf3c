"""How is a worker process started, watched and killed?"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Final

from eventsaga.drill.boundary import Passing
from eventsaga.drill.errors import WorkerEndedError
from eventsaga.drill.plan import Point

_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 15.0
_COMPLAINT_CHARACTERS: Final = 2_000

# A takeover is waited for in nearly every run: with the default of 10 s nobody would.
LEASE: Final[Mapping[str, str]] = {
    "EVENTSAGA_LEASE": "1.5",
    "EVENTSAGA_HEARTBEAT": "0.3",
    "EVENTSAGA_LEASE_MARGIN": "0.3",
    "EVENTSAGA_POLL": "0.1",
    "EVENTSAGA_DRAIN_TIMEOUT": "5",
}
# Of another database, or another's failpoints.
_NOT_OURS: Final = frozenset({"EVENTSAGA_FAILPOINTS", "EVENTSAGA_SCHEMA", "EVENTSAGA_POOLER"})


def environment_for(database_url: str) -> dict[str, str]:
    """Return the variables of a worker for the scratch database at *database_url*."""
    kept = {name: value for name, value in os.environ.items() if name not in _NOT_OURS}
    # What can be imported here can be imported there; a test runner adds folders.
    path = os.pathsep.join(folder for folder in sys.path if folder)
    return {**kept, **LEASE, "PYTHONPATH": path, "EVENTSAGA_DATABASE_URL": database_url}


@dataclass(slots=True)
class WorkerProcess:
    """A worker process, from `spawn` to `end`.

    Attributes:
        process: The process itself.
        passings: The failpoints that it said it came by.
        struck: Set when its fault has struck.
        held: Set when it waits for the cancellation of its saga.
        ended: Set when it is gone.
    """

    process: asyncio.subprocess.Process
    _said: IO[bytes]
    passings: list[Passing] = field(default_factory=list[Passing])
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    open: asyncio.Event = field(default_factory=asyncio.Event)
    struck: asyncio.Event = field(default_factory=asyncio.Event)
    held: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    _reading: asyncio.Task[None] | None = None

    @classmethod
    async def spawn(
        cls, module: str, database_url: str, recorder_url: str, points: Sequence[Point] = ()
    ) -> "WorkerProcess":
        """Start a process that imports *module* and then waits for `go`."""
        # A file, because a pipe that nobody reads fills up.
        said = tempfile.TemporaryFile()  # noqa: SIM115 - closed in end()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "eventsaga.drill.worker",
            env=environment_for(database_url),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=said,
            # Ctrl-C is for us.
            start_new_session=True,
        )
        order = {
            "module": module,
            "recorder": recorder_url,
            "points": [point.to_json() for point in points],
        }
        worker = cls(process, said)
        worker._tell(json.dumps(order))
        worker._reading = asyncio.ensure_future(worker._read())
        return worker

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    async def go(self) -> None:
        """Let it take sagas, once it has imported what it needs.

        Raises:
            WorkerEndedError: If it does not get as far.
        """
        try:
            async with asyncio.timeout(_START_SECONDS):
                await first_of(self.ready, self.ended)
        except TimeoutError:
            raise WorkerEndedError(f"a worker does not start: {self.complaint()}") from None
        self.require_running()
        self._tell("go")

    def resume(self) -> None:
        """Let it go on if it is stopped."""
        self._signal(signal.SIGCONT)

    async def drain(self) -> None:
        """Tell it to stop in order, and return when it is gone."""
        self._signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_SECONDS):
                await self.ended.wait()
        await self.end()

    async def end(self) -> None:
        """Kill it if it is still there. May be called at any time, and again."""
        self._signal(signal.SIGKILL)
        if self._reading is not None:
            await self._reading
            self._reading = None
            self._said.close()

    def require_running(self) -> None:
        """Raise if it is gone.

        Raises:
            WorkerEndedError: If it is.
        """
        if self.ended.is_set():
            raise WorkerEndedError(
                f"a worker ended with {self.process.returncode}: {self.complaint()}"
            )

    def complaint(self) -> str:
        """Return the end of what it said."""
        self._said.seek(0)
        return self._said.read().decode(errors="replace").strip()[-_COMPLAINT_CHARACTERS:]

    def _tell(self, line: str) -> None:
        assert self.process.stdin is not None, "it was started with a pipe"
        self.process.stdin.write(f"{line}\n".encode())

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    async def _read(self) -> None:
        assert self.process.stdout is not None, "it was started with a pipe"
        async for line in self.process.stdout:
            self._hear(json.loads(line))
        await self.process.wait()
        self.ended.set()

    def _hear(self, said: Mapping[str, Any]) -> None:
        match said["event"]:
            case "passed":
                self.passings.append(Passing(said["place"], said["text"]))
            case "ready" | "open" | "struck" | "held" as event:
                getattr(self, event).set()
            case _:
                pass


async def first_of(*events: asyncio.Event) -> None:
    """Return when one of *events* is set."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()

"""How are all four started, and stopped for certain?"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Final

from eventsaga.errors import EventSagaError

SERVICE_NAMES: Final = ("orders", "inventory", "payments", "shipping")

_STOP_SECONDS: Final = 5.0


class ServiceStartError(EventSagaError):
    """A demo service did not start; the message holds what it said.

    Attributes:
        service: Which one.
        reason: How it ended, and its standard error.
    """

    def __init__(self, service: str, reason: str) -> None:
        super().__init__(service, reason)
        self.service = service
        self.reason = reason

    def __str__(self) -> str:
        return f"the demo service {self.service!r} did not start: {self.reason}"


@dataclass(frozen=True, slots=True)
class RunningService:
    """A service that takes requests.

    Attributes:
        name: Such as ``payments``.
        url: Its base URL, without a slash at the end.
        pid: Its process.
    """

    name: str
    url: str
    pid: int


@dataclass(frozen=True, slots=True)
class RunningServices:
    """All four."""

    orders: RunningService
    inventory: RunningService
    payments: RunningService
    shipping: RunningService

    @property
    def urls(self) -> dict[str, str]:
        """The base URLs by name."""
        return {name: getattr(self, name).url for name in SERVICE_NAMES}


@contextlib.asynccontextmanager
async def running_services(
    database_url: str, *, latency: float = 0.0, slow: float = 3.0, start_timeout: float = 30.0
) -> AsyncGenerator[RunningServices]:
    """Run the four services while the block runs, each in a process of its own.

    They end with the block; if this process is killed, within a fraction of a second after it.

    Args:
        database_url: PostgreSQL, in which each has a schema.
        latency: Seconds added to each unsafe request: half on the way in, half on the way out.
        slow: Seconds that a request with a ``…_slow`` value takes.
        start_timeout: Seconds that all of them together may take to start.

    Raises:
        ServiceStartError: If one of them does not start; the others are stopped.
    """
    arguments = ("--latency", str(latency), "--slow", str(slow))
    processes = {name: _Process(name, database_url, arguments) for name in SERVICE_NAMES}
    try:
        yield RunningServices(**await _start_all(processes, start_timeout))
    finally:
        await asyncio.gather(*(process.stop() for process in processes.values()))


async def _start_all(
    processes: Mapping[str, "_Process"], seconds: float
) -> dict[str, RunningService]:
    try:
        async with asyncio.TaskGroup() as group:
            tasks = {
                name: group.create_task(process.start(seconds))
                for name, process in processes.items()
            }
    except* ServiceStartError as failures:
        first = failures.exceptions[0]
    else:
        return {name: task.result() for name, task in tasks.items()}
    raise first


class _Process:
    """The process of one service, from `start` to `stop`."""

    def __init__(self, name: str, database_url: str, arguments: Sequence[str]) -> None:
        self._name = name
        self._arguments = ["-m", "eventsaga.demo.services", name, *arguments]
        # Not an argument: everybody can read those, and a URL may hold a password.
        self._environment = {**os.environ, "EVENTSAGA_DATABASE_URL": database_url}
        # A file, because a pipe that nobody reads fills up.
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in stop()
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, seconds: float) -> RunningService:
        """Start it and return where it is, once it takes requests."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *self._arguments,
            "--parent-pid",
            str(os.getpid()),
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=self._stderr,
            # Ctrl-C is for us: we stop the services when nobody needs them any more.
            start_new_session=True,
        )
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(seconds):
                line = await self._process.stdout.readline()
                if not line:
                    code = await self._process.wait()
                    raise ServiceStartError(self._name, f"exit code {code}\n{self._complaint()}")
        except TimeoutError as error:
            said = self._complaint()
            raise ServiceStartError(self._name, f"not ready in {seconds:g} s\n{said}") from error
        announced = json.loads(line)
        return RunningService(announced["service"], announced["url"], announced["pid"])

    async def stop(self) -> None:
        """Stop it, by force if it does not stop by itself."""
        process = self._process
        if process is not None:
            _signal(process, signal.SIGTERM)
            try:
                async with asyncio.timeout(_STOP_SECONDS):
                    await process.communicate()
            except TimeoutError:
                _signal(process, signal.SIGKILL)
                await process.communicate()
        self._stderr.close()

    def _complaint(self) -> str:
        self._stderr.seek(0)
        return self._stderr.read().decode(errors="replace").strip()


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)

"""Who does the work? A real worker process, ``eventsaga worker``, that can really be killed."""

import asyncio
import os
import signal
import sys
import tempfile
from datetime import datetime
from typing import IO, Final

from eventsaga.demo.order import ServiceUrls
from eventsaga.demo.orphan import PARENT
from eventsaga.demo.place import Connection
from eventsaga.errors import EventSagaError
from eventsaga.settings import Settings

COMMAND: Final = ("-m", "eventsaga", "worker", "eventsaga.demo.app:orchestrator")

# The takeover of a dead worker's sagas is waited for: with the default of 10 s one would wait
# longer, and see nothing else.
LEASE_ENVIRONMENT: Final = {
    "EVENTSAGA_LEASE": "3",
    "EVENTSAGA_HEARTBEAT": "1",
    "EVENTSAGA_LEASE_MARGIN": "0.5",
    "EVENTSAGA_POLL": "0.25",
    "EVENTSAGA_DRAIN_TIMEOUT": "5",
}
SETTINGS: Final = Settings.from_environment(LEASE_ENVIRONMENT)

_START_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.05
_COMPLAINT_CHARACTERS: Final = 3_000

_HAS_LEASE: Final = """
SELECT EXISTS (SELECT FROM eventsaga.workers
                WHERE pid = $1 AND started_at >= $2 AND lease_until > clock_timestamp())
"""


class WorkerEndedError(EventSagaError):
    """The worker process of the demo did not start, or ended by itself; says what it said."""


class WorkerProcess:
    """A worker process, from `start` to `kill` or `stop`.

    Args:
        database_url: Where the sagas are.
        urls: Where the services are.
    """

    def __init__(self, database_url: str, urls: ServiceUrls) -> None:
        self._environment = {
            # What is set for another orchestrator is not meant for this one.
            **{k: v for k, v in os.environ.items() if not k.startswith("EVENTSAGA_")},
            **LEASE_ENVIRONMENT,
            **urls.to_environment(),
            "EVENTSAGA_DATABASE_URL": database_url,
            PARENT: str(os.getpid()),
        }
        # A file, because a pipe that nobody reads fills up.
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in stop()
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None, "it was not started"
        return self._process.pid

    async def start(self, db: Connection) -> None:
        """Start it and return once it has its lease.

        Raises:
            WorkerEndedError: If that does not come about.
        """
        before: datetime = await db.fetchval("SELECT clock_timestamp()")
        await self.spawn()
        try:
            async with asyncio.timeout(_START_SECONDS):
                while not await db.fetchval(_HAS_LEASE, self.pid, before):
                    self.require_running()
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError as error:
            raise WorkerEndedError(
                f"the worker has no lease after {_START_SECONDS:g} s: {self._complaint()}"
            ) from error

    async def spawn(self) -> None:
        """Start it and return at once."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *COMMAND,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=self._said,
            stderr=self._said,
            # Ctrl-C is for us: the worker is stopped before the services are.
            start_new_session=True,
        )

    def require_running(self) -> None:
        """Raise if the process has ended by itself.

        Raises:
            WorkerEndedError: If it has.
        """
        if self._process is not None and self._process.returncode is not None:
            raise WorkerEndedError(
                f"the worker process ended with {self._process.returncode}: {self._complaint()}"
            )

    async def kill(self) -> None:
        """Send SIGKILL and return once the process is gone."""
        assert self._process is not None, "it was not started"
        self._process.kill()
        await self._process.wait()

    async def stop(self) -> None:
        """Let it drain; by force if that takes too long. May be called at any time."""
        process = self._process
        if process is not None and process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(_STOP_SECONDS):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
        self._said.close()

    def _complaint(self) -> str:
        self._said.seek(0)
        return self._said.read().decode(errors="replace").strip()[-_COMPLAINT_CHARACTERS:]

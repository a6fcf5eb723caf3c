"""Worker processes that are really started, and really killed."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.acceptance.crash.participant import kill

_ROOT = Path(__file__).resolve().parents[3]

LEASE = {
    "EVENTSAGA_LEASE": "2",
    "EVENTSAGA_HEARTBEAT": "0.4",
    "EVENTSAGA_LEASE_MARGIN": "0.4",
    "EVENTSAGA_POLL": "0.2",
    # The tests kill a process far more often than a saga without fault would.
    "EVENTSAGA_POISON_CLAIMS": "1000",
    "EVENTSAGA_DRAIN_TIMEOUT": "5",
}


class Crew:
    """The workers of one test.

    Args:
        database: URL of the test's database.
        participant: URL of the other side.
        folder: Where marks and logs are kept.
        program: Module that a worker runs.
        environment: Variables that stand above those of `LEASE`.
    """

    def __init__(
        self,
        database: str,
        participant: str,
        folder: Path,
        program: str = "tests.acceptance.crash.program",
        **environment: str,
    ) -> None:
        self._folder = folder
        self._program = program
        marks = folder / "marks"
        marks.mkdir()
        self._environment = {
            **os.environ,
            **LEASE,
            **environment,
            "EVENTSAGA_DATABASE_URL": database,
            "CRASH_PARTICIPANT": participant,
            "CRASH_MARKS": str(marks),
        }
        self._watchers: list[asyncio.Task[None]] = []
        self.processes: list[asyncio.subprocess.Process] = []

    async def hire(self) -> asyncio.subprocess.Process:
        """Start a worker and return when it works."""
        process = await self.launch()
        assert process.stdout is not None
        async with asyncio.timeout(30):
            line = await process.stdout.readline()
        assert line == b"ready\n", self.logs()
        return process

    async def launch(self) -> asyncio.subprocess.Process:
        """Start a worker that may never work."""
        log = (self._folder / f"worker-{len(self.processes)}.log").open("wb")
        with log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                self._program,
                cwd=_ROOT,
                env=self._environment,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        self.processes.append(process)
        return process

    async def keep_up(self, workers: int) -> None:
        """Start *workers* workers, and another whenever one dies."""
        self._watchers = [asyncio.create_task(self._replace()) for _ in range(workers)]

    async def _replace(self) -> None:
        while True:
            # It may be killed while it starts: then the next one tries.
            with contextlib.suppress(AssertionError):
                await self.hire()
            await self.processes[-1].wait()

    def logs(self) -> str:
        """Return the ends of all logs, for a message of a failed test."""
        return "\n".join(
            f"--- {path.name}\n{path.read_text()[-2000:]}"
            for path in sorted(self._folder.glob("*.log"))
        )

    async def dismiss(self) -> None:
        """Kill whoever is left."""
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        for process in self.processes:
            if process.returncode is None:
                kill(process.pid)
                await process.wait()


@asynccontextmanager
async def crew(
    database: str, participant: str, folder: Path, **options: str
) -> AsyncGenerator[Crew]:
    """Lend a crew and see that nobody is left behind; *options* are those of `Crew`."""
    members = Crew(database, participant, folder, **options)
    try:
        yield members
    finally:
        await members.dismiss()

"""How do tests use the command line? As people do, by the installed script, or faster.

`run` is the script in a process of its own, which takes a second for its imports alone.
`call` does the same within this process; every command is also run for real somewhere.
"""

import asyncio
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final
from unittest import mock

import asyncpg

from eventsaga.cli import target
from eventsaga.cli.app import app
from tests import pooler

SCRIPT: Final = Path(sys.executable).with_name("eventsaga")
HERE: Final = Path(__file__).parent

# A takeover within a second or two.
QUICK: Final = {
    "EVENTSAGA_HEARTBEAT": "0.3",
    "EVENTSAGA_LEASE": "1.2",
    "EVENTSAGA_LEASE_MARGIN": "0.2",
    "EVENTSAGA_POLL": "0.1",
}


def environment(url: str | None, **more: str) -> dict[str, str]:
    """Return this process's variables without ours, and with the database's URL."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("EVENTSAGA_", "COLUMNS", "NO_COLOR", "FORCE_COLOR"))
    }
    if pooler.WANTED:
        kept["EVENTSAGA_POOLER"] = "1"
    return kept | ({} if url is None else {"EVENTSAGA_DATABASE_URL": url}) | more


class Console:
    """Runs commands against one database.

    Attributes:
        url: The database; None for none.
    """

    def __init__(self, url: str | None, **variables: str) -> None:
        self.url = url
        self._environment = environment(url, **variables)

    def run(
        self, *arguments: str, stdin: str | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [SCRIPT, *arguments],
            cwd=HERE,
            env=self._environment | variables,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def call(
        self, *arguments: str, cwd: Path = HERE, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command within this process."""
        out, err, code = io.StringIO(), io.StringIO(), 0
        with (
            contextlib.chdir(cwd),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            mock.patch.dict(os.environ, self._environment | variables, clear=True),
            mock.patch.dict(target._asked_for, clear=True),
            mock.patch.object(sys, "path", [*sys.path]),
        ):
            try:
                app(list(arguments), prog_name="eventsaga")
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 0
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())

    def answer(self, *arguments: str, code: int = 0) -> str:
        """Return what a command answers; it must end with *code*."""
        done = self.call(*arguments)
        assert done.returncode == code, done.stderr
        return done.stdout

    def json(self, *arguments: str, code: int = 0) -> Any:
        """Return what a command answers with ``--json``; nothing else may be there."""
        return json.loads(self.answer(*arguments, "--json", code=code))

    @contextlib.contextmanager
    def worker(
        self, *arguments: str, module: str = "shop:sagas", **variables: str
    ) -> Generator["WorkerProcess"]:
        """Run a worker until the block ends, and kill it if it is still there."""
        with subprocess.Popen(
            [SCRIPT, "worker", module, *arguments],
            cwd=HERE,
            env=self._environment | QUICK | pooler.worker_role() | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield WorkerProcess(process)
            finally:
                process.kill()


class WorkerProcess:
    """A worker as its supervisor sees it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def until_it_says(self, text: str, *, on_stderr: bool = False) -> str:
        """Return the next line with *text* in it."""
        stream = self._process.stderr if on_stderr else self._process.stdout
        assert stream is not None
        for line in stream:
            if text in line:
                return line
        raise AssertionError(f"the worker ended without saying {text!r}")

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def code(self) -> int:
        """Wait for the end and return the exit code; negative for a signal."""
        return self._process.wait(timeout=60)


def query(url: str, statement: str, *arguments: Any) -> list[Any]:
    """Return the first column of what *statement* finds."""

    async def ask() -> list[Any]:
        connection = await asyncpg.connect(url)
        try:
            return [row[0] for row in await connection.fetch(statement, *arguments)]
        finally:
            await connection.close()

    return asyncio.run(ask())

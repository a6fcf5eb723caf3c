"""How does one look around afterwards? With psql, the command line and a browser."""

import asyncio
import contextlib
import json
import os
import shlex
import sys
from collections.abc import AsyncGenerator
from enum import StrEnum
from pathlib import Path
from uuid import UUID

from rich.console import Console
from rich.text import Text

from eventsaga.demo.place import Place


class After(StrEnum):
    """What happens when all is done: it ends, stays up, or stays up with a dashboard."""

    END = "end"
    STAY = "stay"
    DASHBOARD = "dashboard"


def commands_for(place: Place, saga_id: UUID | None) -> list[str]:
    """Return what to paste into a shell, in order."""
    eventsaga = _eventsaga()
    shown = [] if saga_id is None else [f"{eventsaga} show {saga_id}"]
    return [
        f"export EVENTSAGA_DATABASE_URL={shlex.quote(place.url)}",
        f"{eventsaga} list",
        *shown,
        f"{eventsaga} verify",
        place.psql_command(),
    ]


async def look_around(console: Console, place: Place, saga_id: UUID | None, after: After) -> None:
    """Show the commands and while they work; return at once, or after Ctrl-C or SIGTERM."""
    async with contextlib.AsyncExitStack() as stack:
        console.print()
        if after is After.DASHBOARD:
            with console.status("starting the dashboard…"):
                where = await stack.enter_async_context(_dashboard(place))
            for line in where:
                console.print(Text(line, "bold"), soft_wrap=True)
        if after is After.END:
            console.print(
                "The data stays; the server stops with the last program that uses it. To open it "
                f"in a browser: `{_eventsaga()} demo --dashboard`. "
                f"With `{_eventsaga()} demo --keep` it stays up until Ctrl-C, to look around by:",
                soft_wrap=True,
            )
        else:
            console.print("Everything stays up until Ctrl-C. To look around, in another shell:")
        for command in commands_for(place, saga_id):
            console.print(Text(f"  {command}"), soft_wrap=True)
        if after is not After.END:
            await _stay()


@contextlib.asynccontextmanager
async def _dashboard(place: Place) -> AsyncGenerator[list[str]]:
    """Run a dashboard while the block runs; yield what a person has to know to open it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "eventsaga", "dashboard", "--operator", "--port", "0", "--json"),
        env=os.environ | {"EVENTSAGA_DATABASE_URL": place.url},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        # Ctrl-C is for us: it ends when we do.
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        told = await process.stdout.readline()
        if not told:
            yield ["The dashboard did not start."]
            return
        opened = json.loads(told)
        yield [f"The dashboard is at {opened['url']}", f"Its token is {opened['token']}"]
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _stay() -> None:
    """Return after Ctrl-C or SIGTERM, which is then no interruption."""
    task = asyncio.current_task()
    assert task is not None, "only tasks can stay"
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        task.uncancel()


def _eventsaga() -> str:
    """Return how this installation's command is called from here."""
    program = Path(sys.executable).parent / "eventsaga"
    if not program.exists():
        return shlex.join([sys.executable, "-m", "eventsaga"])
    here = Path.cwd()
    return shlex.quote(str(program.relative_to(here) if program.is_relative_to(here) else program))

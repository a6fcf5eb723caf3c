"""How does one look around afterwards? With psql and the command line, while it is all up."""

import asyncio
import shlex
import sys
from pathlib import Path
from uuid import UUID

from rich.console import Console
from rich.text import Text

from eventsaga.demo.place import Place


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


def tell_how_to_look_around(
    console: Console, place: Place, saga_id: UUID | None, *, keep: bool
) -> None:
    """Show the commands, and say while they work."""
    console.print()
    if keep:
        console.print("Everything stays up until Ctrl-C. To look around, in another shell:")
    else:
        console.print(
            "The data stays; the server stops with the last program that uses it. "
            f"With `{_eventsaga()} demo --keep` it stays up until Ctrl-C, to look around by:",
            soft_wrap=True,
        )
    for command in commands_for(place, saga_id):
        console.print(Text(f"  {command}"), soft_wrap=True)


async def stay() -> None:
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

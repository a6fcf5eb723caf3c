"""How are answers written? As text for people, or as JSON for programs.

What comes out of the database was written by somebody else: characters that would steer a
terminal are shown as escapes. In a pipe, lines are as long as they need to be, and plain.
"""

import io
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, TextIO

import typer

from eventsaga.observe.words import clean, clock, compact_json, duration, instant, plain, some

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

__all__ = [
    "STATUS_STYLES",
    "AsJson",
    "clean",
    "clock",
    "compact_json",
    "duration",
    "grid",
    "instant",
    "note",
    "say",
    "say_json",
    "show",
    "show_with_notes",
    "some",
    "styled",
    "width",
]

_WIDE: Final = 1000
_INDENT: Final = 4

AsJson = Annotated[
    bool, typer.Option("--json", help="Print JSON on standard output, and nothing else.")
]

STATUS_STYLES: Final = {
    "PENDING": "cyan",
    "RUNNING": "cyan",
    "COMPENSATING": "yellow",
    "PARKED": "bold red",
    "COMPLETED": "green",
    "COMPENSATED": "yellow",
    "FAILED": "bold red",
}


def say(text: str = "") -> None:
    """Write a line of the answer."""
    _stdout().write(f"{text}\n")


def note(text: str) -> None:
    """Write a line that is not part of the answer."""
    print(text, file=sys.stderr)  # noqa: T201 - this is a command line


def say_json(value: Any) -> None:
    """Write *value* as one line of JSON, at once; instants as ISO 8601, ids as text."""
    _stdout().write(json.dumps(value, default=plain) + "\n")
    _stdout().flush()


def show(renderable: "RenderableType") -> None:
    """Write a table or a styled text, as wide as the terminal."""
    for line in _rendered(renderable):
        say(line)


def show_with_notes(table: "Table", notes: "Sequence[Text]") -> None:
    """Write *table*, whose rows take a line each, with a note below each of its last rows.

    Where there is no room beside a row, what belongs to it goes below.
    """
    from rich.padding import Padding

    lines = _rendered(table)
    headings = len(lines) - len(notes)
    for line in lines[:headings]:
        say(line)
    for line, text in zip(lines[headings:], notes, strict=True):
        say(line)
        if text:
            show(Padding(text, (0, 0, 0, _INDENT)))


def width() -> int:
    """Return how many characters a line may have."""
    return _console().width


def _rendered(renderable: "RenderableType") -> list[str]:
    console = _console()
    with console.capture() as captured:
        console.print(renderable)
    return [line.rstrip() for line in captured.get().splitlines()]


def _console() -> "Console":
    from rich.console import Console

    out = _stdout()
    free = not out.isatty() and "COLUMNS" not in os.environ
    return Console(file=out, width=_WIDE if free else None, highlight=False, markup=False)


def grid(*, columns: int) -> "Table":
    """Return a table without lines; the last column takes what is left and may fold."""
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    for _ in range(columns - 1):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table


def styled(text: str, style: str = "") -> "Text":
    """Return *text* for a table, harmless to terminals."""
    from rich.text import Text

    return Text(clean(text), style)


def _stdout() -> TextIO:
    # It is None if the shell closed it.
    return sys.stdout or io.StringIO()

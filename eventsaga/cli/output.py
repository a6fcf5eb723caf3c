"""How are answers written? As text for people, or as JSON for programs.

What comes out of the database was written by somebody else: characters that would steer a
terminal are shown as escapes. In a pipe, lines are as long as they need to be, and plain.
"""

import io
import json
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final, TextIO

import typer

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

_WIDE: Final = 1000
_INDENT: Final = 4
_MOST_NAMES: Final = 10

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
    _stdout().write(json.dumps(value, default=_plain) + "\n")
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


def clean(text: str) -> str:
    """Return *text* without characters that steer a terminal: they become escapes."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def instant(at: datetime) -> str:
    """Return *at* to the millisecond, in UTC."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03d} UTC"


def clock(at: datetime) -> str:
    """Return the time of day of *at* to the millisecond, in UTC."""
    return f"{at.astimezone(UTC):%H:%M:%S}.{at.microsecond // 1000:03d}"


def duration(delta: timedelta) -> str:
    """Return *delta* in the two units that matter."""
    seconds = delta.total_seconds()
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def some(names: Iterable[str]) -> str:
    """Return *names* in a row, or the first ones and how many there are besides."""
    named = list(names)
    more = [f"… and {len(named) - _MOST_NAMES:,} more"] if len(named) > _MOST_NAMES else []
    return ", ".join([*named[:_MOST_NAMES], *more])


def compact_json(value: Any) -> str:
    """Return *value* as JSON for people: on one line, other alphabets as they are."""
    return clean(json.dumps(value, ensure_ascii=False, default=_plain))


def _stdout() -> TextIO:
    # It is None if the shell closed it.
    return sys.stdout or io.StringIO()


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)

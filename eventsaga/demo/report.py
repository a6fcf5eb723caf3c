"""How is it told? To people as it happens, and to programs as one JSON document at the end."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, cast
from uuid import UUID

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from eventsaga.demo.checks import Check
from eventsaga.demo.timeline import data_of, table_of
from eventsaga.store.ports import StoredEvent

_INDENT: Final = 4
_WIDTH: Final = 120  # where there is no terminal to ask


def console_for(*, as_json: bool) -> Console:
    """Return where people read: standard output, or standard error if a program has that."""
    console = Console(stderr=as_json, highlight=False)
    return (
        console if console.is_terminal else Console(stderr=as_json, highlight=False, width=_WIDTH)
    )


@dataclass
class Scene:
    """What one scene shows, while it is played and afterwards.

    Attributes:
        number: Counts from 1.
        title: What it is about.
        console: Where people read.
        checks: All that was asked.
        measured: Numbers, in seconds where they are times.
        sagas: The sagas that it started.
        timeline: Of one of them.
        answers: Of the SQL that was run.
        seconds: How long it took.
    """

    number: int
    title: str
    console: Console
    checks: list[Check] = field(default_factory=list[Check])
    measured: dict[str, float] = field(default_factory=dict[str, float])
    sagas: list[UUID] = field(default_factory=list[UUID])
    timeline: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    answers: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether everything that was asked came out as it must, and something was asked."""
        return bool(self.checks) and all(check.ok for check in self.checks)

    def say(self, text: str) -> None:
        """Tell people *text*."""
        self.console.print(_indented(Text(text)))

    def measure(self, name: str, value: float, text: str) -> None:
        """Keep a number for programs and tell people *text*, in which it stands."""
        self.measured[name] = round(value, 3)
        self.say(text)

    def check(self, *checks: Check) -> None:
        """Keep *checks*, and tell how they came out."""
        self.checks.extend(checks)
        for check in checks:
            self.console.print(_indented(_checked(check)))

    def show(self, history: Sequence[StoredEvent]) -> None:
        """Show the timeline of a saga."""
        self.timeline = data_of(history)
        self.console.print()
        self.console.print(_indented(table_of(history)))
        self.console.print()

    def ask(self, question: str, command: str) -> None:
        """Show a question and the command that asks it, ready to be pasted."""
        self.console.print()
        self.say(question)
        # Not indented and not wrapped: a shell must be able to read it.
        self.console.print(Text(command, "dim"), soft_wrap=True)

    def answer(self, question: str, sql: str, rows: Sequence[dict[str, Any]]) -> None:
        """Show what the database answered."""
        self.answers.append({"question": question, "sql": sql, "rows": list(rows)})
        text = "(no rows)" if not rows else table_of_rows(rows)
        self.console.print(_indented(text))

    def to_json(self) -> dict[str, Any]:
        """Return what programs are told."""
        return {
            "number": self.number,
            "title": self.title,
            "ok": self.ok,
            "seconds": round(self.seconds, 3),
            "checks": [check.to_json() for check in self.checks],
            "measured": self.measured,
            "sagas": [str(saga_id) for saga_id in self.sagas],
            "timeline": self.timeline,
            "answers": self.answers,
        }


def _indented(what: RenderableType) -> Padding:
    return Padding(what, (0, 0, 0, _INDENT), expand=False)


def _checked(check: Check) -> Text:
    if check.ok:
        return Text.assemble(("✓ ", "bold green"), f"{check.what}: {_brief(check.found)}")
    return Text.assemble(
        ("✗ ", "bold red"),
        f"{check.what}: expected {_brief(check.expected)}, found {_brief(check.found)}",
    )


def _brief(value: Any) -> str:
    """Return *value* as people write it."""
    if value in ([], {}):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        named = cast("dict[str, Any]", value)
        return ", ".join(f"{name} {_brief(part)}" for name, part in named.items())
    if isinstance(value, list):
        parts: list[object] = [*value]  # pyright: ignore[reportUnknownVariableType]
        return ", ".join(map(_brief, parts))
    return f"{value:g}" if isinstance(value, float) else str(value)


def table_of_rows(rows: Sequence[dict[str, Any]]) -> Table:
    """Return the rows of an answer as a table."""
    table = Table(*rows[0], box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    return table


def write_json(document: dict[str, Any]) -> None:
    """Write the one document to standard output."""
    print(json.dumps(document, indent=2, default=_plain), flush=True)  # noqa: T201 - this is the output


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)

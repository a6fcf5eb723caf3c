"""How is a history shown beside its scene? One line an attempt, like ``eventsaga show``."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from eventsaga.demo.printable import printable
from eventsaga.observe.summary import summary
from eventsaga.observe.timeline import timeline
from eventsaga.store.ports import StoredEvent

_STYLES: Final = {
    "succeeded": "green",
    "failed": "red",
    "in doubt": "yellow",
    "taken over": "magenta",
    "goes back": "yellow",
    "parked": "bold red",
    "completed": "bold green",
    "compensated": "yellow",
}


def table_of(history: Sequence[StoredEvent]) -> Table:
    """Return a whole history as a table; times count from the first event."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    for justify in ("right", "left", "left", "right"):
        table.add_column(justify=justify, no_wrap=True)
    table.add_column(overflow="fold")
    start = history[0].event.at
    for line in summary(timeline(history)):
        table.add_row(
            f"+{(line.at - start).total_seconds():.3f} s",
            Text(line.subject, "bold" if line.step is None else ""),
            Text(line.outcome, _STYLES.get(line.outcome, "")),
            "" if line.took is None else f"{line.took.total_seconds():.3f} s",
            Text(printable(line.detail)),
        )
    return table


def data_of(history: Sequence[StoredEvent]) -> list[dict[str, Any]]:
    """Return the same lines as data; instants as ISO 8601."""
    return [asdict(line) for line in timeline(history)]

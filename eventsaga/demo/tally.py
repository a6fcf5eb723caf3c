"""What became of the lines of a file? Counted as they come, told at the end."""

import contextlib
from collections import Counter
from collections.abc import Generator
from typing import Any, Final
from uuid import UUID

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from eventsaga.client import SagaState
from eventsaga.core.state import Status
from eventsaga.demo.lines import Line, Source
from eventsaga.demo.order import OrderRequest
from eventsaga.demo.printable import printable

# It names fields as the file does, and they may be as long as anything.
_LONGEST_REASON: Final = 500
_LINES_BETWEEN_REPORTS: Final = 1_000  # where there is no terminal for a bar


class Tally:
    """Counts lines and endings.

    Args:
        source: Where the lines come from.
        errors: Where bad lines are told of, and progress.

    Attributes:
        bad: Numbers of the bad lines, with the reason of each.
        shown: A saga to look at; the last one that did not complete, if any did not.
    """

    def __init__(self, source: Source, errors: Console) -> None:
        self.bad: list[tuple[int, str]] = []
        self.shown: UUID | None = None
        self._source = source
        self._errors = errors
        self._lines = 0
        self._blank = 0
        self._started = 0
        self._repeated = 0
        self._endings: Counter[str] = Counter()
        self._others: list[dict[str, Any]] = []
        self._bar: tuple[Progress, TaskID] | None = None

    def take(self, line: Line, *, blank: bool) -> None:
        """Count a line that can be read."""
        self._lines = line.number
        self._blank += blank

    def refuse(self, line: Line, reason: str) -> None:
        """Count a bad line, and tell of it at once."""
        self._lines = max(self._lines, line.number)
        reason = printable(reason[:_LONGEST_REASON])
        self.bad.append((line.number, reason))
        self._errors.print(
            Text.assemble((f"{self._source.name}:{line.number}: ", "red"), reason), soft_wrap=True
        )

    def end(self, line: Line, order: OrderRequest, state: SagaState[Any], *, created: bool) -> None:
        """Count an order that was run, now or before."""
        self._started += created
        self._repeated += not created
        self._endings[state.status] += 1
        if state.status is not Status.COMPLETED:
            error = state.error
            self._others.append(
                {
                    "line": line.number,
                    "order_id": order.order_id,
                    "saga_id": str(state.saga_id),
                    "status": str(state.status),
                    "step": error and error.step_name,
                    "message": error and error.message,
                }
            )
        if self.shown is None or state.status is not Status.COMPLETED:
            self.shown = state.saga_id
        self._advance()

    @contextlib.contextmanager
    def progress(self) -> Generator[None]:
        """Show a bar while the block runs, or a line now and then if there is no terminal."""
        if not self._errors.is_terminal:
            yield
            return
        columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=self._errors, transient=True) as bar:
            self._bar = (bar, bar.add_task("", total=self._source.size))
            yield

    def _advance(self) -> None:
        if self._bar is not None:
            bar, task = self._bar
            bar.update(task, completed=self._source.read, description=self._brief())
        elif sum(self._endings.values()) % _LINES_BETWEEN_REPORTS == 0:
            self._errors.print(self._brief())

    def _brief(self) -> str:
        endings = ", ".join(f"{n:,} {status.lower()}" for status, n in self._counts().items() if n)
        return f"{self._lines:,} lines: {endings or 'none ended yet'}, {len(self.bad):,} bad"

    def _counts(self) -> dict[str, int]:
        statuses = (Status.COMPLETED, Status.COMPENSATED, Status.PARKED, Status.FAILED)
        return {status.value: self._endings[status] for status in statuses}

    def tell(self, console: Console, twice: int, seconds: float) -> None:
        """Tell people what became of all lines."""
        for other in sorted(self._others, key=lambda other: int(other["line"])):
            where = f"line {other['line']}, order {other['order_id']}: {other['status']}"
            why = f"{other['step']}: {other['message']}" if other["step"] else other["message"]
            console.print(Text(f"{where}, because of {why}"), soft_wrap=True)
        console.print(f"{self._brief()}; {seconds:.1f} s.")
        console.print(f"{self._started:,} orders were started now.")
        if self._repeated:
            console.print(f"{self._repeated:,} had been started before, and are not started again.")
        console.print(f"Effects that the ledgers have twice: {twice or 'none'}.")

    def to_json(self, twice: int, seconds: float) -> dict[str, Any]:
        """Return what programs are told."""
        return {
            "ok": not self.bad and not twice,
            "source": self._source.name,
            "seconds": round(seconds, 3),
            "lines": self._lines,
            "blank": self._blank,
            "bad": [{"line": number, "reason": reason} for number, reason in sorted(self.bad)],
            "started": self._started,
            "started_before": self._repeated,
            **{name.lower(): count for name, count in self._counts().items()},
            "not_completed": sorted(self._others, key=lambda other: int(other["line"])),
            "effects_applied_twice": twice,
        }

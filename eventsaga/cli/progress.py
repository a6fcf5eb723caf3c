"""How far is it? A bar on standard error, where answers do not go."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventsaga.store.postgres.scan import Progress


class Watched:
    """How far a run is, with or without somebody who watches."""

    def __init__(self, shown: "Progress | None" = None) -> None:
        self.done = 0
        self._shown = shown

    def report(self, done: int, total: int) -> None:
        """Take note of progress."""
        self.done = done
        if self._shown is not None:
            self._shown(done, total)


@contextmanager
def progress(what: str) -> Generator[Watched]:
    """Show a bar on standard error, if a person looks at it."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:
        yield Watched()
        return
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Answers are for standard output, also while the bar is there.
    with Progress(
        *columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False
    ) as bar:
        task = bar.add_task(what, total=None)
        yield Watched(lambda done, total: bar.update(task, completed=done, total=total))

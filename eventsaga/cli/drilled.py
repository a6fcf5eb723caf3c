"""How is a drill told? A table for people, JSON for programs, JUnit's XML for CI servers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from eventsaga.cli.fail import NO, OK, CommandError
from eventsaga.cli.output import clean, compact_json, note, say, say_json, show, styled
from eventsaga.cli.show import show_timeline

if TYPE_CHECKING:
    from rich.table import Table

    from eventsaga.drill import Progress, Report, Result

_MOST_SHOWN: Final = 3
_STYLES: Final = {"ok": "green", "violated": "bold red", "not reached": "yellow"}


def telling(report: Callable[[int, int], None]) -> "Progress":
    """Return what is called after each run: *report*, and a line on standard error if it broke."""

    def told(done: int, total: int, result: "Result") -> None:
        report(done, total)
        if not result.ok:
            note(f"eventsaga: violated: {clean(result.title)}")

    return told


def tell(report: "Report", json_file: Path | None, xml_file: Path | None, *, as_json: bool) -> int:
    """Write what is asked for, and return the exit code.

    Raises:
        CommandError: If a file cannot be written.
    """
    from eventsaga.drill import junit

    if json_file is not None:
        _write(json_file, json.dumps(report.to_json(), default=str, indent=1) + "\n")
    if xml_file is not None:
        _write(xml_file, junit(report))
    if as_json:
        say_json(report.to_json())
    else:
        _tell_people(report)
    return OK if report.ok else NO


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}") from error


def _tell_people(report: "Report") -> None:
    show(_table(report))
    broken = [result for result in report.all if not result.ok]
    for result in broken[:_MOST_SHOWN]:
        say()
        _tell_broken(result)
    if len(broken) > _MOST_SHOWN:
        say(f"… and {len(broken) - _MOST_SHOWN:,} more; --report FILE has them all")
    say()
    for text in report.notes:
        say(clean(text))
    say(_summary(report))


def _table(report: "Report") -> "Table":
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="")
    table.add_column("fault", no_wrap=True)
    table.add_column("outcome", no_wrap=True)
    table.add_column("ended", no_wrap=True)
    table.add_column("s to recover", justify="right", no_wrap=True)
    table.add_column("boundary", overflow="fold")
    for result in report.all:
        case = result.case
        boundary = "" if case is None else case.boundary.title
        if case is not None and case.second is not None:
            boundary += f"; then {case.second.place}"
        table.add_row(
            "none" if case is None else case.mode,
            styled(result.outcome, _STYLES[result.outcome]),
            result.status.lower(),
            "" if result.recovered is None else f"{result.recovered:.2f}",
            styled(boundary),
        )
    return table


def _tell_broken(result: "Result") -> None:
    from eventsaga.drill import keyed

    say(clean(f"{result.title}: saga {result.saga_id} is {result.status}"))
    for finding in result.findings:
        say(clean(f"  {finding.check}: {finding.message}"))
    if result.lines:
        show_timeline(result.lines, verbose=True)
    for one in keyed(result.requests):
        counted = {"requests": one.requests, "effects": one.effects}
        say(clean(f"  {one.key} {compact_json(counted)}"))


def _summary(report: "Report") -> str:
    from eventsaga.drill import Outcome, keyed

    counts = report.counts
    keys = [one for result in report.all for one in keyed(result.requests)]
    most = max((one.effects for one in keys), default=0)
    faults = f"{len(report.results)} faults at {len(report.boundaries)} boundaries"
    parts = [
        f"{report.saga} v{report.version}: {faults} in {report.seconds:.1f} s",
        f"{counts[Outcome.OK]} came through",
    ]
    if counts[Outcome.NOT_REACHED]:
        parts.append(f"{counts[Outcome.NOT_REACHED]} in which a fault did not strike")
    violated = sum(not result.ok for result in report.all)
    parts.append(f"{violated} violated")
    if keys:
        requests = sum(one.requests for one in keys)
        parts.append(f"at most {most} effect per key, of {len(keys)} keys in {requests} requests")
    return "; ".join(parts)

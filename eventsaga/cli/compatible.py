"""Can this code go on with the sagas that are under way? Asked before it is deployed."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eventsaga.cli import target
from eventsaga.cli.fail import NO, OK, CommandError
from eventsaga.cli.module import ModuleArgument, load_bare, sagas_of
from eventsaga.cli.output import AsJson, clean, say, say_json
from eventsaga.cli.progress import progress
from eventsaga.cli.target import DatabaseUrl, Schema

if TYPE_CHECKING:
    from eventsaga.client.compatibility import Group, Report
    from eventsaga.saga import Saga


async def check(
    module: ModuleArgument,
    *,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Histories from `eventsaga history --unfinished --json`, or - for stdin; no "
            "database is needed then.",
            show_default=False,
        ),
    ] = None,
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> int:
    """Replay what is under way against code to be deployed.

    For each definition in use, it says how many sagas are compatible, how many are pinned to
    a version that newer sagas do not have, and how many would break, and why: exit 1 then.
    Nothing is run and nothing is written.

    Example:
      eventsaga check shop.sagas:orchestrator
      eventsaga history --unfinished --json > in-flight.jsonl
      eventsaga check shop.sagas:orchestrator --from in-flight.jsonl
    """
    from eventsaga.client.compatibility import Verdict

    target.aim(database_url, schema)
    report = await _of_the_database(module) if source is None else _of_the_file(module, source)
    if as_json:
        say_json(_as_json(report))
    else:
        _tell(report)
    return NO if report.count(Verdict.BREAKS) else OK


async def _of_the_database(module: str) -> "Report":
    from eventsaga.client.compatibility import Code, Report
    from eventsaga.store.postgres.shapes import all_recorded
    from eventsaga.store.postgres.unfinished import unfinished

    report = Report()
    orchestrator, sagas = load_bare(module)
    async with orchestrator:
        code = Code(sagas, await all_recorded(orchestrator.store))
        with progress("checking") as watched:
            histories = unfinished(orchestrator.store, watched.report)
            async with aclosing(histories):
                async for records in histories:
                    report.add(code.judge(records))
    return report


def _of_the_file(module: str, source: str) -> "Report":
    from eventsaga.client.compatibility import Code, Report, read_export

    report = Report()
    code = Code(_with_children(sagas_of(module)))
    try:
        for exported in read_export(_lines(source)):
            code.learn_shape(exported)
            report.add(code.judge(exported.records))
    except OSError as error:
        raise CommandError(f"{source} cannot be read: {error.strerror}") from error
    except UnicodeError as error:
        raise CommandError(f"{source} is not UTF-8 text") from error
    except ValueError as error:
        raise CommandError(f"{source}: {error}") from error
    return report


def _with_children(sagas: "Sequence[Saga[Any]]") -> "Sequence[Saga[Any]]":
    from eventsaga.saga import with_children

    return with_children(sagas)


def _lines(source: str) -> Iterator[str]:
    if source == "-":
        yield from sys.stdin
        return
    with Path(source).open(encoding="utf-8") as file:
        yield from file


def _tell(report: "Report") -> None:
    for group in report.groups:
        reason = f": {clean(group.reason)}" if group.reason else ""
        say(f"{_named(group)}: {group.sagas:,} {group.verdict}{reason}")
        if group.must_be_named:
            more = group.sagas - len(group.ids)
            rest = [f"… and {more:,} more"] if more else []
            say(f"    {' '.join([*map(str, group.ids), *rest])}")
    parts = [f"{count:,} {verdict}" for verdict, count in report.totals.items()]
    count = sum(report.totals.values())
    noun = "unfinished saga" if count == 1 else "unfinished sagas"
    say(f"{count:,} {noun}: {', '.join(parts)}" if count else "no unfinished saga")


def _named(group: "Group") -> str:
    if group.definition is None:
        return "unreadable"
    name, version, fingerprint = group.definition
    return clean(f"{name} v{version} ({fingerprint[:8]})")


def _as_json(report: "Report") -> dict[str, Any]:
    totals = {verdict.replace(" ", "_"): count for verdict, count in report.totals.items()}
    return {
        "ok": not totals["would_break"],
        "sagas": sum(totals.values()),
        **totals,
        "groups": [_group_as_json(group) for group in report.groups],
    }


def _group_as_json(group: "Group") -> dict[str, Any]:
    name, version, fingerprint = group.definition or (None, None, None)
    return {
        "name": name,
        "version": version,
        "fingerprint": fingerprint,
        "verdict": group.verdict.replace(" ", "_"),
        "reason": group.reason,
        "sagas": group.sagas,
        "ids": group.ids,
    }

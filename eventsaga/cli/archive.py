"""Where do sagas go that ended long ago? Into an archive, and back again."""

import re
from collections.abc import Mapping
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from eventsaga.cli import target
from eventsaga.cli.fail import NO, OK, CommandError
from eventsaga.cli.output import AsJson, clean, note, say, say_json
from eventsaga.cli.progress import progress
from eventsaga.cli.target import DatabaseUrl, Schema

if TYPE_CHECKING:
    from eventsaga.store.postgres.archive import Destination
    from eventsaga.store.postgres.store import PostgresStore

_AGE: Final = re.compile(r"([0-9]{1,6})(s|min|h|d)")
_UNITS: Final = {"s": "seconds", "min": "minutes", "h": "hours", "d": "days"}


async def archive(
    *,
    older_than: Annotated[
        str,
        typer.Option(
            "--older-than", metavar="AGE", help="Since the last event: 90d, 12h, 30min, 0s."
        ),
    ],
    file: Annotated[
        Path | None,
        typer.Option("--to", metavar="FILE", help="Made, or added to.", show_default=False),
    ] = None,
    table: Annotated[
        str | None,
        typer.Option(
            "--to-table",
            metavar="TABLE",
            help="In this database, such as archived_events.",
            show_default=False,
        ),
    ] = None,
    ignore_feeds: Annotated[
        bool,
        typer.Option("--ignore-feeds", help="Also what consumers of the feed have not read."),
    ] = False,
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> int:
    """Move sagas that ended long ago into a file or a table.

    Only what has ended and owes nothing: no hook, no answer, no parent or child that is under
    way. What a consumer of the feed has not read is left alone, and counted. A batch is on the
    disk before it is removed; after a crash, run the same command again. A saga whose history
    is broken stays where it is: exit 1.

    Its start key stays taken. `eventsaga verify FILE` checks a file, `eventsaga import FILE`
    brings it back.

    Example:
      eventsaga archive --older-than 90d --to sagas-2026.jsonl.gz
      eventsaga archive --older-than 365d --to-table archived_events
    """
    if (file is None) == (table is None):
        raise CommandError("where to? Give --to FILE or --to-table TABLE")
    from eventsaga.store.archive.file import ArchiveFile
    from eventsaga.store.postgres.archive import IntoFile, IntoTable, held_for

    age = _age(older_than)
    target.aim(database_url, schema)
    async with target.opened() as orchestrator:
        store = orchestrator.store
        if table is not None:
            into = IntoTable(table, store.settings.schema)
            done = await _archived(store, into, age, ignore_feeds=ignore_feeds)
        else:
            assert file is not None
            with ArchiveFile(file) as opened:
                done = await _archived(store, IntoFile(opened), age, ignore_feeds=ignore_feeds)
        held = {} if ignore_feeds else await held_for(store, age)
    if as_json:
        say_json({**done, "held_for": held})
    else:
        _tell(done, held)
    return NO if done["refused"] else OK


async def _archived(
    store: "PostgresStore", into: "Destination", age: timedelta, *, ignore_feeds: bool
) -> dict[str, Any]:
    from eventsaga.store.postgres.archive import archive as moving

    done: dict[str, Any] = {"sagas": 0, "events": 0, "refused": []}
    with progress("archiving") as watched:
        outcomes = moving(store, into, older_than=age, ignore_feeds=ignore_feeds)
        async with aclosing(outcomes):
            async for outcome in outcomes:
                done["sagas"] += outcome.sagas
                done["events"] += outcome.events
                done["refused"] += [
                    {"saga_id": each.saga_id, "seq": each.seq, "message": each.message}
                    for each in outcome.refused
                ]
                watched.report(done["sagas"], done["sagas"])
    return done


def _tell(done: Mapping[str, Any], held: Mapping[str, int]) -> None:
    say(f"{done['sagas']:,} sagas with {done['events']:,} events were archived")
    for consumer, sagas in held.items():
        say(f"{sagas:,} wait until {consumer} has read them (--ignore-feeds does not wait)")
    for refused in done["refused"]:
        where = "" if refused["seq"] is None else f", event {refused['seq']}"
        message = clean(refused["message"])
        note(f"eventsaga: {refused['saga_id']} is left alone{where}: {message}")


def _age(text: str) -> timedelta:
    match = _AGE.fullmatch(text)
    if match is None:
        raise CommandError(f"--older-than {text!r} is not a number with s, min, h or d: 90d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


async def bring_back(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="From `eventsaga archive`.")],
    *,
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> int:
    """Bring the sagas of an archive back into the tables.

    The file is checked first, as `eventsaga verify FILE` does; if anything in it is not as it
    was written, nothing is imported. What is there already is left alone, so it does no harm
    twice. Consumers of the feed are not told again.

    Example:
      eventsaga import sagas-2026.jsonl.gz
    """
    from eventsaga.store.postgres.bring_back import bring_back as bringing

    target.aim(database_url, schema)
    async with target.opened() as orchestrator:
        with progress("importing") as watched:
            brought = await bringing(orchestrator.store, file, watched.report)
    if as_json:
        say_json(brought._asdict())
    else:
        known = f"; {brought.known:,} were there already" if brought.known else ""
        say(f"{brought.sagas:,} sagas with {brought.events:,} events were imported{known}")
    return OK

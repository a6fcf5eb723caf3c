"""What is stored of a saga, event by event? Also of those that nobody can read any more."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eventsaga.cli import ids, target
from eventsaga.cli.fail import OK, CommandError
from eventsaga.cli.output import AsJson, grid, instant, say_json, show, styled
from eventsaga.cli.progress import progress
from eventsaga.cli.target import DatabaseUrl, Schema

if TYPE_CHECKING:
    from eventsaga.client.compatibility import Shape
    from eventsaga.store.examine import EventRecord
    from eventsaga.store.postgres.store import PostgresStore


async def history(
    saga_id: Annotated[
        str | None,
        typer.Argument(
            metavar="ID",
            help=ids.HELP,
            show_default=False,
        ),
    ] = None,
    *,
    unfinished: Annotated[
        bool,
        typer.Option("--unfinished", help="All sagas that have not ended, oldest first."),
    ] = False,
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> int:
    """Print events as they are stored.

    Those of one saga, or of all unfinished ones. With --json one object a line. What
    --unfinished prints so is what `eventsaga check` reads with --from; the first event of
    each definition has its shape beside it, as "graph".

    Example:
      eventsaga history 01a205d7 --json | jq -c '[.seq, .type]'
      eventsaga history --unfinished --json > in-flight.jsonl
    """
    if unfinished == (saga_id is not None):
        raise CommandError("whose history? Give an ID, or --unfinished")
    target.aim(database_url, schema)
    async with target.opened() as orchestrator:
        store = orchestrator.store
        histories = _all(store) if saga_id is None else _one(store, saga_id)
        async with aclosing(histories):
            async for records, shape in histories:
                if as_json:
                    _say_records(records, shape)
                else:
                    _show_records(records, named=unfinished)
    return OK


_Histories = AsyncGenerator[tuple["list[EventRecord]", "Shape | None"]]


async def _one(store: "PostgresStore", saga_id: str) -> _Histories:
    from eventsaga.store.postgres.scan import Statements, read_events

    found = await ids.find(store, saga_id)
    async with store.connection() as connection:
        records = await read_events(connection, Statements.of(store), found)
    yield records, None


async def _all(store: "PostgresStore") -> _Histories:
    from eventsaga.client.compatibility import definition_of
    from eventsaga.store.postgres.shapes import all_recorded
    from eventsaga.store.postgres.unfinished import unfinished

    shapes = await all_recorded(store)
    with progress("exporting") as watched:
        histories = unfinished(store, watched.report)
        async with aclosing(histories):
            async for records in histories:
                key = definition_of(records)
                yield records, None if key is None else shapes.pop(key, None)


def _show_records(records: "list[EventRecord]", *, named: bool) -> None:
    if named:
        show(styled(str(records[0].saga_id), "bold"))
    table = grid(columns=4)
    for record in records:
        at = "time out of range" if record.occurred_at is None else instant(record.occurred_at)
        cells = (str(record.seq), at, record.type, record.data or "")
        table.add_row(*(styled(cell) for cell in cells))
    show(table)


def _say_records(records: "list[EventRecord]", shape: "Shape | None") -> None:
    for number, record in enumerate(records):
        beside = {} if shape is None or number else {"graph": shape}
        say_json(record_as_json(record) | beside)


def record_as_json(record: "EventRecord") -> dict[str, Any]:
    """Return an event as all commands print it."""
    return {
        **record._asdict(),
        "data": _parsed(record.data),
        "salt": None if record.salt is None else record.salt.hex(),
        "hash": record.hash.hex(),
    }


def _parsed(text: str | None) -> Any:
    """Return the data that *text* stands for; the text itself if nobody can tell."""
    from eventsaga.wire.payload import load

    try:
        return None if text is None else load(text)
    except ValueError:
        return text

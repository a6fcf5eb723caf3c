"""Who is told what happened? A consumer in a pipe, and how far all of them are."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from eventsaga.cli import target
from eventsaga.cli.fail import NO, OK, CommandError
from eventsaga.cli.history import record_as_json
from eventsaga.cli.output import AsJson, clean, grid, instant, say, say_json, show, styled
from eventsaga.cli.target import DatabaseUrl, Schema

if TYPE_CHECKING:
    from eventsaga.client import Batch, Feed
    from eventsaga.store.postgres.store import PostgresStore


async def feed(
    consumer: Annotated[
        str | None,
        typer.Argument(
            metavar="CONSUMER", help="Who reads; without it, list them all.", show_default=False
        ),
    ] = None,
    *,
    once: Annotated[bool, typer.Option("--once", help="End when all was read.")] = False,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Wait for more, until SIGTERM or SIGINT.")
    ] = False,
    forget: Annotated[
        bool, typer.Option("--forget", help="Forget the consumer and how far it is.")
    ] = False,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=100_000, help="Events in a batch at most.")
    ] = 500,
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> int:
    """Print every committed event once, those of a saga in order.

    A new consumer begins with the first event there is. How far it is, is kept in the database;
    a batch counts as read when it was written to standard output, so what a crash cut off comes
    again. With --json one object a line, as `eventsaga history` prints them. One process at a
    time reads for a consumer: with --follow others wait to take over, with --once they exit 1.

    Example:
      eventsaga feed billing --follow --json | ./to-the-warehouse
      eventsaga feed
      eventsaga feed billing --forget
    """
    if consumer is None and not (once or follow or forget):
        return await _list(database_url, schema, as_json=as_json)
    if consumer is None or once + follow + forget != 1:
        raise CommandError("give a CONSUMER and one of --once, --follow and --forget")
    target.aim(database_url, schema)
    async with target.opened() as orchestrator:
        if forget:
            return await _forget(orchestrator.store, consumer, as_json=as_json)
        try:
            read = orchestrator.feed(consumer, limit=limit)
        except ValueError as error:
            raise CommandError(str(error)) from error
        async with read:
            await (_until_told(read, as_json=as_json) if follow else _once(read, as_json=as_json))
    return OK


async def _once(feed: "Feed", *, as_json: bool) -> None:
    while batch := await feed.take():
        await _pass_on(batch, as_json=as_json)


async def _until_told(feed: "Feed", *, as_json: bool) -> None:
    from eventsaga.client.stop import stop_signal

    async def go_on() -> None:
        async for batch in feed:
            await _pass_on(batch, as_json=as_json)

    with stop_signal() as told:
        reading = asyncio.ensure_future(go_on())
        await asyncio.wait((told, reading), return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            reading.cancel()
            await asyncio.wait((reading,))
        if not reading.cancelled():
            await reading


async def _pass_on(batch: "Batch", *, as_json: bool) -> None:
    for record in batch.records:
        if as_json:
            say_json(record_as_json(record))
        else:
            say(clean(f"{record.saga_id} {record.seq} {record.type} {record.data or ''}"))
    # Whoever reads the pipe has it, or this raises.
    _flush()
    await batch.commit()


def _flush() -> None:
    import sys

    if sys.stdout is not None:
        sys.stdout.flush()


async def _list(database_url: str | None, schema: str | None, *, as_json: bool) -> int:
    from eventsaga.store.postgres.feed import MOST_COUNTED, standings

    target.aim(database_url, schema)
    async with target.opened() as orchestrator:
        found = await standings(orchestrator.store)
    if as_json:
        say_json([standing._asdict() for standing in found])
        return OK
    table = grid(columns=4)
    for standing in found:
        more = "more than " if standing.unread == MOST_COUNTED else ""
        cells = (
            standing.consumer,
            instant(standing.updated_at),
            "reading" if standing.is_held else "",
            f"{more}{standing.unread:,} unread",
        )
        table.add_row(*(styled(cell) for cell in cells))
    show(table)
    return OK


async def _forget(store: "PostgresStore", consumer: str, *, as_json: bool) -> int:
    from eventsaga.store.postgres.feed import forget

    was_there = await forget(store, consumer)
    if as_json:
        say_json({"consumer": consumer, "forgotten": was_there})
    else:
        say(clean(f"{consumer} is forgotten" if was_there else f"there is no consumer {consumer}"))
    return OK if was_there else NO

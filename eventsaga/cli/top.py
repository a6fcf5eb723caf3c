"""How is it going? Rates, what is in flight, what waits, and who works: a live view."""

import asyncio
import sys
from dataclasses import asdict, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from eventsaga.cli import target
from eventsaga.cli.fail import OK
from eventsaga.cli.output import (
    STATUS_STYLES,
    AsJson,
    duration,
    grid,
    say_json,
    show,
    styled,
)
from eventsaga.cli.target import DatabaseUrl, Schema

if TYPE_CHECKING:
    from rich.console import RenderableType

    from eventsaga.store.postgres.overview import Overview


async def top(
    *,
    once: Annotated[bool, typer.Option("--once", help="Look once, and end.")] = False,
    every: Annotated[
        float,
        typer.Option("--every", metavar="SECONDS", min=0.2, help="Between two looks."),
    ] = 2.0,
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> int:
    """Watch rates, what is in flight or waits, and who works.

    Ends with Ctrl-C. In a pipe, and with --json, it looks once.

    Example:
      eventsaga top
      eventsaga top --once --json | jq .by_status
    """
    from eventsaga.store.postgres.overview import overview

    target.aim(database_url, schema)
    async with target.opened() as orchestrator:

        async def look() -> "Overview":
            found = await overview(orchestrator.store)
            return replace(found, workers=[worker for worker in found.workers if worker.lives])

        if as_json:
            say_json(asdict(await look()))
        elif once or not sys.stdout.isatty():
            show(_picture(await look()))
        else:
            from rich.live import Live

            with Live(_picture(await look()), screen=True, auto_refresh=False) as live:
                while True:
                    await asyncio.sleep(every)
                    live.update(_picture(await look()), refresh=True)
    return OK


def _picture(look: "Overview") -> "RenderableType":
    from rich.console import Group
    from rich.table import Table

    from eventsaga.store.postgres.overview import STATUSES

    facts = grid(columns=2)
    facts.add_row("last minute", f"{look.started:,} started, {look.ended:,} ended")
    facts.add_row("", f"{look.failed:,} attempts failed")
    for status in STATUSES:
        style = STATUS_STYLES[status] if look.by_status.get(status) else "dim"
        facts.add_row(styled(status, style), f"{look.by_status.get(status, 0):,}")
    facts.add_row(styled("in doubt", "yellow" if look.in_doubt else "dim"), f"{look.in_doubt:,}")
    if look.oldest is not None:
        age = duration(max(look.at, look.oldest["created_at"]) - look.oldest["created_at"])
        facts.add_row("oldest", styled(f"{look.oldest['name']}, {age}, {look.oldest['saga_id']}"))
    workers = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    workers.add_column("WORKER", overflow="fold")
    for title in ("PID", "SAGAS", "LEASE", "SINCE"):
        workers.add_column(title, no_wrap=True, justify="right")
    for worker in look.workers:
        workers.add_row(
            styled(worker.host),
            str(worker.pid),
            f"{worker.sagas:,}",
            duration(max(worker.lease_left, timedelta())),
            duration(max(look.at, worker.started_at) - worker.started_at),
        )
    nobody = styled("no worker lives", "bold red")
    return Group(facts, styled(""), workers if look.workers else nobody)

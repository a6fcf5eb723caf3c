"""How is a saga asked to stop and go back?"""

import getpass
import socket
from typing import Annotated

import typer

from eventsaga.cli import ids, target
from eventsaga.cli.fail import OK
from eventsaga.cli.ids import SagaId
from eventsaga.cli.output import AsJson, say, say_json
from eventsaga.cli.target import DatabaseUrl, Schema


async def cancel(
    saga_id: SagaId,
    *,
    reason: Annotated[
        str,
        typer.Option(
            "--reason", "-r", metavar="TEXT", help="Recorded in the history.", show_default=False
        ),
    ],
    actor: Annotated[
        str | None,
        typer.Option(
            "--actor",
            metavar="NAME",
            help="Who asks; otherwise your user and host. Recorded in the history.",
            show_default=False,
        ),
    ] = None,
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> int:
    """Ask a saga to stop and to compensate what has happened.

    The request is durable when the command returns; the saga's worker takes it next. A
    saga that has ended, or is parked, refuses: exit 1.

    Example:
      eventsaga cancel 01a205d7 --reason 'the customer called'
    """
    target.aim(database_url, schema)
    who = actor or f"{_user()}@{socket.gethostname()}"
    async with target.opened() as orchestrator:
        found = await ids.find(orchestrator.store, saga_id)
        await orchestrator.cancel(found, reason, actor=who)
    if as_json:
        say_json({"saga_id": found, "requested": "cancel", "reason": reason, "actor": who})
    else:
        say(f"asked {found} to go back; watch it with `eventsaga show {found}`")
    return OK


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return "somebody"  # a container may run as a number that has no name

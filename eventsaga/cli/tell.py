"""How is a saga told what it waits for?"""

from typing import Annotated
from uuid import UUID

import typer

from eventsaga.cli import ids, target
from eventsaga.cli.ask import Actor, refused, user
from eventsaga.cli.fail import OK
from eventsaga.cli.given import FORMS, json_object
from eventsaga.cli.ids import SagaId
from eventsaga.cli.output import AsJson, say, say_json
from eventsaga.cli.target import DatabaseUrl, Schema


async def signal(
    saga_id: SagaId,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the signal.")],
    payload: Annotated[
        str,
        typer.Argument(metavar="PAYLOAD", help=f"What is said: {FORMS}."),
    ] = "{}",
    *,
    signal_id: Annotated[
        str | None,
        typer.Option(
            "--id",
            metavar="TEXT",
            help="The same id is taken once, however often it is sent.",
            show_default=False,
        ),
    ] = None,
    actor: Actor = None,
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> int:
    """Tell a saga what it waits for, or will wait for.

    The signal is durable when the command returns, and kept until the saga waits for it. A
    saga that has ended, or never waits for such a signal, refuses: exit 1.

    Example:
      eventsaga signal 01a205d7 approval '{"approved": true}'
      eventsaga signal 01a205d7 approval - --id mail-4711 < answer.json
    """
    from eventsaga.errors import IllegalCommandError

    target.aim(database_url, schema)
    given = json_object(payload, "PAYLOAD")
    who = actor or user()
    async with target.opened() as orchestrator:
        found = await ids.find(orchestrator.store, saga_id)
        told = {"saga_id": found, "requested": "signal", "signal": name, "actor": who}
        try:
            await orchestrator.signal(found, name, given, id=_known(signal_id), actor=who)
        except IllegalCommandError as error:
            explanation = await orchestrator.explain(found)
            return refused(error, explanation, told, as_json=as_json)
    if as_json:
        say_json({**told, "taken": True})
    else:
        say(f"{found} has it in its inbox; watch it with `eventsaga show {found}`")
    return OK


def _known(text: str | None) -> UUID | str | None:
    """Return the id as programs have it that use UUIDs."""
    if text is None:
        return None
    try:
        return UUID(text)
    except ValueError:
        return text

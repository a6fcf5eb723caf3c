"""How is a value taken out of the history of a saga, by a person?"""

from typing import Annotated

import typer

from eventsaga.cli import ids, target
from eventsaga.cli.ask import Actor, Reason, user
from eventsaga.cli.fail import NO, OK
from eventsaga.cli.ids import SagaId
from eventsaga.cli.output import AsJson, clean, say, say_json
from eventsaga.cli.target import DatabaseUrl, Schema


async def redact(
    saga_id: SagaId,
    *,
    path: Annotated[
        str,
        typer.Option(
            "--path",
            metavar="PATH",
            help="Where in the context: names with dots between them.",
            show_default=False,
        ),
    ],
    reason: Reason,
    actor: Actor = None,
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> int:
    """Take a value out of the history of a saga that has ended.

    What stands at the path, or below it, becomes "[redacted]" (or null, if it is no text) in
    every event and in the row, and so does a text of at least four characters that stood there
    wherever else it occurs: in results, payloads, messages and reasons. That it was done, by
    whom and why is appended to the history; the chain of hashes still holds. There is no way
    back. Exit 1 if nothing stands there.

    A saga that was archived into the table archived_events is redacted there. Not reached: files
    of archives and other tables, backups, the participants, and the sagas that this one has
    started.

    Example:
      eventsaga redact 01a205d7 --path customer.email --reason 'asked to be forgotten'
    """
    target.aim(database_url, schema)
    from eventsaga.store.postgres.redact import redact as redact_

    who = actor or user()
    async with target.opened() as orchestrator:
        # Who may redact need not be one who may look for sagas.
        found = ids.whole(saga_id) or await ids.find(orchestrator.store, saga_id)
        changed = await redact_(orchestrator.store, found, path, reason=reason, actor=who)
    if as_json:
        say_json({"saga_id": found, "path": path, "events": changed})
    elif changed:
        events = "1 event knows" if changed == 1 else f"{changed} events know"
        say(f"{events} nothing of {clean(path)} any more, in saga {found}.")
    else:
        say(f"nothing stands at {clean(path)} in saga {found}.")
    return OK if changed else NO

"""How is the end of every history kept where nobody can cut it off?"""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from eventsaga.cli import target
from eventsaga.cli.fail import OK, CommandError
from eventsaga.cli.output import AsJson, clean, say, say_json
from eventsaga.cli.progress import progress
from eventsaga.cli.target import DatabaseUrl, Schema


async def anchor(
    *,
    key: Annotated[
        Path,
        typer.Option(
            "--key", metavar="FILE", help="Ed25519 signing key (PEM).", show_default=False
        ),
    ],
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="FILE|URL",
            help="Where to; ending in .gz, it is compressed.",
            show_default=False,
        ),
    ] = None,
    new_key: Annotated[
        bool, typer.Option("--new-key", help="Create the key, and its public half beside it.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> int:
    """Write where each history ends, signed.

    A cut tail is found by it. The hashes in the tables show every change but one: whoever may
    write them can cut off the end of a history, or write all of it anew. Keep anchors, and the
    key, where they cannot reach; `eventsaga verify --anchor` compares. Workers may go on
    meanwhile.

    With s3://bucket/name it goes to S3-compatible storage (needs the extra s3).

    Example:
      eventsaga anchor --key audit.key --new-key
      eventsaga anchor --key audit.key --to anchors/2026-11-23.gz
      eventsaga verify --anchor anchors/2026-11-23.gz --public-key audit.key.pub
    """
    target.aim(database_url, schema)
    require_cryptography()
    from eventsaga.client import anchor as anchors

    if not new_key and to is None:
        raise CommandError("say where to write it: --to FILE")
    if new_key:
        public = anchors.create_key(key)
        if to is None:
            if as_json:
                say_json({"key": key, "public_key": public})
            else:
                say(f"the key is {key}, and its public half {public}")
            return OK
    assert to is not None
    signing = anchors.load_key(key)
    async with target.opened() as orchestrator:
        with progress("anchoring") as watched:
            statement = await anchors.take(
                orchestrator.store,
                to,
                signing,
                force=force,
                progress=lambda done: watched.report(done, done),
            )
    if as_json:
        say_json({"to": to, "sagas": statement.sagas, "root": statement.root})
    else:
        say(clean(f"{statement.sagas:,} sagas are anchored in {to}, root {statement.root}"))
    return OK


def require_cryptography() -> None:
    """Say what to install if it is not there.

    Raises:
        CommandError: If it is not.
    """
    if find_spec("cryptography") is None:
        raise CommandError("this needs cryptography: pip install 'eventsaga[crypto]'")

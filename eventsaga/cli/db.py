"""How do the tables come, change and go? By Alembic, when somebody asks for it."""

import asyncio
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated

import typer

from eventsaga.cli import target
from eventsaga.cli.fail import NO, OK, CommandError
from eventsaga.cli.output import AsJson, note, say, say_json
from eventsaga.cli.target import DatabaseUrl, Schema

Revision = Annotated[
    str, typer.Option("--revision", metavar="REVISION", help="The revision to reach.")
]


def upgrade(
    *,
    revision: Revision = "head",
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> int:
    """Create the tables, or bring them to the newest revision.

    Safe to run again, and from several hosts at once.

    Example:
      eventsaga db upgrade --database-url postgresql://owner:secret@localhost:5432/shop
    """
    from eventsaga.store.postgres import migrate

    target.aim(database_url, schema)
    url, settings = target.database_url(), target.settings()
    with _known_revisions():
        migrate.upgrade(url, schema=settings.schema, revision=revision)
    return _report(as_json=as_json)


def downgrade(
    revision: Annotated[
        str, typer.Argument(metavar="REVISION", help="The revision to go back to, or base.")
    ],
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> int:
    """Take the tables back to an older revision.

    What is not in it is lost. The revision base drops all tables, with every saga in them.

    Example:
      eventsaga db downgrade base --yes
    """
    from eventsaga.store.postgres import migrate

    target.aim(database_url, schema)
    url, settings = target.database_url(), target.settings()
    if not yes:
        _ask(url, revision)
    with _known_revisions():
        migrate.downgrade(url, schema=settings.schema, revision=revision)
    return _report(as_json=as_json)


def current(
    *,
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> int:
    """Say which revision the tables have.

    Exit 1 if it is not the newest.

    Example:
      eventsaga db current --json
    """
    target.aim(database_url, schema)
    return _report(as_json=as_json, must_be_newest=True)


def sql(
    *,
    revision: Revision = "head",
    schema: Schema = None,
    as_json: AsJson = False,
) -> int:
    """Print the SQL that creates the tables, for a DBA to read.

    It is for an empty database; none is needed to print it.

    Example:
      eventsaga db sql | psql postgresql://owner@localhost/shop
    """
    from eventsaga.store.postgres import migrate

    target.aim(None, schema)
    with _known_revisions():
        text = migrate.offline_sql(schema=target.settings().schema, revision=revision)
    if as_json:
        say_json({"revision": revision, "sql": text})
    else:
        say(text.rstrip())
    return OK


@contextmanager
def _known_revisions() -> Generator[None]:
    """Explain what Alembic refuses: a revision that it does not know, or cannot reach."""
    from alembic.util import CommandError as Refusal

    try:
        yield
    except Refusal as error:
        raise CommandError(
            f"{error}. Name a revision that `eventsaga db sql` has; if the database itself "
            "is at one that is not known, a newer eventsaga has migrated it: upgrade this one"
        ) from error


def _ask(url: str, revision: str) -> None:
    from eventsaga.store.postgres.connect import database_url, describe

    where = describe(database_url(url))
    if not sys.stdin.isatty():
        raise CommandError(f"this may lose data in {where}: pass --yes if that is what you want")
    note(f"Going back to {revision} may lose data in {where}.")
    if not typer.confirm("Go on?", err=True):
        raise CommandError("nothing was changed", code=NO)


def _report(*, as_json: bool, must_be_newest: bool = False) -> int:
    """Say which revision there is."""
    from eventsaga.store.postgres import migrate

    newest = migrate.newest_revision()
    found = asyncio.run(_revision())
    if as_json:
        say_json({"revision": found, "newest": newest, "schema": target.settings().schema})
    elif found is None:
        say("there are no tables; `eventsaga db upgrade` creates them")
    elif found == newest:
        say(f"revision {found}, the newest")
    else:
        say(f"revision {found}; {newest} is needed: `eventsaga db upgrade`")
    return NO if must_be_newest and found != newest else OK


async def _revision() -> str | None:
    from eventsaga.store.postgres import migrate
    from eventsaga.store.postgres.connect import (
        CONNECTION_ERRORS,
        database_url,
        open_connection,
        unavailable,
    )

    url, settings = database_url(target.database_url()), target.settings()
    try:
        connection = await open_connection(url, settings)
        try:
            return await migrate.current_revision(connection, settings.schema)
        finally:
            await connection.close()
    except CONNECTION_ERRORS as error:
        raise unavailable(error, url) from error

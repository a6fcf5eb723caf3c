"""Who may do what in the database? Printed, given, or checked."""

from typing import Annotated

import typer

from eventsaga.cli import target
from eventsaga.cli.fail import NO, OK, CommandError
from eventsaga.cli.output import AsJson, say, say_json
from eventsaga.cli.target import DatabaseUrl, Schema


async def grants(
    *,
    apply: Annotated[
        bool, typer.Option("--apply", help="Create the roles and give them their rights.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Say what is missing or too much; exit 1 if any is.")
    ] = False,
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> int:
    """Print, give or check the rights of the six roles.

    The roles begin with the schema's name: eventsaga_owner, _worker, _client, _auditor,
    _eraser and _archivist. They cannot log in; make those who do members of one:
    GRANT eventsaga_worker TO shop.

    Without an option the SQL is printed, for a DBA to read and run, and nothing is asked of
    the database. --apply runs it in one transaction. It also gives the tables to the owner,
    so that the next `eventsaga db upgrade` is to be run by a member of eventsaga_owner, with
    EVENTSAGA_ROLE=eventsaga_owner.

    Example:
      eventsaga grants > roles.sql
      eventsaga grants --apply
      eventsaga grants --check
    """
    if apply and check:
        raise CommandError("--apply and --check are two things; give one of them")
    target.aim(database_url, schema)
    from eventsaga.store.postgres import grants as roles

    settings = target.settings()
    if not apply and not check:
        sql = roles.script(settings.schema)
        if as_json:
            say_json({"sql": sql})
        else:
            say(sql.rstrip())
        return OK
    async with target.opened() as orchestrator, orchestrator.store.connection() as connection:
        if apply:
            await roles.apply(connection, settings.schema)
        problems = await roles.check(connection, settings.schema)
    if as_json:
        say_json({"problems": problems})
    else:
        for problem in problems:
            say(problem)
        say(f"{len(problems)} problems." if problems else "Everybody may do what they should.")
    return NO if problems else OK

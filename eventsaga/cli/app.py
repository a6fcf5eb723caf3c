"""Which commands are there? Put together here; what is heavy is imported when one runs."""

from collections.abc import Callable, Mapping
from typing import Annotated, Final

import typer

from eventsaga.cli import (
    anchor,
    archive,
    check,
    compatible,
    completion,
    dashboard,
    db,
    demo,
    diagram,
    diff,
    drill,
    explain,
    export,
    feed,
    grants,
    history,
    inbox,
    listing,
    recover,
    redact,
    show,
    start,
    tell,
    top,
    verbs,
    worker,
)
from eventsaga.cli.fail import Answer, guarded, with_example
from eventsaga.cli.target import DatabaseUrl, Schema, aim

# Plain help: it reads the same in a narrow terminal, in a pipe and in a bug report.
app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
_tables = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - called by typer
    if wanted:
        from eventsaga import __version__

        typer.echo(__version__)
        raise typer.Exit


def eventsaga(
    *,
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Run, watch and check sagas that live in PostgreSQL.

    Every command takes --json, and --help with an example. The exit code is 0 for yes or
    done, 1 for a negative answer, 2 for a wrong call or environment.

    Example:
      export EVENTSAGA_DATABASE_URL=postgresql://user:password@localhost:5432/shop
      eventsaga db upgrade
      eventsaga worker shop.sagas:orchestrator
    """
    del version
    aim(database_url, schema)


def _db() -> None:
    """Create and change the tables; nothing else ever does.

    Example:
      eventsaga db upgrade
    """


_COMMANDS: Final[Mapping[str, Callable[..., Answer]]] = {
    "demo": demo.demo,
    "worker": worker.worker,
    "start": start.start,
    "list": listing.list_sagas,
    "parked": inbox.parked,
    "stuck": inbox.stuck,
    "top": top.top,
    "dashboard": dashboard.dashboard,
    "show": show.show_saga,
    "history": history.history,
    "diff": diff.diff,
    "export": export.export,
    "diagram": diagram.diagram,
    "explain": explain.explain,
    "signal": tell.signal,
    "cancel": verbs.cancel,
    "retry": verbs.retry,
    "skip": verbs.skip,
    "resolve": verbs.resolve,
    "abandon": verbs.abandon,
    "undo": verbs.undo,
    "verify": check.verify,
    "rebuild": check.rebuild,
    "recover": recover.recover,
    "anchor": anchor.anchor,
    "redact": redact.redact,
    "grants": grants.grants,
    "feed": feed.feed,
    "archive": archive.archive,
    "import": archive.bring_back,
    "check": compatible.check,
    "drill": drill.drill,
    "completion": completion.completion,
}
_DB_COMMANDS: Final[Mapping[str, Callable[..., Answer]]] = {
    "upgrade": db.upgrade,
    "downgrade": db.downgrade,
    "current": db.current,
    "sql": db.sql,
}

for _typer, _callback, _commands in (
    (app, eventsaga, _COMMANDS),
    (_tables, _db, _DB_COMMANDS),
):
    _typer.callback(help=with_example(_callback.__doc__))(_callback)
    for _name, _command in _commands.items():
        _typer.command(_name)(guarded(_command))
app.add_typer(_tables, name="db")

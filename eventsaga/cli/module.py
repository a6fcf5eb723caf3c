"""What does ``module:name`` stand for? An orchestrator, sagas, or a function that returns them."""

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import typer

from eventsaga.cli.fail import CommandError
from eventsaga.cli.target import asked_for_schema, asked_for_url, database_url, settings

if TYPE_CHECKING:
    from eventsaga.client import Orchestrator
    from eventsaga.saga import Saga

HELP: Final = (
    "What holds the sagas, as module:name. It is an Orchestrator, a Saga, a list of them, or "
    "a function without arguments that returns one of these. The current directory is "
    "searched first."
)

ModuleArgument = Annotated[str, typer.Argument(metavar="MODULE:NAME", help=HELP)]
ModuleOption = Annotated[
    str, typer.Option("--module", "-m", metavar="MODULE:NAME", help=HELP, show_default=False)
]


def load(reference: str) -> "Orchestrator":
    """Return what *reference* stands for, as an orchestrator that is not opened yet.

    Raises:
        CommandError: If it cannot be imported, or is something else.
    """
    from eventsaga.client import Orchestrator

    found = _called(reference)
    if isinstance(found, Orchestrator):
        _require_same_target(reference, found)
        return found
    return Orchestrator(database_url(), _sagas(reference, found), settings=settings())


def load_idle(reference: str) -> "Orchestrator":
    """Return the same as `load`, so that it starts sagas and runs none.

    Raises:
        CommandError: If it cannot be imported, or is something else.
    """
    from eventsaga.client import Orchestrator

    loaded = load(reference)
    return Orchestrator(loaded.store.url, loaded.sagas, worker=False, settings=loaded.settings)


def load_bare(reference: str) -> tuple["Orchestrator", Sequence["Saga[Any]"]]:
    """Return an orchestrator that knows no saga, and the sagas that it would have.

    It looks at the database and leaves no trace there.

    Raises:
        CommandError: If it cannot be imported, or is something else.
    """
    from eventsaga.client import Orchestrator

    loaded = load(reference)
    bare = Orchestrator(loaded.store.url, worker=False, settings=loaded.settings)
    return bare, loaded.sagas


def sagas_of(reference: str) -> Sequence["Saga[Any]"]:
    """Return the sagas that *reference* stands for; no database is needed for that.

    Raises:
        CommandError: If it cannot be imported, or is something else.
    """
    from eventsaga.client import Orchestrator

    found = _called(reference)
    return found.sagas if isinstance(found, Orchestrator) else _sagas(reference, found)


def _called(reference: str) -> object:
    """Return what *reference* names or, if that is a function, what it returns."""
    found = _found(reference)
    if callable(found) and not isinstance(found, type):
        return _careful(reference, "called", found)
    return found


def _found(reference: str) -> object:
    module_name, _, name = reference.partition(":")
    if not module_name or not name or module_name.startswith("."):
        raise CommandError(
            f"{reference!r} must be module:name, for example shop.sagas:orchestrator"
        )
    here = os.getcwd()  # noqa: PTH109 - sys.path holds strings
    if here not in sys.path:
        sys.path.insert(0, here)
    module = _careful(reference, "imported", lambda: importlib.import_module(module_name))
    try:
        return reduce(getattr, name.split("."), cast("Any", module))
    except AttributeError:
        raise CommandError(f"module {module_name!r} has no {name!r}{_others(module)}") from None


def _others(module: object) -> str:
    """Return which names of *module* would do."""
    from eventsaga.client import Orchestrator
    from eventsaga.saga import Saga

    names = [name for name, value in vars(module).items() if isinstance(value, Orchestrator | Saga)]
    return f"; it has {', '.join(sorted(names))}" if names else ""


def _careful(reference: str, verb: str, action: Callable[[], object]) -> object:
    """Run code of the user and say what it raised, and where, without our own frames."""
    try:
        return action()
    except (Exception, SystemExit) as error:
        machinery = ("<", __file__, importlib.__file__)
        frames = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if not frame.filename.startswith(machinery)
        ]
        where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise CommandError(f"{reference} cannot be {verb}: {what}{where}") from error


def _sagas(reference: str, found: object) -> Sequence["Saga[Any]"]:
    from eventsaga.saga import Saga

    listed: list[Any] = list(cast("Any", found)) if isinstance(found, list | tuple) else [found]
    strangers = [item for item in listed if not isinstance(item, Saga)]
    if strangers or not listed:
        what = f"of type {type(strangers[0]).__name__}" if strangers else "an empty list"
        raise CommandError(f"{reference} is {what}, not an Orchestrator, a Saga or a list of them")
    return listed


def _require_same_target(reference: str, orchestrator: "Orchestrator") -> None:
    """Refuse an option that the orchestrator, which has its own database, would not follow."""
    from eventsaga.store.postgres.connect import database_url as normalised

    url, schema = asked_for_url(), asked_for_schema()
    if url is not None and normalised(url) != orchestrator.store.url:
        raise CommandError(
            f"{reference} names a database of its own, which is not that of --database-url; "
            "leave the option out, or let the module read EVENTSAGA_DATABASE_URL"
        )
    if schema is not None and schema != orchestrator.settings.schema:
        raise CommandError(
            f"{reference} uses schema {orchestrator.settings.schema!r}, not that of --schema"
        )

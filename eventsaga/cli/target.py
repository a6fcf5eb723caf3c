"""Which database is meant? Options first, then the environment; never a guess.

What the options say is put into the environment, so that modules of users and processes
that a command starts see the same.
"""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Final

import typer

from eventsaga.cli.fail import CommandError

if TYPE_CHECKING:
    from eventsaga.client import Orchestrator
    from eventsaga.settings import Settings

URL: Final = "EVENTSAGA_DATABASE_URL"
SCHEMA: Final = "EVENTSAGA_SCHEMA"

_LOOKS_LIKE: Final = "postgresql://user:password@host:5432/database"

DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        metavar="URL",
        help=f"The PostgreSQL to use; otherwise ${URL}.",
        show_default=False,
    ),
]
Schema = Annotated[
    str | None,
    typer.Option(
        "--schema",
        metavar="NAME",
        help=f"Schema of the tables; otherwise ${SCHEMA}, or eventsaga.",
        show_default=False,
    ),
]

_asked_for: dict[str, str] = {}


def aim(database_url: str | None, schema: str | None) -> None:
    """Use what the options say, from here on; None leaves it as it was."""
    for variable, value in ((URL, database_url), (SCHEMA, schema)):
        if value is not None:
            os.environ[variable] = _asked_for[variable] = value


def asked_for_url() -> str | None:
    """Return the URL that an option gave; None if none did."""
    return _asked_for.get(URL)


def asked_for_schema() -> str | None:
    """Return the schema that an option gave; None if none did."""
    return _asked_for.get(SCHEMA)


def database_url() -> str:
    """Return the URL of the database.

    Raises:
        CommandError: If nobody said which.
    """
    url = os.environ.get(URL)
    if url:
        return url
    message = f"no database is given. Set {URL}, or pass --database-url, for example {_LOOKS_LIKE}"
    raise CommandError("\n".join([message, *_of_the_demo()]))


def settings() -> "Settings":
    """Return the settings that the options and the environment ask for."""
    from eventsaga.settings import Settings

    return Settings.from_environment(os.environ)


@asynccontextmanager
async def opened() -> AsyncGenerator["Orchestrator"]:
    """Open the database to look at sagas and to command them, without running any."""
    from eventsaga.client import Orchestrator

    async with Orchestrator(database_url(), worker=False, settings=settings()) as orchestrator:
        yield orchestrator


def _of_the_demo() -> list[str]:
    """Return what to know of the demo's own database, if there is one."""
    try:
        from eventsaga.embedded.postmaster import find_postmaster
        from eventsaga.embedded.where import default_data_dir

        data_dir = default_data_dir()
        if not (data_dir / "cluster").is_dir():
            return []
        running = find_postmaster(data_dir / "cluster")
    except (ImportError, OSError):
        return []  # it is a hint only
    if running is None:
        return [f"(The demo's data is in {data_dir}; its server runs as long as a demo does.)"]
    url = f"postgresql://postgres@/demo?host={running.socket_dir}"
    return [f"(The demo's server is running in {data_dir}; its database is {url})"]

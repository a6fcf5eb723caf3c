"""How does the schema come about? By Alembic, from a checkout or from the wheel.

Nothing here runs unless somebody asks for it: opening a store only compares revisions.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Final

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.exc import SQLAlchemyError

from eventsaga.errors import SchemaOutdatedError
from eventsaga.store.postgres.connect import (
    CONNECTION_ERRORS,
    Connection,
    causes,
    unavailable,
)
from eventsaga.store.postgres.sql import qualify

_PACKAGE: Final = Path(__file__).resolve().parents[2]

_ERRORS: Final[tuple[type[Exception], ...]] = (SQLAlchemyError, *CONNECTION_ERRORS)

_REVISION: Final = "SELECT version_num FROM eventsaga.alembic_version"


def script_directory() -> Path:
    """Return where the migration scripts are: in the wheel, or beside the package."""
    shipped = _PACKAGE / "_alembic"
    return shipped if shipped.is_dir() else _PACKAGE.parent / "alembic"


def newest_revision() -> str:
    """Return the revision that this code needs."""
    head = ScriptDirectory(str(script_directory())).get_current_head()
    assert head is not None
    return head


def upgrade(url: str, *, schema: str, revision: str = "head") -> None:
    """Bring the schema of the database at *url* to *revision*.

    Runs an event loop of its own: call it from a thread if one is running already.

    Raises:
        DatabaseUnavailableError: If the database cannot be reached.
    """
    _run(url, schema, lambda config: command.upgrade(config, revision))


def downgrade(url: str, *, schema: str, revision: str) -> None:
    """Take the schema back to *revision*; ``base`` drops all of it, data included.

    Raises:
        DatabaseUnavailableError: If the database cannot be reached.
    """
    _run(url, schema, lambda config: command.downgrade(config, revision))


def offline_sql(*, schema: str, revision: str = "head") -> str:
    """Return the SQL that `upgrade` would run on an empty database, for a DBA to read."""
    buffer = io.StringIO()
    config = _config("postgresql://", schema)
    config.output_buffer = buffer
    command.upgrade(config, revision, sql=True)
    return buffer.getvalue()


async def current_revision(connection: Connection, schema: str) -> str | None:
    """Return the revision of the database; None if it has no eventsaga schema."""
    try:
        revision: str | None = await connection.fetchval(qualify(_REVISION, schema))
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
        return None
    return revision


async def check_revision(connection: Connection, schema: str) -> None:
    """Refuse to work on a schema of another revision.

    Raises:
        SchemaOutdatedError: If the revisions differ.
    """
    found, needed = await current_revision(connection, schema), newest_revision()
    if found != needed:
        raise SchemaOutdatedError(found, needed)


def _config(url: str, schema: str) -> Config:
    config = Config()
    # "%" begins an interpolation in Alembic's own configuration.
    config.set_main_option("script_location", str(script_directory()).replace("%", "%%"))
    config.attributes.update(url=url, schema=schema)
    return config


def _run(url: str, schema: str, work: Callable[[Config], None]) -> None:
    try:
        work(_config(url, schema))
    except _ERRORS as error:
        told = [cause for cause in causes(error) if isinstance(cause, CONNECTION_ERRORS)]
        cause: Exception = told[0] if told else error
        raise unavailable(cause, url) from cause

"""How is PostgreSQL reached? URLs, pools, and which errors mean what.

Every error of the driver is sorted here, once: `outcome_is_unknown` says whether a
statement may have been committed, `is_infrastructure` whether trying again makes sense.
"""

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import asyncpg
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError, StatementError
from sqlalchemy.ext.asyncio import AsyncEngine

from eventsaga.errors import DatabaseUnavailableError
from eventsaga.settings import Settings

if TYPE_CHECKING:
    # Generic for type checkers only.
    Connection = asyncpg.Connection[Any]
    Pool = asyncpg.Pool[Any]
else:
    Connection = asyncpg.Connection
    Pool = asyncpg.Pool

# Connection, rollback, resources, operator intervention: never the saga's fault.
_INFRASTRUCTURE_CLASSES: Final = ("08", "40", "53", "57", "58")
_LOCK_NOT_AVAILABLE: Final = "55P03"
_READ_ONLY: Final = "25006"  # a standby, just after a failover
# The statement may have been committed although an error came back.
_UNKNOWN_CLASSES: Final = ("08", "57P")

_NO_ANSWER: Final = (
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    ConnectionError,
    TimeoutError,
    OSError,
    EOFError,
)

CONNECTION_ERRORS: Final[tuple[type[Exception], ...]] = (asyncpg.PostgresError, *_NO_ANSWER)
"""Everything that a statement can raise because of the database or the way to it."""


def database_url(database: str | AsyncEngine) -> str:
    """Return a URL that asyncpg takes, password included.

    Raises:
        DatabaseUnavailableError: If *database* is no PostgreSQL URL.
    """
    url = database.url if isinstance(database, AsyncEngine) else _parsed(database)
    if url.get_backend_name() not in {"postgresql", "postgres"}:
        raise DatabaseUnavailableError(
            f"{url.get_backend_name()!r} is not PostgreSQL; the URL must look like "
            "postgresql://user:password@host:5432/database"
        )
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def sqlalchemy_url(database: str) -> URL:
    """Return the URL under which SQLAlchemy reaches *database* by asyncpg."""
    return make_url(database_url(database)).set(drivername="postgresql+asyncpg")


def _parsed(database: str) -> URL:
    try:
        # make_url refuses the old spelling that asyncpg and libpq take.
        return make_url(database.replace("postgres://", "postgresql://", 1))
    except (ArgumentError, ValueError):
        # The text may hold a password: it is not repeated.
        raise DatabaseUnavailableError(
            "the database URL cannot be read; it must look like "
            "postgresql://user:password@host:5432/database"
        ) from None


def describe(url: str) -> str:
    """Return where *url* leads, without its password."""
    return unquote(make_url(url).render_as_string())


async def open_connection(url: str, settings: Settings) -> Connection:
    """Open one connection, for the caller alone."""
    connection: Connection = await asyncpg.connect(
        url,
        timeout=settings.statement_timeout.total_seconds(),
        command_timeout=settings.statement_timeout.total_seconds(),
        **session_options(settings),
    )
    return connection


async def open_pool(url: str, settings: Settings, size: int, *, eager: bool = True) -> Pool:
    """Open a pool for everything but appends.

    Args:
        url: The database.
        settings: Timeouts.
        size: Connections at most.
        eager: Whether to connect at once, and so to find out that there is no database.

    Raises:
        DatabaseUnavailableError: If the database cannot be reached.
    """
    try:
        return await asyncpg.create_pool(
            url,
            min_size=1 if eager else 0,
            max_size=size,
            timeout=settings.statement_timeout.total_seconds(),
            command_timeout=settings.statement_timeout.total_seconds(),
            reset=_leave_as_it_is,
            **session_options(settings),
        )
    except CONNECTION_ERRORS as error:
        raise unavailable(error, url) from error


async def _leave_as_it_is(_connection: Connection) -> None:
    """Save the round trip of a RESET: no statement here leaves state on its session."""


def session_options(settings: Settings) -> dict[str, Any]:
    """Return what asyncpg is to be told about every connection."""
    options: dict[str, Any] = {}
    if settings.pooler:
        # A transaction pooler hands each statement to another server connection.
        options["statement_cache_size"] = 0
    if settings.role:
        options["server_settings"] = {"role": settings.role}
    return options


def unavailable(error: Exception, url: str) -> DatabaseUnavailableError:
    """Return *error* as what a user can act on."""
    reason = str(error) or type(error).__name__
    return DatabaseUnavailableError(f"cannot use {describe(url)}: {reason}")


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield *error* and what it stands for, from SQLAlchemy's wrapping to the driver's own."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.orig if isinstance(current, StatementError) else current.__cause__


def is_infrastructure(error: BaseException) -> bool:
    """Whether *error* says nothing about the statement: trying again makes sense."""
    if isinstance(error, asyncpg.PostgresError):
        code = error.sqlstate or "08000"
        return code.startswith(_INFRASTRUCTURE_CLASSES) or code in {
            _LOCK_NOT_AVAILABLE,
            _READ_ONLY,
        }
    return _is_no_answer(error)


def outcome_is_unknown(error: BaseException) -> bool:
    """Whether the statement that raised *error* may have been committed."""
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "08").startswith(_UNKNOWN_CLASSES)
    return _is_no_answer(error)


def _is_no_answer(error: BaseException) -> bool:
    # The driver's refusal to encode an argument is an InterfaceError and a ValueError.
    return isinstance(error, _NO_ANSWER) and not isinstance(error, ValueError)


def is_contention(error: BaseException) -> bool:
    """Whether *error* means that another transaction was in the way, not the data."""
    if not isinstance(error, asyncpg.PostgresError):
        return False
    return error.sqlstate == _LOCK_NOT_AVAILABLE or (error.sqlstate or "").startswith("40")


async def discard(connection: Connection | None) -> None:
    """Close *connection* at once: what it still does, it does for nobody."""
    if connection is not None:
        connection.terminate()
        # Let the transport's callbacks run, so that the socket is gone on return.
        await asyncio.sleep(0)

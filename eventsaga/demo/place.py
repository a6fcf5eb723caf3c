"""Where does the demo keep its data? In databases of one embedded server that outlive it.

The scenes kill workers, so each run of them has a database to itself while it lasts: the first
one that no other run holds. Streams of orders share one, because a key that was used stays used.
"""

import asyncio
import contextlib
import shlex
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import asyncpg
from sqlalchemy import make_url

from eventsaga.embedded import EmbeddedPostgres
from eventsaga.settings import Settings
from eventsaga.store.postgres import migrate

if TYPE_CHECKING:
    # Generic for type checkers only.
    Connection = asyncpg.Connection[Any]
else:
    Connection = asyncpg.Connection

SCENES: Final = "demo"
STREAM: Final = "orders"

_SCHEMA: Final = Settings().schema
# Held while a database is made, and by a run of the scenes until it ends, however it ends.
_LOCK: Final = "SELECT pg_advisory_lock(hashtext('eventsaga demo'), hashtext($1))"
_TRY_LOCK: Final = "SELECT pg_try_advisory_lock(hashtext('eventsaga demo'), hashtext($1))"
_UNLOCK: Final = "SELECT pg_advisory_unlock(hashtext('eventsaga demo'), hashtext($1))"
_EXISTS: Final = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)"
# One of a fixed set of names, all of them plain identifiers.
_CREATE: Final = "SELECT format('CREATE DATABASE %I', $1::text)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A migrated database.

    Attributes:
        database: Its name.
        url: Where it is.
        psql: The program that belongs to the server.
    """

    database: str
    url: str
    psql: str

    def psql_command(self) -> str:
        """Return a line to paste into a shell."""
        return shlex.join([self.psql, self.url])


@contextlib.asynccontextmanager
async def scenes_place(postgres: EmbeddedPostgres) -> AsyncGenerator[Place]:
    """Lend a database that no other run of the scenes uses meanwhile."""
    async with _connected(postgres.url) as connection:
        number = 1
        while not await connection.fetchval(_TRY_LOCK, name := _numbered(number)):
            number += 1
        yield await _made(connection, postgres, name)


@contextlib.asynccontextmanager
async def stream_place(postgres: EmbeddedPostgres) -> AsyncGenerator[Place]:
    """Lend the database that all streams of orders share."""
    async with _connected(postgres.url) as connection:
        await connection.fetchval(_LOCK, STREAM)
        place = await _made(connection, postgres, STREAM)
        await connection.fetchval(_UNLOCK, STREAM)
        yield place


def _numbered(number: int) -> str:
    return SCENES if number == 1 else f"{SCENES}_{number}"


@contextlib.asynccontextmanager
async def _connected(url: str) -> "AsyncGenerator[Connection]":
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        # The locks go with it.
        connection.terminate()


async def _made(connection: Connection, postgres: EmbeddedPostgres, name: str) -> Place:
    """Return the database *name*, created and migrated if it was not; its lock is held."""
    if not await connection.fetchval(_EXISTS, name):
        await connection.execute(await connection.fetchval(_CREATE, name))
    url = make_url(postgres.url).set(database=name).render_as_string(hide_password=False)
    async with _connected(url) as inside:
        current = await migrate.current_revision(inside, _SCHEMA)
    if current != migrate.newest_revision():
        await asyncio.to_thread(migrate.upgrade, url, schema=_SCHEMA)
    return Place(database=name, url=url, psql=str(postgres.bin_path / "psql"))

"""Where is drilled? In databases that are made for it and dropped after it, and in no other."""

import asyncio
import contextlib
import inspect
import os
import signal
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final
from uuid import uuid4

import asyncpg
from sqlalchemy import make_url

from eventsaga.drill.errors import DrillError
from eventsaga.embedded.postmaster import find_postmaster
from eventsaga.embedded.programs import find_programs
from eventsaga.embedded.server import Server
from eventsaga.embedded.temporary import create_temporary_server
from eventsaga.settings import Settings
from eventsaga.store.postgres import migrate
from eventsaga.store.postgres.connect import CONNECTION_ERRORS, unavailable

Setup = Callable[[str], Awaitable[None] | None]
"""Makes what a saga needs beside eventsaga's tables; called with the URL of a database."""

_PREFIX: Final = "eventsaga_drill_"
_CONNECTIONS: Final = {"max_connections": 300}
_LOOK_SECONDS: Final = 0.02
_GONE_SECONDS: Final = 30.0
# Alembic has one context a process.
_MIGRATING: Final = threading.Lock()


class Scratch:
    """A server on which databases come and go.

    Args:
        url: A database of the server; nothing in it is touched.
        setup: Called once with the URL of the database that all others are copies of.
    """

    def __init__(self, url: str, setup: Setup | None = None) -> None:
        self.url = url
        self._setup = setup
        self._template = f"{_PREFIX}{uuid4().hex[:12]}"
        # A template can be copied by one at a time.
        self._copying = asyncio.Lock()

    async def open(self) -> None:
        """Make the template."""
        await self._execute(f"CREATE DATABASE {self._template}")
        url = self._in(self._template)
        await asyncio.to_thread(_migrate, url)
        if self._setup is not None:
            try:
                done = self._setup(url)
                if inspect.isawaitable(done):
                    await done
            except Exception as error:
                raise DrillError(f"the set-up failed: {type(error).__name__}: {error}") from error

    async def close(self) -> None:
        """Drop the template."""
        await self._drop(self._template)

    @asynccontextmanager
    async def database(self) -> AsyncGenerator[str]:
        """Lend a fresh database and return its URL; it is dropped afterwards."""
        name = f"{_PREFIX}{uuid4().hex[:12]}"
        async with self._copying:
            await self._execute(f"CREATE DATABASE {name} TEMPLATE {self._template}")
        try:
            yield self._in(name)
        finally:
            await self._drop(name)

    async def _drop(self, name: str) -> None:
        await self._execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def _in(self, name: str) -> str:
        return make_url(self.url).set(database=name).render_as_string(hide_password=False)

    async def _execute(self, statement: str) -> None:
        try:
            connection = await asyncpg.connect(self.url)
            try:
                await connection.execute(statement)
            finally:
                await connection.close()
        except CONNECTION_ERRORS as error:
            raise unavailable(error, self.url) from error


def _migrate(url: str) -> None:
    with _MIGRATING:
        migrate.upgrade(url, schema=Settings().schema)


@asynccontextmanager
async def scratch(url: str, setup: Setup | None = None) -> AsyncGenerator[Scratch]:
    """Use the server of *url*: databases are added to it, and dropped again.

    Raises:
        DatabaseUnavailableError: If it cannot be reached, or no database may be made there.
        DrillError: If the set-up fails.
    """
    opened = Scratch(url, setup)
    try:
        await opened.open()
        yield opened
    finally:
        with contextlib.suppress(Exception):  # what went wrong before is worth more
            await opened.close()


class Restartable(Scratch):
    """A server of our own, which can be killed and started again.

    Args:
        server: It runs already.
        setup: See `Scratch`.
    """

    def __init__(self, server: Server, setup: Setup | None = None) -> None:
        running = server.ensure_running()
        super().__init__(running.url, setup)
        self._server = server
        self._cluster = running.data_dir / "cluster"

    async def kill(self) -> None:
        """End the server at once, as ``pg_ctl stop -m immediate`` does."""
        postmaster = find_postmaster(self._cluster)
        assert postmaster is not None, "it was running"
        os.kill(postmaster.pid, signal.SIGQUIT)
        async with asyncio.timeout(_GONE_SECONDS):
            while find_postmaster(self._cluster) is not None:  # noqa: ASYNC110 - no child of ours
                await asyncio.sleep(_LOOK_SECONDS)

    async def start(self) -> None:
        """Start it again, and return when it has recovered."""
        await asyncio.to_thread(self._server.ensure_running)


@asynccontextmanager
async def restartable(setup: Setup | None = None) -> AsyncGenerator[Restartable]:
    """Run an embedded server while the block runs.

    Raises:
        EmbeddedPostgresError: If it cannot be started.
        DrillError: If the set-up fails.
    """
    programs = find_programs()
    server = await asyncio.to_thread(create_temporary_server, programs, _CONNECTIONS)
    try:
        opened = await asyncio.to_thread(Restartable, server, setup)
        await opened.open()
        yield opened
    finally:
        await asyncio.to_thread(lambda: server.leave(delete=True))

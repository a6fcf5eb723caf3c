"""What do tests run on? A real PostgreSQL: one server a session, one fresh database a test.

The fixtures are those that users get, see `eventsaga.pytest_plugin`.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import make_url

from eventsaga.pytest_plugin import in_database
from eventsaga.settings import Settings
from eventsaga.store.postgres import connect, grants, transact
from eventsaga.store.postgres.store import PostgresStore
from tests import pooler

if pooler.WANTED:
    pooler.prepare_nothing()


async def execute(url: str, *statements: str) -> None:
    """Run *statements* on a connection of their own."""
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def server_url(saga_server: str) -> str:
    """URL of the session's server."""
    return saga_server


@pytest.fixture(scope="session")
def template(saga_server: str, saga_template: str) -> str:
    """Name of a migrated database that no test connects to; its roles have their rights."""
    url = in_database(saga_server, saga_template)
    # Steps of tests use tables of their own.
    public = "GRANT ALL ON SCHEMA public TO eventsaga_worker"
    theirs = "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON {} TO eventsaga_worker"
    asyncio.run(
        execute(url, grants.script(), public, theirs.format("TABLES"), theirs.format("SEQUENCES"))
    )
    return saga_template


@pytest.fixture(autouse=True)
def as_worker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the store of a test that has a `database` the rights of a worker, and no others."""
    is_meant = "database" in request.fixturenames and not request.node.get_closest_marker("mighty")
    if pooler.WANTED or not is_meant:
        return

    asked = connect.session_options

    def options(settings: Settings) -> dict[str, Any]:
        role = settings.role or "eventsaga_worker"
        return asked(replace(settings, role=role))

    for module in (connect, transact):
        monkeypatch.setattr(module, "session_options", options)


@pytest.fixture(scope="session")
def way_in(server_url: str) -> Iterator[str]:
    """URL by which tests reach the server: its own, or that of a PgBouncer before it."""
    if not pooler.WANTED:
        yield server_url
        return
    with pooler.pooler(server_url) as url:
        yield url


@pytest.fixture
def database(template: str, saga_database: str, way_in: str) -> str:
    """URL of a migrated database that belongs to one test."""
    name = make_url(saga_database).database
    assert name is not None
    return in_database(way_in, name)


@pytest.fixture
def empty_database(server_url: str) -> Iterator[str]:
    """URL of a database without a schema, for one test."""
    name = f"eventsaga_empty_{uuid4().hex[:12]}"
    asyncio.run(execute(server_url, f"CREATE DATABASE {name}"))
    yield in_database(server_url, name)
    asyncio.run(execute(server_url, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
async def store(database: str) -> AsyncIterator[PostgresStore]:
    """An open store."""
    async with PostgresStore(database, Settings()) as opened:
        yield opened

"""What do tests run on? A real PostgreSQL: one server a session, one fresh database a test.

`EVENTSAGA_TEST_DATABASE_URL` names a server instead of the embedded one. The schema is
migrated once, in a template; each test gets a copy, which takes some 30 ms.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import make_url

from eventsaga.embedded import embedded_postgres
from eventsaga.settings import Settings
from eventsaga.store.postgres import migrate
from eventsaga.store.postgres.store import PostgresStore


def in_database(url: str, name: str) -> str:
    """Return *url* for another database of the same server."""
    return make_url(url).set(database=name).render_as_string(hide_password=False)


async def execute(url: str, *statements: str) -> None:
    """Run *statements* on a connection of their own."""
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """URL of the session's server."""
    with ExitStack() as stack:
        url = os.environ.get("EVENTSAGA_TEST_DATABASE_URL")
        if url is None:
            server = stack.enter_context(
                embedded_postgres(ephemeral=True, settings={"max_connections": 300})
            )
            url = server.url
        yield url


@pytest.fixture(scope="session")
def template(server_url: str) -> Iterator[str]:
    """Name of a migrated database that no test connects to."""
    name = f"eventsaga_template_{uuid4().hex[:8]}"
    asyncio.run(execute(server_url, f"CREATE DATABASE {name}"))
    migrate.upgrade(in_database(server_url, name), schema="eventsaga")
    yield name
    asyncio.run(execute(server_url, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def database(server_url: str, template: str) -> Iterator[str]:
    """URL of a migrated database that belongs to one test."""
    name = f"eventsaga_test_{uuid4().hex[:12]}"
    create = f"CREATE DATABASE {name} TEMPLATE {template}"
    asyncio.run(execute(server_url, create))
    yield in_database(server_url, name)
    asyncio.run(execute(server_url, f"DROP DATABASE {name} WITH (FORCE)"))


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

"""One PostgreSQL and one set of service processes for all tests here."""

from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import asyncpg
import httpx
import pytest
import pytest_asyncio

from eventsaga.demo.services import (
    running_services,
)
from eventsaga.embedded import embedded_postgres
from tests.acceptance.services.world import (
    PATIENCE,
    SLOW,
    World,
)


@pytest.fixture(scope="package")
def database_url() -> Iterator[str]:
    with embedded_postgres(ephemeral=True) as postgres:
        yield postgres.url


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def world(database_url: str) -> AsyncIterator[World]:
    async with (
        running_services(database_url, slow=SLOW) as services,
        httpx.AsyncClient(timeout=PATIENCE) as http,
    ):
        db = await asyncpg.connect(database_url)
        try:
            yield World(database_url, services, http, db)
        finally:
            await db.close()


@pytest.fixture
def order_id() -> str:
    return f"order-{uuid4().hex}"

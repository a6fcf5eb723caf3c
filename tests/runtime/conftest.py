"""What does every test of sagas that end promise? That the store finds nothing wrong after it."""

from collections.abc import AsyncIterator

import pytest

from eventsaga.client.verify import verify
from eventsaga.settings import Settings
from eventsaga.store.postgres.store import PostgresStore


@pytest.fixture
async def sound(database: str) -> AsyncIterator[None]:
    """After the test, every saga of its database is as it must be."""
    yield
    async with PostgresStore(database, Settings()) as store:
        assert [str(violation) async for violation in verify(store)] == []

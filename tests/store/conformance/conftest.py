"""Which stores are there? Each test of the suite runs on all of them."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest

from eventsaga.settings import Settings
from eventsaga.store.postgres.store import PostgresStore
from eventsaga.testing import MemoryStore


class World:
    """A store, and what only somebody with power over its clock can do.

    Args:
        store: The store.
    """

    def __init__(self, store: PostgresStore | MemoryStore) -> None:
        self.store: Any = store

    async def expire(self, worker_id: UUID) -> None:
        """Let the store's clock stand after the end of a worker's lease."""
        if isinstance(self.store, MemoryStore):
            self.store.expire_leases(worker_id)
            return
        async with self.store.connection() as connection:
            await connection.execute(
                "UPDATE eventsaga.workers SET lease_until = clock_timestamp() WHERE worker_id = $1",
                worker_id,
            )


@pytest.fixture(params=["memory", "postgres"])
def url(request: pytest.FixtureRequest) -> str | None:
    """Where the store is; None for nowhere."""
    return None if request.param == "memory" else request.getfixturevalue("database")


@pytest.fixture
async def world(url: str | None) -> AsyncIterator[World]:
    """A store without a saga."""
    if url is None:
        yield World(MemoryStore())
        return
    async with PostgresStore(url, Settings()) as store:
        yield World(store)

"""What do tests of the store share? A connection beside it, and a look at what it left."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.store.checker import flaws
from tests.store.vandal import Vandal


@pytest.fixture
async def sql(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the test's own; at the end, no saga in the database has a flaw."""
    connection = await asyncpg.connect(database)
    yield connection
    found = await flaws(connection)
    await connection.close()
    assert found == []


@pytest.fixture
def vandal(database: str) -> Vandal:
    """Whoever changes what must not change."""
    return Vandal(database)

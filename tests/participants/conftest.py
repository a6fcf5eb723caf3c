"""A world for each test."""

from collections.abc import AsyncIterator

import pytest

from tests.participants.world import World, inhabited


@pytest.fixture
async def world(database: str) -> AsyncIterator[World]:
    async with inhabited(database) as made:
        yield made

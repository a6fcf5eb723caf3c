"""What do tests of drills share? A till of each kind, which the workers find."""

from collections.abc import AsyncIterator

import pytest

from tests.drill.till import Till, open_till


@pytest.fixture
async def till(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Till]:
    """A till that honours keys."""
    async with open_till(heeds_keys=True) as opened:
        monkeypatch.setenv("SHOP_TILL_URL", opened.url)
        yield opened


@pytest.fixture
async def careless_till(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Till]:
    """A till that charges as often as it is asked."""
    async with open_till(heeds_keys=False) as opened:
        monkeypatch.setenv("SHOP_TILL_URL", opened.url)
        yield opened

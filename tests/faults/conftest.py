"""What do all tests of faults have? A participant, a place for servers, and no quiet skips."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.acceptance.crash.participant import Participant, running
from tests.faults.cluster import Ground, ground
from tests.faults.load import LEFT_OUT


@pytest.fixture
async def participant() -> AsyncIterator[Participant]:
    async with running() as started:
        yield started


@pytest.fixture
async def place() -> AsyncIterator[Ground]:
    async with ground() as lent:
        yield lent


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say which faults were not tried, whatever the options for short summaries are."""
    left_out = [
        report
        for report in terminalreporter.stats.get("skipped", [])
        if LEFT_OUT in str(report.longrepr)
    ]
    if left_out:
        terminalreporter.section("faults that were NOT tried", yellow=True, bold=True)
    for report in left_out:
        _, _, reason = report.longrepr
        terminalreporter.line(f"{report.nodeid}: {reason.removeprefix('Skipped: ')}", yellow=True)

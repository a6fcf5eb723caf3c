"""What do tests of the command line share? A database with sagas that have gone every way."""

import asyncio
from collections.abc import Iterator
from uuid import uuid4

import pytest

from eventsaga.pytest_plugin import in_database
from tests.acceptance.cli.console import Console
from tests.conftest import execute


@pytest.fixture
def console(database: str) -> Console:
    """The command line, for a migrated database without sagas."""
    return Console(database)


@pytest.fixture(scope="package")
def stocked(server_url: str, template: str) -> Iterator["Stock"]:
    """A database with sagas that a worker has run; tests only look at it."""
    name = f"eventsaga_cli_{uuid4().hex[:12]}"
    asyncio.run(execute(server_url, f"CREATE DATABASE {name} TEMPLATE {template}"))
    console = Console(in_database(server_url, name))
    with console.worker() as worker:
        worker.until_it_says("ready")
        stock = Stock(console)
    yield stock
    asyncio.run(execute(server_url, f"DROP DATABASE {name} WITH (FORCE)"))


class Stock:
    """Sagas by what became of them.

    Attributes:
        console: The command line, for their database.
        completed: The id of one that completed.
        compensated: The id of one whose card was declined.
        parked: The id of one whose compensation gave up.
        started: Exit code, output and complaint of each start.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.started = [
            console.run(
                "start", "order", "--module", "shop:sagas", "--wait", "30", "--context", context
            )
            for context in (
                '{"order_id": "1"}',
                '{"order_id": "2", "declined": true, "note": "\\u001b[31mred"}',
                '{"order_id": "3", "declined": true, "stuck": true}',
            )
        ]
        self.completed, self.compensated, self.parked = (
            done.stdout.split()[0] for done in self.started
        )

"""Which fixtures are there for tests of sagas? Loaded by pytest by itself, heavy parts on use.

``saga_simulator`` runs a saga in memory and in virtual time; ``saga_database`` is a migrated
PostgreSQL database of one test, a copy of a template, which takes some 30 ms; ``saga_drill``
kills real workers at each boundary of a saga.
``EVENTSAGA_TEST_DATABASE_URL`` names a server; without it one is started from the wheel of
the extra ``embedded``.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

if TYPE_CHECKING:
    from eventsaga.drill import Report
    from eventsaga.testing import Simulator


@pytest.fixture
def saga_simulator() -> "Callable[..., Simulator]":
    """Build a simulator: ``saga_simulator(saga, {"charge": TimeoutError()})``."""
    from eventsaga.testing import Simulator

    return Simulator


@pytest.fixture(scope="session")
def saga_server() -> Iterator[str]:
    """URL of the session's PostgreSQL server."""
    url = os.environ.get("EVENTSAGA_TEST_DATABASE_URL")
    if url is not None:
        yield url
        return
    from eventsaga.embedded import embedded_postgres

    with embedded_postgres(ephemeral=True, settings={"max_connections": 300}) as server:
        yield server.url


@pytest.fixture(scope="session")
def saga_template(saga_server: str) -> Iterator[str]:
    """Name of a migrated database that no test connects to."""
    from eventsaga.store.postgres import migrate

    name = f"eventsaga_template_{uuid4().hex[:8]}"
    _execute(saga_server, f"CREATE DATABASE {name}")
    migrate.upgrade(in_database(saga_server, name), schema="eventsaga")
    yield name
    _execute(saga_server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def saga_database(saga_server: str, saga_template: str) -> Iterator[str]:
    """URL of a migrated database that belongs to one test."""
    name = f"eventsaga_test_{uuid4().hex[:12]}"
    _execute(saga_server, f"CREATE DATABASE {name} TEMPLATE {saga_template}")
    yield in_database(saga_server, name)
    _execute(saga_server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def saga_drill(saga_server: str) -> "Callable[..., Coroutine[Any, Any, Report]]":
    """Kill workers of a saga, and see it through.

    ``report = await saga_drill("shop.sagas:orchestrator", context={...})``. The arguments are
    those of `eventsaga.drill.drill` but for the server; ``report.require_ok()`` raises with
    the history of a saga that did not come through.
    """
    from functools import partial

    from eventsaga.drill import drill

    return partial(drill, saga_server)


def in_database(url: str, name: str) -> str:
    """Return *url* for another database of the same server."""
    from sqlalchemy import make_url

    return make_url(url).set(database=name).render_as_string(hide_password=False)


def _execute(url: str, statement: str) -> None:
    import asyncpg

    async def execute() -> Any:
        connection = await asyncpg.connect(url)
        try:
            return await connection.execute(statement)
        finally:
            await connection.close()

    # In a thread of its own: the fixture may be asked for by one that is a coroutine.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, execute()).result()

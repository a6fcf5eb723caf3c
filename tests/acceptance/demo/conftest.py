"""One run of the demo in an empty directory, for all tests here."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import make_url

from eventsaga.embedded import EmbeddedPostgres, embedded_postgres
from eventsaga.embedded.postmaster import find_postmaster
from tests.acceptance.demo.process import Demo, Json, is_gone


@pytest.fixture(scope="package")
def data_dir() -> Iterator[Path]:
    """A directory whose path is short enough for a socket, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="es-") as path:
        yield Path(path).resolve() / "postgres"


@pytest.fixture(scope="package")
def played(data_dir: Path) -> Json:
    """What the first run in an empty directory says."""
    with Demo(data_dir, "--json") as demo:
        children = demo.children()
        code = demo.wait()
    assert code == 0, demo.err
    assert all(map(is_gone, children)), "a process was left behind"
    assert find_postmaster(data_dir / "cluster") is None, "the server was left running"
    assert "Traceback" not in demo.err
    return demo.document()


@pytest.fixture(scope="package")
def server(played: Json, data_dir: Path) -> Iterator[EmbeddedPostgres]:
    with embedded_postgres(data_dir, settings={"max_connections": 300}) as postgres:
        yield postgres


@pytest.fixture
async def db(server: EmbeddedPostgres) -> "AsyncIterator[asyncpg.Connection[Any]]":
    """The database of the first run; whatever a test does to it is taken back."""
    url = make_url(server.url).set(database="demo").render_as_string(hide_password=False)
    connection = await asyncpg.connect(url)
    transaction = connection.transaction()
    await transaction.start()
    yield connection
    await transaction.rollback()
    await connection.close()

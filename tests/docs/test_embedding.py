"""Do the examples of embedding work as somebody would run them, in processes and by HTTP?"""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import httpx
import pytest

from tests.acceptance.cli.console import SCRIPT
from tests.conftest import execute
from tests.docs.test_examples import run

ROOT = Path(__file__).resolve().parents[2]


def variables(database: str, **more: str) -> dict[str, str]:
    return {**os.environ, "EVENTSAGA_DATABASE_URL": database, **more}


@contextmanager
def process(*command: str, database: str, until: str, **more: str) -> Generator[str]:
    """Run *command* until the block ends; yield the first line that matches *until*."""
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=variables(database, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as running:
        assert running.stdout is not None
        try:
            lines: list[str] = []
            for line in running.stdout:
                lines.append(line)
                if re.search(until, line):
                    break
            else:
                pytest.fail("".join(lines))
            yield line.strip()
        finally:
            running.terminate()


@pytest.fixture
def worker(database: str) -> Iterator[None]:
    command = (str(SCRIPT), "worker", "examples.orders:order_saga")
    with process(*command, database=database, until="ready"):
        yield


async def sagas(database: str) -> list[tuple[str, int]]:
    connection = await asyncpg.connect(database)
    try:
        rows = await connection.fetch(
            "SELECT status, (context->>'order_id')::int FROM eventsaga.saga_list ORDER BY saga_id"
        )
    finally:
        await connection.close()
    return [tuple(row) for row in rows]


def all_ended(database: str) -> list[tuple[str, int]]:
    """Wait until every saga has ended, and return them."""
    while True:
        found = asyncio.run(sagas(database))
        if found and all(status in {"COMPLETED", "COMPENSATED"} for status, _ in found):
            return found


@pytest.mark.parametrize("where", ["lifespan", "process"])
def test_an_order_of_fastapi_has_a_saga_or_is_none(
    request: pytest.FixtureRequest, database: str, where: str
) -> None:
    if where == "process":
        request.getfixturevalue("worker")
    app = (sys.executable, "-m", "examples.fastapi_orders")
    flag = "0" if where == "process" else "1"
    with process(*app, database=database, until="^http", WORKER=flag) as url:
        placed = httpx.post(f"{url}/orders?total=10", timeout=30)
        refused = httpx.post(f"{url}/orders?total=0", timeout=30)
        dear = httpx.post(f"{url}/orders?total=2000", timeout=30)
        assert (placed.status_code, refused.status_code, dear.status_code) == (201, 422, 201)
        ends = [
            httpx.get(f"{url}/sagas/{reply.json()['saga_id']}", timeout=40).json()
            for reply in (placed, dear)
        ]

    assert ends == [
        {"status": "COMPLETED", "paid": True},
        {"status": "COMPENSATED", "paid": False},
    ]
    assert [order for _, order in asyncio.run(sagas(database))] == [1, 3]


def test_an_order_of_django_has_a_saga_or_is_none(worker: None, database: str) -> None:
    printed = run("django_orders", database)

    assert printed[0].startswith("201 ")
    assert printed[1:] == ["500", "1 order"]
    assert all_ended(database) == [("COMPLETED", 1)]


def test_a_row_that_is_inserted_starts_a_saga(worker: None, database: str) -> None:
    script = (ROOT / "examples" / "trigger.sql").read_text()
    rows = "INSERT INTO shop_orders (total) VALUES (10), (2000)"
    asyncio.run(execute(database, script, rows, f"BEGIN; {rows}; ROLLBACK"))

    assert all_ended(database) == [("COMPLETED", 1), ("COMPENSATED", 2)]


@pytest.fixture(scope="session")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which Node finds its client of PostgreSQL."""
    folder = tmp_path_factory.mktemp("node")
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("LEFT OUT: the client in JavaScript; there is no Node.js with npm here")
    command = [npm, "install", "--no-audit", "--no-fund", "--prefix", str(folder), "pg@8"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        pytest.skip("LEFT OUT: the client in JavaScript; npm could not get its package `pg`")
    shutil.copy(ROOT / "examples" / "node" / "client.mjs", folder)
    return folder


def test_a_client_in_javascript_needs_sql_only(
    worker: None, database: str, node_modules: Path
) -> None:
    done = subprocess.run(
        ["node", "client.mjs"],
        cwd=node_modules,
        env=variables(database),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["started once", "undefined", "COMPLETED 2", "55000"]


def test_two_services_do_everything_once_although_one_dies(database: str) -> None:
    assert run("two_services", database) == [
        "the hotel died with exit code 1",
        "COMPLETED",
        "flight: 1",
        "hotel: 1",
    ]

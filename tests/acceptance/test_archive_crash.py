"""Is an event ever in neither place? An archive is killed at each of its points, and repeated."""

import asyncio
from pathlib import Path

import asyncpg
import pytest

from eventsaga.client.verify import verify
from eventsaga.settings import Settings
from eventsaga.store.archive.check import Flaw, check
from eventsaga.store.ports import GivenUp
from eventsaga.store.postgres.bring_back import bring_back
from eventsaga.store.postgres.store import PostgresStore
from tests.acceptance.cli.console import Console
from tests.store.builders import new_worker
from tests.store.vandal import run_to_the_end

pytestmark = pytest.mark.mighty

EVENTS = """
SELECT saga_id, seq, type, schema_version, data::text, occurred_at, recorded_at, worker_id, salt,
       hash, digest
  FROM eventsaga.events
"""
# More than one batch.
SAGAS = 203
POINTS = (
    "before_archive_write:kill9@1",
    "during_archive_write:kill9@1",
    "during_archive_write:kill9@2",
    "after_archive_write:kill9@1",
    "before_archive_remove:kill9@2",
    "after_archive_remove:kill9@1",
    "after_archive_remove:kill9@2",
)


async def fill(store: PostgresStore) -> None:
    owner = await new_worker(store)
    held = await asyncio.gather(*(run_to_the_end(store, owner) for _ in range(SAGAS)))
    await store.give_up(owner, [GivenUp(each.saga_id, None) for each in held])


async def in_tables(url: str) -> set[tuple[object, ...]]:
    connection = await asyncpg.connect(url)
    try:
        return {tuple(row) for row in await connection.fetch(EVENTS)}
    finally:
        await connection.close()


def in_file(path: Path) -> list[tuple[object, ...]]:
    """Return the events of complete sagas; what is torn comes after them."""
    found = list(check(path)) if path.exists() else []
    return [
        tuple(record) for saga in found if not isinstance(saga, Flaw) for record in saga.records
    ]


@pytest.mark.parametrize("point", POINTS)
async def test_every_event_is_in_the_file_or_in_the_tables(
    database: str, tmp_path: Path, point: str
) -> None:
    async with PostgresStore(database, Settings()) as store:
        await fill(store)
        before = await in_tables(database)
        path, console = tmp_path / "sagas.jsonl.gz", Console(database)
        command = ("archive", "--older-than", "0s", "--to", str(path), "--json")

        killed = await asyncio.to_thread(console.run, *command, EVENTSAGA_FAILPOINTS=point)

        assert killed.returncode == -9
        assert await in_tables(database) | set(in_file(path)) == before
        assert not [violation async for violation in verify(store)]

        done = await asyncio.to_thread(console.call, *command)
        assert done.returncode == 0, done.stderr
        assert await in_tables(database) == set()
        found = in_file(path)
        assert set(found) == before
        assert len(found) == len(before), "nothing was written twice"
        checked = await asyncio.to_thread(console.call, "verify", str(path))
        assert checked.returncode == 0, checked.stdout

        brought = await bring_back(store, path)
        assert (brought.sagas, brought.events) == (SAGAS, len(before))
        assert await in_tables(database) == before
        assert not [violation async for violation in verify(store)]

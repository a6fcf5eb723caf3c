"""Does a migration that dies leave anything half? Its session ends between two statements."""

import asyncio
from typing import Final

import asyncpg
import pytest

from eventsaga.errors import DatabaseUnavailableError
from eventsaga.store.postgres import migrate
from tests.faults.load import dice
from tests.proxy import Loss, Proxy
from tests.runtime.sagas import run_sql

SCHEMA: Final = "eventsaga"
FIRST: Final = "0001"
SAMPLE: Final = 6
TABLES: Final = """
SELECT coalesce(array_agg(c.relname || ':' || c.relkind::text ORDER BY c.relname), '{}')
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = 'eventsaga'
"""
OTHERS: Final = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


async def _catalog(database: str) -> list[str]:
    connection = await asyncpg.connect(database)
    try:
        found: list[str] = await connection.fetchval(TABLES)
    finally:
        await connection.close()
    return found


async def _upgrade(url: str, revision: str = "head") -> None:
    await asyncio.to_thread(migrate.upgrade, url, schema=SCHEMA, revision=revision)


async def _statements(database: str, start: str | None) -> list[str]:
    """Return what a migration of *database* from *start* says; it is done then."""
    if start is not None:
        await _upgrade(database, start)
    async with Proxy(database) as proxy:
        await _upgrade(proxy.url)
        return list(dict.fromkeys(proxy.executed))


@pytest.mark.parametrize("start", [None, FIRST], ids=["from_nothing", "from_the_first_version"])
async def test_a_migration_whose_session_is_ended_between_statements_leaves_nothing_half(
    database: str, empty_database: str, start: str | None
) -> None:
    chance = dice()
    reset = f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE"
    statements = await _statements(empty_database, start)
    done = await _catalog(empty_database)
    assert done == await _catalog(database), "another way leads to another schema"

    for statement in chance.sample(statements, SAMPLE):
        await run_sql(empty_database, reset)
        if start is not None:
            await _upgrade(empty_database, start)
        before = await _catalog(empty_database)
        async with Proxy(empty_database) as proxy:
            fault = proxy.arm(Loss.DELAY, statement, held=True)
            upgrade = asyncio.create_task(_upgrade(proxy.url))
            async with asyncio.timeout(30):
                await fault.struck.wait()
            await run_sql(empty_database, OTHERS)
            fault.go_on.set()
            # Its session is gone, and the statement with it.
            fault.done.set()
            with pytest.raises(DatabaseUnavailableError):
                await upgrade

        assert await _catalog(empty_database) == before, statement
        await _upgrade(empty_database)
        assert await _catalog(empty_database) == done, statement

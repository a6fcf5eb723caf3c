"""What do tests of the store share? Databases, one after the other, and a look at what is left.

A copy of the template costs more than most of these tests. So a database is emptied and used
again, unless the test changed more than rows: then it is dropped, as everywhere else.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Final
from uuid import uuid4

import asyncpg
import pytest

from eventsaga.pytest_plugin import in_database
from tests.conftest import execute
from tests.store.barriers import until_alone
from tests.store.checker import flaws
from tests.store.vandal import Vandal

# All that a test may change beside rows of ours.
_SHAPE: Final = """
SELECT md5(string_agg(line, ';' ORDER BY line)) FROM (
    SELECT format('relation %s %s %s %s', oid, relname, relkind, reloptions) FROM pg_class
     WHERE relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname !~ '^(pg_|inform)')
     UNION ALL
    SELECT format('column %s %s %s %s %s', attrelid, attname, atttypid, attnotnull, atthasdef)
      FROM pg_attribute WHERE attrelid >= 16384
     UNION ALL
    SELECT format('constraint %s %s', oid, conname) FROM pg_constraint WHERE oid >= 16384
     UNION ALL
    SELECT format('trigger %s %s %s', oid, tgname, tgenabled) FROM pg_trigger
     UNION ALL
    SELECT format('function %s %s', oid, xmin) FROM pg_proc WHERE oid >= 16384
     UNION ALL
    SELECT format('schema %s %s', oid, nspname) FROM pg_namespace
     UNION ALL
    SELECT format('setting %s', setconfig) FROM pg_db_role_setting
     WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
     UNION ALL
    SELECT format('revision %s', version_num) FROM eventsaga.alembic_version
) AS shape(line)
"""

_EMPTY: Final = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid();
BEGIN;
ALTER TABLE eventsaga.events DISABLE TRIGGER events_no_truncate;
TRUNCATE eventsaga.events, eventsaga.sagas, eventsaga.workers, eventsaga.definitions,
         eventsaga.start_keys, eventsaga.inbox, eventsaga.limits, eventsaga.permits,
         eventsaga.schedules, eventsaga.feeds, eventsaga.archived_sagas,
         eventsaga.archived_events;
DELETE FROM eventsaga.incarnations
 WHERE system_identifier <> (SELECT system_identifier FROM eventsaga.incarnation());
UPDATE eventsaga.incarnations SET accepted_at = coalesce(accepted_at, clock_timestamp());
ALTER TABLE eventsaga.events ENABLE ALWAYS TRIGGER events_no_truncate;
COMMIT;
SELECT pg_stat_reset();
"""


async def _shape(url: str) -> str | None:
    connection = await asyncpg.connect(url)
    try:
        shape: str = await connection.fetchval(_SHAPE)
    except asyncpg.UndefinedTableError:
        return None
    finally:
        await connection.close()
    return shape


async def _empty(url: str, shape: str) -> bool:
    """Empty a database that still has *shape*; return whether it had."""
    if await _shape(url) != shape:
        return False
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(_EMPTY)
        await until_alone(connection)
    finally:
        await connection.close()
    return True


@pytest.fixture(scope="session")
def emptied(server_url: str) -> Iterator[dict[str, str]]:
    """Databases that are free to be used again, each with its shape."""
    free: dict[str, str] = {}
    yield free
    for name in free:
        asyncio.run(execute(server_url, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def database(server_url: str, template: str, emptied: dict[str, str]) -> Iterator[str]:
    """URL of a migrated database without a row, for one test at a time."""
    if emptied:
        name, shape = emptied.popitem()
    else:
        name = f"eventsaga_test_{uuid4().hex[:12]}"
        asyncio.run(execute(server_url, f"CREATE DATABASE {name} TEMPLATE {template}"))
        shape = asyncio.run(_shape(in_database(server_url, name))) or ""
    url = in_database(server_url, name)
    yield url
    if asyncio.run(_empty(url, shape)):
        emptied[name] = shape
    else:
        asyncio.run(execute(server_url, f"DROP DATABASE {name} WITH (FORCE)"))


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

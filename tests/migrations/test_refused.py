"""What does the schema protect? History from change, and stores from a schema they do not know."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Final
from uuid import uuid4

import asyncpg
import pytest

from eventsaga.errors import SchemaOutdatedError
from eventsaga.pytest_plugin import in_database
from eventsaga.settings import Settings
from eventsaga.store.postgres import migrate
from eventsaga.store.postgres.store import PostgresStore
from tests.conftest import execute
from tests.store.barriers import until_alone

_INSERT: Final = """
INSERT INTO eventsaga.events (saga_id, seq, type, schema_version, data, occurred_at, salt, hash)
VALUES ('00000000-0000-7000-8000-000000000001', $1, 'SagaStarted', 1, '{}', now(), '', '')
"""

CHANGES: Final = (
    "UPDATE eventsaga.events SET data = '[]'",
    "UPDATE eventsaga.events SET hash = 'x', salt = NULL",
    "DELETE FROM eventsaga.events",
    "TRUNCATE eventsaga.events",
    "TRUNCATE eventsaga.events, eventsaga.sagas CASCADE",
    (
        "INSERT INTO eventsaga.events SELECT * FROM eventsaga.events"
        " ON CONFLICT (saga_id, seq) DO UPDATE SET data = '[]'"
    ),
    "MERGE INTO eventsaga.events e USING (SELECT 1) x ON true WHEN MATCHED THEN DELETE",
    "WITH gone AS (DELETE FROM eventsaga.events RETURNING 1) SELECT count(*) FROM gone",
)


@pytest.fixture(scope="module")
def migrated(server_url: str, template: str) -> Iterator[str]:
    """URL of a database for all tests that leave no trace."""
    name = f"eventsaga_guarded_{uuid4().hex[:12]}"
    asyncio.run(execute(server_url, f"CREATE DATABASE {name} TEMPLATE {template}"))
    yield in_database(server_url, name)
    asyncio.run(execute(server_url, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
async def superuser(migrated: str) -> AsyncIterator[asyncpg.Connection]:
    """Somebody whom no privilege stops, and one event; all of it is undone at the end."""
    connection = await asyncpg.connect(migrated)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(_INSERT, 1)
    yield connection
    await transaction.rollback()
    await connection.close()


@asynccontextmanager
async def refused(
    superuser: asyncpg.Connection, error: type[Exception], text: str
) -> AsyncGenerator[None]:
    """Expect the block to fail so, and go on as if it had not been run."""
    attempt = superuser.transaction()
    await attempt.start()
    with pytest.raises(error, match=text):
        yield
    await attempt.rollback()


async def test_superusers_are_meant(superuser: asyncpg.Connection) -> None:
    assert await superuser.fetchval("SHOW is_superuser") == "on"


@pytest.mark.parametrize("role", ["origin", "local", "replica"])
@pytest.mark.parametrize("change", CHANGES)
async def test_events_are_append_only_even_for_a_superuser(
    superuser: asyncpg.Connection, change: str, role: str
) -> None:
    """Ordinary triggers are silent on a replica; these are not."""
    if change.startswith("MERGE") and superuser.get_server_version() < (15,):
        pytest.skip("this PostgreSQL has no MERGE")
    await superuser.execute(f"SET session_replication_role = {role}")

    async with refused(superuser, asyncpg.RestrictViolationError, "append-only"):
        await superuser.execute(change)

    assert await superuser.fetchval("SELECT data::text FROM eventsaga.events") == "{}"


@pytest.mark.parametrize("change", CHANGES[:4])
async def test_an_ordinary_trigger_would_be_silent_on_a_replica(
    superuser: asyncpg.Connection, change: str
) -> None:
    """The test above is able to fail: this is what it would find without ENABLE ALWAYS."""
    for trigger in ("events_append_only", "events_no_truncate"):
        await superuser.execute(f"ALTER TABLE eventsaga.events ENABLE TRIGGER {trigger}")
    await superuser.execute("SET session_replication_role = replica")

    assert await superuser.execute(change) in ("UPDATE 1", "DELETE 1", "TRUNCATE TABLE")


async def test_the_same_place_in_a_history_is_taken_once(superuser: asyncpg.Connection) -> None:
    async with refused(superuser, asyncpg.UniqueViolationError, "events_pkey"):
        await superuser.execute(_INSERT, 1)


@pytest.mark.parametrize("seq", [0, -1])
async def test_a_history_begins_with_one(superuser: asyncpg.Connection, seq: int) -> None:
    async with refused(superuser, asyncpg.CheckViolationError, "events_seq_check"):
        await superuser.execute(_INSERT, seq)


# -- opening a store --------------------------------------------------------------------


async def test_a_database_without_the_schema_is_refused(empty_database: str) -> None:
    with pytest.raises(SchemaOutdatedError) as caught:
        async with PostgresStore(empty_database, Settings()):
            pass

    assert caught.value.found is None
    assert caught.value.needed == migrate.newest_revision()
    assert "eventsaga db upgrade" in str(caught.value)


@pytest.mark.parametrize("revision", ["0000", "9999"])
async def test_an_older_and_a_newer_schema_are_refused(database: str, revision: str) -> None:
    superuser = await asyncpg.connect(database)
    await superuser.execute("UPDATE eventsaga.alembic_version SET version_num = $1", revision)
    await superuser.close()

    with pytest.raises(SchemaOutdatedError) as caught:
        async with PostgresStore(database, Settings()):
            pass

    assert caught.value.found == revision


async def test_a_schema_of_another_name_does_not_stand_in(database: str) -> None:
    with pytest.raises(SchemaOutdatedError):
        async with PostgresStore(database, Settings(schema="orders_sagas")):
            pass


async def test_a_refused_store_leaves_no_connection_behind(database: str) -> None:
    await execute(database, "DROP TABLE eventsaga.alembic_version")

    with pytest.raises(SchemaOutdatedError):
        async with PostgresStore(database, Settings()):
            pass

    observer = await asyncpg.connect(database)
    await until_alone(observer)
    await observer.close()

"""May the schema have another name? Yes, for everything, even a word of SQL."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from eventsaga.errors import SettingsError
from eventsaga.settings import Settings
from eventsaga.store.ports import Committed, Started
from eventsaga.store.postgres import append, claim, define, lease, mail, migrate, read
from eventsaga.store.postgres import start as starting
from eventsaga.store.postgres.sql import qualify
from eventsaga.store.postgres.store import PostgresStore
from tests.store.builders import (
    ORDERS,
    advance,
    new_start,
    new_worker,
    queue_start,
    start_saga,
)
from tests.store.postgres.verbs import VERBS, new_world

OTHER = "order"


@pytest.fixture
def renamed(empty_database: str) -> str:
    """URL of a database whose schema has another name, and that has no default one."""
    migrate.upgrade(empty_database, schema=OTHER)
    return empty_database


@pytest.fixture
async def other(renamed: str) -> AsyncIterator[PostgresStore]:
    async with PostgresStore(renamed, Settings(schema=OTHER)) as opened:
        yield opened


async def test_a_saga_runs_from_start_to_end_in_another_schema(
    other: PostgresStore, renamed: str
) -> None:
    connection = await asyncpg.connect(renamed)
    await connection.execute(f'SET search_path = "{OTHER}"')
    owner = await new_worker(other)
    held = await start_saga(other, owner, key="k")
    assert await queue_start(other, new_start(key="k")) == Started(held.saga_id, created=False)
    await start_saga(other)
    await start_saga(other)

    claimed = await other.claim(owner, ORDERS, 10)
    assert len(claimed) == 2
    while not held.state.status.is_settled:
        assert isinstance(await advance(other, held, owner), Committed)
    await connection.execute("UPDATE workers SET lease_until = clock_timestamp()")
    successor = await new_worker(other)
    assert len(await other.claim(successor, ORDERS, 10)) == 2
    async with connection.transaction():
        assert isinstance(await other.start_within(connection, new_start()), Started)

    assert await connection.fetchval("SELECT count(*) FROM sagas") == 4
    with pytest.raises(asyncpg.RestrictViolationError):
        await connection.execute("DELETE FROM events")
    await connection.close()


async def test_every_verb_works_in_another_schema(other: PostgresStore) -> None:
    for verb in VERBS:
        world = await new_world(other)
        await verb.call(other, world)


@pytest.mark.mighty
async def test_two_schemas_in_one_database_know_nothing_of_each_other(
    database: str, sql: asyncpg.Connection
) -> None:
    await asyncio.to_thread(migrate.upgrade, database, schema=OTHER)
    async with (
        PostgresStore(database, Settings()) as one,
        PostgresStore(database, Settings(schema=OTHER)) as two,
    ):
        first = await queue_start(one, new_start(key="k"))
        second = await queue_start(two, new_start(key="k"))
        assert isinstance(first, Started)
        assert isinstance(second, Started)
        assert first.created
        assert second.created
        assert await two.get(first.saga_id) is None
        assert await one.get(second.saga_id) is None
        assert await two.load_owned(uuid4(), []) == []


@pytest.mark.parametrize(
    "schema",
    ["", "Upper", "1st", "a b", "a.b", 'a"b', "a'b", "a;b", "größe", "a-b", "a\n", "x" * 51],
)
def test_a_name_that_would_need_quoting_is_refused(schema: str) -> None:
    with pytest.raises(SettingsError, match="schema"):
        Settings(schema=schema)


@pytest.mark.parametrize("schema", ["a", "_", "eventsaga2", "x" * 50, "select_1"])
def test_a_plain_name_is_taken(schema: str) -> None:
    assert Settings(schema=schema).schema == schema


@pytest.mark.parametrize(
    "module", [append, claim, define, lease, mail, read, starting], ids=lambda m: m.__name__
)
def test_no_statement_names_the_default_schema_when_another_is_set(module: object) -> None:
    """Also one that is added later: every constant of a verb's module is looked at."""
    statements = [
        value
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, str) and "eventsaga" in value
    ]

    assert statements
    for statement in statements:
        assert "eventsaga" not in qualify(statement, OTHER)

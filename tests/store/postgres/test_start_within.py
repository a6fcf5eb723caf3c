"""What if a saga is started inside the caller's transaction? It exists if that commits."""

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

import asyncpg
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine

from eventsaga.errors import KeyConflictError
from eventsaga.settings import Settings
from eventsaga.store.ports import Refused, Started
from eventsaga.store.postgres.store import PostgresStore
from tests.store.builders import ORDERS, new_start, new_worker, queue_start
from tests.store.checker import event_types

COUNTS: Final = """
SELECT (SELECT count(*) FROM eventsaga.sagas), (SELECT count(*) FROM eventsaga.events),
       (SELECT count(*) FROM eventsaga.start_keys)
"""


class Caller:
    """The application's transaction, whatever it is made of."""

    def __init__(
        self, connection: Any, *, commit: Callable[[], Any], undo: Callable[[], Any]
    ) -> None:
        self.connection = connection
        self.commit = commit
        self.undo = undo


@asynccontextmanager
async def _engine(url: str) -> AsyncGenerator[AsyncEngine]:
    engine = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"))
    try:
        yield engine
    finally:
        await engine.dispose()


@asynccontextmanager
async def by_asyncpg(url: str) -> AsyncGenerator[Caller]:
    connection = await asyncpg.connect(url)
    transaction = connection.transaction()
    await transaction.start()
    yield Caller(connection, commit=transaction.commit, undo=transaction.rollback)
    await connection.close()


@asynccontextmanager
async def by_pooled_asyncpg(url: str) -> AsyncGenerator[Caller]:
    """What a pool lends is a proxy of a connection, not one."""
    async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool, pool.acquire() as lent:
        transaction = lent.transaction()
        await transaction.start()
        yield Caller(lent, commit=transaction.commit, undo=transaction.rollback)


@asynccontextmanager
async def by_connection(url: str) -> AsyncGenerator[Caller]:
    async with _engine(url) as engine, engine.connect() as connection:
        yield Caller(connection, commit=connection.commit, undo=connection.rollback)


@asynccontextmanager
async def by_session(url: str) -> AsyncGenerator[Caller]:
    async with _engine(url) as engine, AsyncSession(engine) as session:
        yield Caller(session, commit=session.commit, undo=session.rollback)


each_way = pytest.mark.parametrize(
    "way", [by_asyncpg, by_pooled_asyncpg, by_connection, by_session]
)
Way = Callable[[str], AbstractAsyncContextManager[Caller]]


@each_way
async def test_the_saga_exists_from_the_caller_s_commit_on(
    database: str, store: PostgresStore, sql: asyncpg.Connection, way: Way
) -> None:
    worker = await new_worker(store)
    async with way(database) as caller:
        result = await store.start_within(caller.connection, new_start(key="k"))

        assert isinstance(result, Started)
        assert result.created
        assert tuple(await sql.fetchrow(COUNTS) or ()) == (0, 0, 0)
        assert await store.claim(worker, ORDERS, 10) == []

        await caller.commit()

    (claimed,) = await store.claim(worker, ORDERS, 10)
    assert claimed.saga_id == result.saga_id
    assert claimed.history[-1].hash == result.last_hash
    assert await event_types(sql, result.saga_id) == ["SagaStarted"]


@each_way
async def test_a_rollback_leaves_nothing_and_the_key_is_free(
    database: str, store: PostgresStore, sql: asyncpg.Connection, way: Way
) -> None:
    async with way(database) as caller:
        await store.start_within(caller.connection, new_start(key="k"))
        await caller.undo()

    assert tuple(await sql.fetchrow(COUNTS) or ()) == (0, 0, 0)
    result = await queue_start(store, new_start(key="k", context={"other": "input"}))
    assert isinstance(result, Started)
    assert result.created


@each_way
async def test_a_key_that_is_taken_answers_with_its_saga(
    database: str, store: PostgresStore, sql: asyncpg.Connection, way: Way
) -> None:
    """And the caller's transaction is still good."""
    first = await queue_start(store, new_start(key="k"))
    assert isinstance(first, Started)
    async with way(database) as caller:
        same = await store.start_within(caller.connection, new_start(key="k"))
        other = await store.start_within(caller.connection, new_start(key="k", context={"b": 2}))
        third = await store.start_within(caller.connection, new_start(key="k2"))
        await caller.commit()

    assert same == Started(first.saga_id, created=False)
    assert isinstance(other, Refused)
    assert isinstance(other.error, KeyConflictError)
    assert isinstance(third, Started)
    assert tuple(await sql.fetchrow(COUNTS) or ()) == (2, 2, 2)


@each_way
async def test_the_same_key_twice_in_one_transaction_is_one_saga(
    database: str, store: PostgresStore, sql: asyncpg.Connection, way: Way
) -> None:
    async with way(database) as caller:
        first = await store.start_within(caller.connection, new_start(key="k"))
        second = await store.start_within(caller.connection, new_start(key="k"))
        await caller.commit()

    assert isinstance(first, Started)
    assert second == Started(first.saga_id, created=False)


@each_way
async def test_the_caller_s_settings_stay_as_they_are(
    database: str, store: PostgresStore, sql: asyncpg.Connection, way: Way
) -> None:
    """Our bound on locks would otherwise hold for the rest of the caller's transaction."""
    async with way(database) as caller:
        await _ask(caller.connection, "SELECT set_config('lock_timeout', '7s', true)")
        await store.start_within(caller.connection, new_start(key="k"))
        assert await _ask(caller.connection, "SHOW lock_timeout") == "7s"
        await caller.commit()


async def _ask(connection: Any, question: str) -> Any:
    if isinstance(connection, AsyncConnection | AsyncSession):
        return await connection.scalar(text(question))
    return await connection.fetchval(question)


async def test_a_session_that_was_used_before_shares_its_transaction(
    database: str, store: PostgresStore, sql: asyncpg.Connection
) -> None:
    await sql.execute("CREATE TABLE orders (id text)")
    async with by_session(database) as caller:
        await caller.connection.execute(text("INSERT INTO orders VALUES ('o-1')"))
        result = await store.start_within(caller.connection, new_start())
        await caller.connection.execute(text("INSERT INTO orders VALUES ('o-2')"))
        await caller.commit()

    assert isinstance(result, Started)
    transactions = await sql.fetch(
        "SELECT xmin::text FROM orders UNION SELECT xmin::text FROM eventsaga.sagas"
        " UNION SELECT xmin::text FROM eventsaga.events"
    )
    assert len(transactions) == 1


@pytest.mark.parametrize("kind", ["json", "jsonb"])
async def test_a_connection_with_a_codec_of_its_own_stores_the_same(
    database: str, store: PostgresStore, sql: asyncpg.Connection, kind: str
) -> None:
    """Applications let asyncpg turn dicts into json; our text is not to be turned again."""
    async with by_asyncpg(database) as caller:
        await caller.connection.set_type_codec(
            kind, encoder=json.dumps, decoder=json.loads, schema="pg_catalog"
        )
        await store.start_within(caller.connection, new_start(context={"order_id": "o-1"}))
        await caller.commit()

    kinds = "SELECT json_typeof(data) FROM eventsaga.events"
    assert await sql.fetchval(kinds) == "object"
    context = "SELECT context ->> 'order_id' FROM eventsaga.sagas"
    assert await sql.fetchval(context) == "o-1"


async def test_a_key_that_the_caller_s_snapshot_does_not_show_is_not_started_twice(
    database: str, store: PostgresStore, sql: asyncpg.Connection
) -> None:
    """In REPEATABLE READ that is a serialization failure, which callers repeat anyway."""
    async with by_asyncpg(database) as caller:
        await caller.undo()
        transaction = caller.connection.transaction(isolation="repeatable_read")
        await transaction.start()
        await caller.connection.fetchval("SELECT count(*) FROM eventsaga.sagas")
        await queue_start(store, new_start(key="k"))

        with pytest.raises(asyncpg.SerializationError):
            await store.start_within(caller.connection, new_start(key="k"))
        await transaction.rollback()

    assert tuple(await sql.fetchrow(COUNTS) or ()) == (1, 1, 1)


async def test_a_connection_outside_a_transaction_starts_at_once(
    database: str, store: PostgresStore, sql: asyncpg.Connection
) -> None:
    connection = await asyncpg.connect(database)
    await store.start_within(connection, new_start())
    await connection.close()

    assert tuple(await sql.fetchrow(COUNTS) or ()) == (1, 1, 0)


@pytest.mark.parametrize(
    "connection", [None, "postgresql://", object()], ids=["none", "url", "object"]
)
async def test_what_is_no_connection_is_refused(store: PostgresStore, connection: object) -> None:
    with pytest.raises(TypeError, match="AsyncSession, an AsyncConnection or asyncpg's"):
        await store.start_within(connection, new_start())


async def test_an_engine_is_not_a_connection(database: str, store: PostgresStore) -> None:
    async with _engine(database) as engine:
        with pytest.raises(TypeError, match="not AsyncEngine"):
            await store.start_within(engine, new_start())


async def test_a_store_may_be_opened_by_an_engine(database: str, sql: asyncpg.Connection) -> None:
    async with _engine(database) as engine, PostgresStore(engine, Settings()) as store:
        assert isinstance(await queue_start(store, new_start()), Started)

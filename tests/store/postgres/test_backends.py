"""What if PostgreSQL ends a backend under a statement? Then it is sent again, or reported.

Every statement is held by a table lock, and its backend terminated or cancelled there.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
import pytest

from eventsaga.errors import DatabaseUnavailableError
from eventsaga.settings import Settings
from eventsaga.store.ports import Committed, Started
from eventsaga.store.postgres.store import PostgresStore
from tests.store.barriers import transaction, until, until_alone, until_blocked
from tests.store.builders import (
    LEASE,
    ORDERS,
    new_append,
    new_start,
    new_worker,
    queue_append,
    queue_start,
    start_saga,
)
from tests.store.checker import event_types
from tests.store.postgres.verbs import VERBS, Verb, new_world

_END_BLOCKED: Final = """
SELECT count(*) FILTER (WHERE {function}(pid)) > 0 FROM pg_stat_activity
 WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE $1
"""

each_verb = pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
each_end = pytest.mark.parametrize("end", ["pg_terminate_backend", "pg_cancel_backend"])


@asynccontextmanager
async def held_up(database: str, table: str) -> AsyncGenerator[asyncpg.Connection]:
    """Let no statement pass that touches *table*."""
    async with transaction(database) as stranger:
        await stranger.execute(f"LOCK TABLE eventsaga.{table} IN ACCESS EXCLUSIVE MODE")
        yield stranger


async def end_blocked(sql: asyncpg.Connection, function: str, text: str) -> None:
    """End the backend of a statement with *text* in it, as soon as one waits."""
    await until(sql, _END_BLOCKED.format(function=function), f"%{text}%")


@each_verb
async def test_a_verb_is_reported_if_it_is_cancelled_and_sent_again_if_its_backend_ends(
    database: str, store: PostgresStore, sql: asyncpg.Connection, verb: Verb
) -> None:
    """Who cancels a statement wants it gone; who ends a backend does not mean the statement."""
    world = await new_world(store)
    async with held_up(database, verb.table):
        task = asyncio.ensure_future(verb.call(store, world))
        await end_blocked(sql, "pg_cancel_backend", verb.text)
        with pytest.raises(DatabaseUnavailableError, match="cancel"):
            await task

        task = asyncio.ensure_future(verb.call(store, world))
        await end_blocked(sql, "pg_terminate_backend", verb.text)

    assert verb.answers(await task)
    assert await sql.fetchval(verb.after)


@each_end
@pytest.mark.parametrize("table", ["sagas", "events"])
async def test_an_append_is_taken_once_whatever_happens_to_its_backend(
    database: str, sql: asyncpg.Connection, end: str, table: str
) -> None:
    async with PostgresStore(database, Settings(append_writers=1)) as store:
        owner = await new_worker(store)
        held = await start_saga(store, owner)
        async with held_up(database, table):
            outcome = queue_append(store, new_append(held), owner)
            await end_blocked(sql, end, "SET last_seq")
            # Now it is sent again, or looked up: that ends the same way, twice.
            for _ in range(2):
                await end_blocked(sql, end, "eventsaga.")

        assert isinstance(await outcome, Committed)
        assert len(await event_types(sql, held.saga_id)) == 4


@each_end
@pytest.mark.parametrize("table", ["start_keys", "sagas", "events"])
async def test_a_start_happens_once_whatever_happens_to_its_backend(
    database: str, sql: asyncpg.Connection, end: str, table: str
) -> None:
    async with PostgresStore(database, Settings(append_writers=1)) as store:
        async with held_up(database, table):
            outcome = queue_start(store, new_start(key="k"))
            await end_blocked(sql, end, "keyed AS")
            for _ in range(2):
                await end_blocked(sql, end, "eventsaga.")

        result = await outcome
        assert isinstance(result, Started)
        assert result.created
        assert await sql.fetchval("SELECT count(*) FROM eventsaga.sagas") == 1


@each_end
async def test_a_claim_that_is_ended_has_claimed_nothing(
    database: str, store: PostgresStore, sql: asyncpg.Connection, end: str
) -> None:
    held, worker = await start_saga(store), await new_worker(store)
    async with held_up(database, "sagas"):
        task = asyncio.ensure_future(store.claim(worker, ORDERS, 10))
        await end_blocked(sql, end, "names AS MATERIALIZED")
        with pytest.raises(DatabaseUnavailableError):
            await task

    assert await store.load_owned(worker, []) == []
    (claimed,) = await store.claim(worker, ORDERS, 10)
    assert claimed.saga_id == held.saga_id


async def test_a_store_survives_the_end_of_all_its_backends(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    """As after a restart: nothing that is pooled or open is worth anything any more."""
    world = await new_world(store)
    for _ in range(3):
        await asyncio.gather(*(store.now() for _ in range(4)))
        rows = await sql.fetch(
            "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        gone = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = ANY ($1))"
        await until(sql, gone, [row["pid"] for row in rows])

        assert (await store.renew(world.worker, LEASE)).granted
        assert len(await asyncio.gather(*(store.now() for _ in range(4)))) == 4
        result = await queue_start(store, new_start())
        assert isinstance(result, Started)


async def test_a_caller_that_is_cancelled_gives_its_connection_back(
    database: str, sql: asyncpg.Connection
) -> None:
    """Pools have been drained by that before: one connection, cancelled many times."""
    async with PostgresStore(database, Settings(pool_size=1)) as store:
        world = await new_world(store)
        for _ in range(5):
            async with held_up(database, "inbox"):
                task = asyncio.ensure_future(store.read_mail(world.worker, 10))
                await until_blocked(sql, "ORDER BY i.created_at")
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
        assert len(await store.read_mail(world.worker, 10)) == 1


async def test_a_closed_store_leaves_no_backend_behind(
    database: str, sql: asyncpg.Connection
) -> None:
    async with PostgresStore(database, Settings()) as store:
        await asyncio.gather(*(queue_start(store, new_start()) for _ in range(20)))
        await asyncio.gather(*(store.now() for _ in range(10)))

    await until_alone(sql)

"""What do sagas in one statement owe each other? Nothing: each commits, waits or fails alone."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from sqlalchemy import make_url

from eventsaga.core.commands import RequestCancel
from eventsaga.settings import Settings
from eventsaga.store.ports import AppendResult, Committed, Fenced, Refused
from eventsaga.store.postgres.store import PostgresStore
from tests.conftest import execute
from tests.proxy import Proxy
from tests.store.barriers import locked, logged, until, until_blocked
from tests.store.builders import (
    Held,
    advance,
    new_append,
    new_start,
    new_worker,
    queue_append,
    queue_start,
    start_saga,
    start_sagas,
)
from tests.store.checker import event_types

APPEND = "SET last_seq"


@pytest.fixture
async def single(database: str) -> AsyncIterator[PostgresStore]:
    """A store with one writer: what queues while it is busy is one batch."""
    async with PostgresStore(database, Settings(append_writers=1)) as opened:
        yield opened


async def queue_together(
    store: PostgresStore, owner: Any, sagas: list[Held]
) -> list[asyncio.Future[AppendResult]]:
    """Queue one append for each of *sagas*; one idle writer takes them as one batch."""
    return [queue_append(store, new_append(held), owner) for held in sagas]


def kinds(results: list[AppendResult]) -> list[type[AppendResult]]:
    return [type(result) for result in results]


async def test_what_queues_while_a_writer_is_busy_is_one_statement(
    database: str, sql: asyncpg.Connection
) -> None:
    async with Proxy(database) as proxy:
        settings = Settings(append_writers=1, append_batch=100)
        async with PostgresStore(proxy.url, settings) as store:
            owner = await new_worker(store)
            sagas = await start_sagas(store, owner, 150)
            proxy.executed.clear()

            results = await asyncio.gather(*await queue_together(store, owner, sagas))

    assert kinds(results) == [Committed] * 150
    assert sum(APPEND in statement for statement in proxy.executed) == 2


async def test_a_fenced_saga_does_not_hold_back_its_batch(
    single: PostgresStore, sql: asyncpg.Connection
) -> None:
    owner = await new_worker(single)
    sagas = await start_sagas(single, owner, 5)
    await sql.execute(
        "UPDATE eventsaga.sagas SET owner = gen_random_uuid() WHERE saga_id = $1",
        sagas[2].saga_id,
    )

    results = await asyncio.gather(*await queue_together(single, owner, sagas))

    assert kinds(results) == [Committed, Committed, Fenced, Committed, Committed]


async def occupied_place(sql: asyncpg.Connection, held: Held) -> None:
    """Let somebody forge the next event: the primary key is the second wall."""
    await sql.execute(
        "INSERT INTO eventsaga.events (saga_id, seq, type, schema_version, data, occurred_at,"
        " salt, hash) VALUES ($1, $2, 'StepSucceeded', 1, '{}', now(), '', '')",
        held.saga_id,
        held.state.seq + 2,
    )


async def check_that_fails(sql: asyncpg.Connection, held: Held) -> None:
    """Let a constraint refuse the row."""
    await sql.execute(
        "ALTER TABLE eventsaga.sagas ADD CONSTRAINT whim"
        f" CHECK (saga_id <> '{held.saga_id}' OR last_seq <= {held.state.seq})"
    )


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (occupied_place, asyncpg.UniqueViolationError),
        (check_that_fails, asyncpg.CheckViolationError),
    ],
)
async def test_a_bad_row_fails_alone(
    database: str,
    single: PostgresStore,
    spoil: Callable[[asyncpg.Connection, Held], Any],
    error: type[Exception],
) -> None:
    sql = await asyncpg.connect(database)
    owner = await new_worker(single)
    sagas = await start_sagas(single, owner, 7)
    await spoil(sql, sagas[4])

    results = await asyncio.gather(*await queue_together(single, owner, sagas))

    assert kinds(results) == [Committed] * 4 + [Refused] + [Committed] * 2
    refused = results[4]
    assert isinstance(refused, Refused)
    assert isinstance(refused.error, error)
    assert (await event_types(sql, sagas[4].saga_id))[:2] == ["SagaStarted", "StepStarted"]
    await sql.close()


async def test_a_value_that_the_driver_refuses_fails_alone(
    single: PostgresStore, sql: asyncpg.Connection
) -> None:
    """It never reaches the server, so there is no SQLSTATE to go by."""
    owner = await new_worker(single)
    sagas = await start_sagas(single, owner, 3)
    appends = [new_append(held) for held in sagas]
    appends[1].state.seq = 2**40

    results = await asyncio.gather(*(queue_append(single, each, owner) for each in appends))

    assert kinds(results) == [Committed, Refused, Committed]


async def test_a_locked_row_delays_nobody_but_its_saga(
    database: str, single: PostgresStore, sql: asyncpg.Connection
) -> None:
    """However long it is held: neither its batch nor those after it wait for it."""
    owner = await new_worker(single)
    sagas = await start_sagas(single, owner, 8)
    async with locked(database, sagas[0].saga_id):
        outcomes = await queue_together(single, owner, sagas)

        assert kinds(list(await asyncio.gather(*outcomes[1:]))) == [Committed] * 7
        for held in await start_sagas(single, owner, 3):
            assert isinstance(await advance(single, held, owner), Committed)
        await until_blocked(sql, APPEND)
        assert not outcomes[0].done()

    assert isinstance(await outcomes[0], Committed)


async def test_several_locked_rows_wait_by_themselves(
    database: str, single: PostgresStore, sql: asyncpg.Connection
) -> None:
    """More than there are writers."""
    owner = await new_worker(single)
    sagas = await start_sagas(single, owner, 6)
    async with locked(database, sagas[1].saga_id), locked(database, sagas[4].saga_id):
        outcomes = await queue_together(single, owner, sagas)
        free = [outcome for number, outcome in enumerate(outcomes) if number not in (1, 4)]

        assert kinds(list(await asyncio.gather(*free))) == [Committed] * 4

    assert kinds([await outcomes[1], await outcomes[4]]) == [Committed] * 2


async def test_a_saga_that_is_taken_over_while_its_row_is_locked_is_fenced(
    database: str, single: PostgresStore, sql: asyncpg.Connection
) -> None:
    """Waiting aside does not make an append any more valid."""
    owner = await new_worker(single)
    sagas = await start_sagas(single, owner, 2)
    async with locked(database, sagas[0].saga_id) as thief:
        outcomes = await queue_together(single, owner, sagas)
        assert isinstance(await outcomes[1], Committed)
        await thief.execute(
            "UPDATE eventsaga.sagas SET owner = gen_random_uuid() WHERE saga_id = $1",
            sagas[0].saga_id,
        )

    assert isinstance(await outcomes[0], Fenced)


async def test_closing_the_store_waits_for_what_waits_for_a_lock(
    database: str, sql: asyncpg.Connection
) -> None:
    async with PostgresStore(database, Settings(append_writers=1)) as store:
        owner = await new_worker(store)
        held = await start_saga(store, owner)
        async with locked(database, held.saga_id):
            outcome = queue_append(store, new_append(held), owner)
            await until_blocked(sql, APPEND)
            closing = asyncio.create_task(store._writer.close(30))
        await closing

    assert isinstance(outcome.result(), Committed)


# -- deadlocks and serialization ----------------------------------------------------------


async def test_a_deadlock_with_somebody_else_costs_nobody_a_saga(
    database: str, single: PostgresStore, sql: asyncpg.Connection
) -> None:
    """A stranger holds one row of the batch and asks for the other: both wait for each other."""
    owner = await new_worker(single)
    sagas = await start_sagas(single, owner, 2)
    first, second = (held.saga_id for held in sagas)
    async with locked(database, second) as stranger:
        outcomes = await queue_together(single, owner, sagas)
        await until_blocked(sql, APPEND)
        await stranger.execute("SELECT FROM eventsaga.sagas WHERE saga_id = $1 FOR UPDATE", first)

    assert kinds(list(await asyncio.gather(*outcomes))) == [Committed] * 2


INFRASTRUCTURE = {
    "40001": "serialization failure",
    "40P01": "deadlock detected",
    "53100": "disk full",
    "53200": "out of memory",
    "55P03": "lock not available",
    "57014": "cancelled by an administrator",
    "57P01": "terminated by an administrator",
    "58030": "input or output error",
    "25006": "a standby, after a failover",
}


async def fail_twice(sql: asyncpg.Connection, event: str, sqlstate: str) -> None:
    """Let the next two *event*s (INSERT or UPDATE) on sagas fail with *sqlstate*.

    A sequence counts them: it goes on although the transactions are rolled back.
    """
    await sql.execute(
        f"""
        CREATE SEQUENCE failures;
        CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF nextval('public.failures') <= 2 THEN
                RAISE EXCEPTION 'out of order' USING ERRCODE = '{sqlstate}';
            END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER fail BEFORE {event} ON eventsaga.sagas
            FOR EACH STATEMENT EXECUTE FUNCTION fail();
        """
    )


@pytest.mark.parametrize("sqlstate", INFRASTRUCTURE, ids=INFRASTRUCTURE.get)
async def test_what_is_wrong_with_the_database_is_waited_out(
    single: PostgresStore, sql: asyncpg.Connection, sqlstate: str
) -> None:
    """No append and no start is refused for it, alone or in a batch."""
    owner = await new_worker(single)
    sagas = await start_sagas(single, owner, 3)

    await fail_twice(sql, "UPDATE", sqlstate)
    results = await asyncio.gather(*await queue_together(single, owner, sagas))
    assert kinds(list(results)) == [Committed] * 3

    await sql.execute("DROP FUNCTION fail CASCADE; DROP SEQUENCE failures")
    await fail_twice(sql, "INSERT", sqlstate)
    assert isinstance(await advance(single, await start_saga(single, owner), owner), Committed)
    assert await sql.fetchval("SELECT last_value > 2 FROM failures")


@pytest.mark.parametrize("isolation", ["serializable", "repeatable read"])
async def test_a_stricter_isolation_level_costs_time_and_nothing_else(
    database: str, sql: asyncpg.Connection, isolation: str
) -> None:
    """Where the database's default is not READ COMMITTED, failed statements are repeated."""
    name = make_url(database).database
    await execute(
        database, f"ALTER DATABASE {name} SET default_transaction_isolation = '{isolation}'"
    )
    settings = Settings(append_batch=5)
    async with PostgresStore(database, settings) as store:
        owner = await new_worker(store)
        sagas = await start_sagas(store, owner, 40)
        results = await asyncio.gather(*await queue_together(store, owner, sagas))

    assert kinds(list(results)) == [Committed] * 40


@pytest.mark.parametrize("isolation", ["serializable", "repeatable read", "read committed"])
async def test_a_row_that_changes_under_the_statement_is_looked_at_again(
    database: str, sql: asyncpg.Connection, isolation: str
) -> None:
    """In the stricter levels that is an error, which says nothing about the saga."""
    name = make_url(database).database
    await execute(
        database, f"ALTER DATABASE {name} SET default_transaction_isolation = '{isolation}'"
    )
    async with PostgresStore(database, Settings(append_writers=1)) as store:
        owner = await new_worker(store)
        held = await start_saga(store, owner)
        async with locked(database, held.saga_id) as stranger:
            outcome = queue_append(store, new_append(held), owner)
            await until_blocked(sql, APPEND)
            await stranger.execute("UPDATE eventsaga.sagas SET claims = claims")

        assert isinstance(await outcome, Committed)


# -- no connection ------------------------------------------------------------------------


async def test_a_role_that_may_not_log_in_for_a_while_costs_no_append(
    database: str, sql: asyncpg.Connection
) -> None:
    """28000 is no error of the saga's: whatever is wrong with a login, appends wait."""
    role = f"worker_{make_url(database).database}"
    await sql.execute(f"CREATE ROLE {role} SUPERUSER LOGIN")
    try:
        url = make_url(database).set(username=role).render_as_string(hide_password=False)
        async with PostgresStore(url, Settings(append_writers=1)) as store:
            owner = await new_worker(store)
            held = await start_saga(store, owner)
            await sql.execute(f"ALTER ROLE {role} NOLOGIN")
            await sql.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", role
            )
            await until(
                sql, "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE usename = $1)", role
            )
            with logged("not permitted to log in") as refused:
                outcome = queue_append(store, new_append(held), owner)
                started = queue_start(store, new_start())
                await refused.wait()
            await sql.execute(f"ALTER ROLE {role} LOGIN")

            assert isinstance(await outcome, Committed)
            await started
    finally:
        await sql.execute(f"DROP ROLE {role}")


async def test_a_cancel_request_is_appended_like_anything_else(
    single: PostgresStore, sql: asyncpg.Connection
) -> None:
    """And a saga that was cancelled can be read back."""
    owner = await new_worker(single)
    held = await start_saga(single, owner)
    request = RequestCancel(at=held.state.updated_at + timedelta(seconds=1), reason="r", actor="a")

    await advance(single, held, owner, request)
    while not held.state.status.is_settled:
        assert isinstance(await advance(single, held, owner), Committed)

    history = await single.history(held.saga_id)
    assert "CompensationStarted" in [stored.type for stored in history]

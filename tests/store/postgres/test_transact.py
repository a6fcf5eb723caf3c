"""Are a step's own rows and its result one commit? Always both, or neither, and we know which."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import event, make_url, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from eventsaga.errors import DatabaseUnavailableError, TransactionMisusedError
from eventsaga.settings import Settings
from eventsaga.store.ports import Committed, Fenced, RolledBack, Transaction
from eventsaga.store.postgres.store import PostgresStore
from eventsaga.store.postgres.transact import may_succeed
from tests.proxy import Loss, Proxy
from tests.store.barriers import locked, logged, until, until_blocked
from tests.store.builders import (
    Held,
    advance,
    new_append,
    new_worker,
    start_saga,
    take_over,
)
from tests.store.checker import event_types

SOON = timedelta(seconds=10)
BEFORE: Final = ["SagaStarted", "StepStarted"]
AFTER: Final = ["SagaStarted", "StepStarted", "StepSucceeded", "StepStarted"]
COMMIT: Final = "COMMIT;"
READ_BACK: Final = "AS is_open"
SETTLE: Final = "FOR SHARE"

RAISING: Final = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'not now' USING ERRCODE = '{code}'; END $$;
CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON orders
   DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse();
"""


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[str] = mapped_column(primary_key=True)
    customer: Mapped[str | None]


@pytest.fixture(autouse=True)
async def orders(sql: asyncpg.Connection) -> None:
    """The user's tables, one of which refuses an unknown customer at COMMIT."""
    await sql.execute("CREATE TABLE customers (id text PRIMARY KEY)")
    await sql.execute(
        "CREATE TABLE orders (id text PRIMARY KEY,"
        " customer text REFERENCES customers DEFERRABLE INITIALLY DEFERRED)"
    )


@pytest.fixture
async def owner(store: PostgresStore) -> UUID:
    return await new_worker(store)


@pytest.fixture
async def held(store: PostgresStore, owner: UUID) -> Held:
    return await start_saga(store, owner)


@pytest.fixture
async def proxy(database: str) -> AsyncIterator[Proxy]:
    async with Proxy(database) as opened:
        yield opened


@pytest.fixture
async def far(proxy: Proxy) -> AsyncIterator[PostgresStore]:
    """A store behind the proxy that has one connection for transactions."""
    async with PostgresStore(proxy.url, Settings(transactions=1)) as opened:
        yield opened


async def insert(tx: Transaction, order: str = "o-1", customer: str | None = None) -> None:
    """Do what a step does."""
    await tx.connection.execute(
        text("INSERT INTO orders VALUES (:id, :customer)"), {"id": order, "customer": customer}
    )


async def rows(sql: asyncpg.Connection) -> list[str]:
    return [row["id"] for row in await sql.fetch("SELECT id FROM orders ORDER BY id")]


async def finish(store: PostgresStore, sql: asyncpg.Connection, held: Held, owner: UUID) -> None:
    """Run the step once more, undisturbed, and see that both are stored."""
    tx = await store.begin(SOON)
    await insert(tx, "again")
    result = await tx.commit(new_append(held), owner)
    assert isinstance(result, Committed)
    assert "again" in await rows(sql)
    assert await event_types(sql, held.saga_id) == AFTER


async def nothing_is_left(sql: asyncpg.Connection, held: Held) -> None:
    assert await rows(sql) == []
    assert await event_types(sql, held.saga_id) == BEFORE
    # No transaction is left open, in a pool or elsewhere.
    await until(
        sql,
        "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = current_database()"
        " AND state LIKE 'idle in transaction%'",
    )


async def pid_of(tx: Transaction) -> int:
    pid: int = await tx.connection.scalar(text("SELECT pg_backend_pid()"))
    return pid


async def terminate(sql: asyncpg.Connection, pid: int) -> None:
    await sql.execute("SELECT pg_terminate_backend($1)", pid)
    await until(sql, "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", pid)


# -- both or neither ----------------------------------------------------------------------


async def test_rows_and_events_are_committed_together(
    store: PostgresStore, sql: asyncpg.Connection, held: Held, owner: UUID
) -> None:
    tx = await store.begin(SOON)
    await insert(tx)
    assert await rows(sql) == []
    assert await event_types(sql, held.saga_id) == BEFORE

    result = await tx.commit(new_append(held), owner)

    assert isinstance(result, Committed)
    assert await rows(sql) == ["o-1"]
    assert await event_types(sql, held.saga_id) == AFTER
    transactions = await sql.fetch(
        "SELECT xmin::text FROM orders UNION SELECT xmin::text FROM eventsaga.events WHERE seq > 2"
        " UNION SELECT xmin::text FROM eventsaga.sagas"
    )
    assert len(transactions) == 1


async def test_the_saga_goes_on_from_there(store: PostgresStore, held: Held, owner: UUID) -> None:
    tx = await store.begin(SOON)
    append = new_append(held)
    result = await tx.commit(append, owner)
    assert isinstance(result, Committed)
    held.state, held.last_hash = append.state, result.last_hash

    assert isinstance(await advance(store, held, owner), Committed)


async def test_what_the_session_holds_is_flushed(
    store: PostgresStore, sql: asyncpg.Connection, held: Held, owner: UUID
) -> None:
    tx = await store.begin(SOON)
    order = Order(id="o-1")
    tx.session.add(order)

    assert isinstance(await tx.commit(new_append(held), owner), Committed)

    assert await rows(sql) == ["o-1"]
    assert order.id == "o-1"  # not expired


async def test_a_session_and_the_connection_share_the_transaction(
    store: PostgresStore, sql: asyncpg.Connection, held: Held, owner: UUID
) -> None:
    tx = await store.begin(SOON)
    await insert(tx)
    assert await tx.session.get(Order, "o-1") is not None
    assert tx.session is tx.session

    await tx.rollback()

    await nothing_is_left(sql, held)


async def test_an_error_of_the_user_leaves_neither(
    store: PostgresStore, sql: asyncpg.Connection, held: Held
) -> None:
    tx = await store.begin(SOON)
    tx.session.add(Order(id="o-1"))
    await tx.session.flush()
    with pytest.raises(IntegrityError) as refused:
        await insert(tx)

    await tx.rollback()
    await tx.rollback()

    assert not may_succeed(refused.value)
    await nothing_is_left(sql, held)


async def test_an_error_that_the_user_swallows_is_not_committed(
    store: PostgresStore, sql: asyncpg.Connection, held: Held, owner: UUID
) -> None:
    tx = await store.begin(SOON)
    await insert(tx)
    with pytest.raises(IntegrityError):
        await insert(tx)

    result = await tx.commit(new_append(held), owner)

    assert isinstance(result, RolledBack)
    assert not result.may_succeed
    await nothing_is_left(sql, held)


async def test_a_flush_that_fails_leaves_neither(
    store: PostgresStore, sql: asyncpg.Connection, held: Held, owner: UUID
) -> None:
    tx = await store.begin(SOON)
    await insert(tx)
    tx.session.add(Order(id="o-1"))

    result = await tx.commit(new_append(held), owner)

    assert isinstance(result, RolledBack)
    assert isinstance(result.error, IntegrityError)
    assert not result.may_succeed
    await nothing_is_left(sql, held)


async def test_a_worker_that_lost_the_saga_leaves_no_rows(
    store: PostgresStore, sql: asyncpg.Connection, held: Held, owner: UUID
) -> None:
    tx = await store.begin(SOON)
    await insert(tx)
    await take_over(store, sql, owner)

    assert await tx.commit(new_append(held), owner) == Fenced()

    assert await rows(sql) == []
    assert "SagaRecovered" in await event_types(sql, held.saga_id)
    assert "StepSucceeded" not in await event_types(sql, held.saga_id)


async def test_a_constraint_that_is_checked_at_commit_leaves_neither(
    store: PostgresStore, sql: asyncpg.Connection, held: Held, owner: UUID
) -> None:
    tx = await store.begin(SOON)
    await insert(tx, customer="nobody")

    result = await tx.commit(new_append(held), owner)

    assert isinstance(result, RolledBack)
    assert isinstance(result.error, IntegrityError)
    assert not result.may_succeed
    await nothing_is_left(sql, held)
    await finish(store, sql, held, owner)


@pytest.mark.parametrize("code", ["40001", "40P01", "55P03", "53200", "57014"])
async def test_a_database_that_is_busy_at_commit_may_be_asked_again(
    store: PostgresStore, sql: asyncpg.Connection, held: Held, owner: UUID, code: str
) -> None:
    await sql.execute(RAISING.format(code=code))
    tx = await store.begin(SOON)
    await insert(tx)

    result = await tx.commit(new_append(held), owner)

    assert isinstance(result, RolledBack)
    assert result.may_succeed
    await nothing_is_left(sql, held)
    await sql.execute("DROP TRIGGER refuse ON orders")
    await finish(store, sql, held, owner)


@pytest.mark.mighty
async def test_a_deadlock_with_the_user_s_rows_may_be_tried_again(
    database: str, store: PostgresStore, sql: asyncpg.Connection, held: Held, owner: UUID
) -> None:
    await sql.execute("INSERT INTO customers VALUES ('c-1')")
    lock = "SELECT FROM customers WHERE id = 'c-1' FOR UPDATE"
    tx = await store.begin(SOON)
    await tx.connection.execute(text("SET LOCAL deadlock_timeout = '10ms'"))
    await tx.connection.execute(text(lock))
    async with locked(database, held.saga_id) as stranger:
        await stranger.execute("SET LOCAL deadlock_timeout = '1min'")
        waiting = asyncio.create_task(stranger.execute(lock))
        await until_blocked(sql, "FROM customers")
        result = await tx.commit(new_append(held), owner)
        await waiting

    assert isinstance(result, RolledBack)
    assert result.may_succeed
    await nothing_is_left(sql, held)


# -- what the user may do -----------------------------------------------------------------


async def test_a_session_s_commit_releases_a_savepoint(
    store: PostgresStore, sql: asyncpg.Connection, held: Held, owner: UUID
) -> None:
    tx = await store.begin(SOON)
    tx.session.add(Order(id="kept"))
    await tx.session.commit()
    tx.session.add(Order(id="dropped"))
    await tx.session.flush()
    await tx.session.rollback()
    assert await rows(sql) == []

    assert isinstance(await tx.commit(new_append(held), owner), Committed)

    assert await rows(sql) == ["kept"]


async def test_what_a_session_committed_is_undone_with_the_rest(
    store: PostgresStore, sql: asyncpg.Connection, held: Held
) -> None:
    tx = await store.begin(SOON)
    async with tx.session.begin():
        tx.session.add(Order(id="o-1"))

    await tx.rollback()

    await nothing_is_left(sql, held)


async def test_savepoints_of_the_user_are_part_of_the_commit(
    store: PostgresStore, sql: asyncpg.Connection, held: Held, owner: UUID
) -> None:
    tx = await store.begin(SOON)
    async with tx.connection.begin_nested():
        await insert(tx)
    with pytest.raises(IntegrityError):
        async with tx.connection.begin_nested():
            await insert(tx)
    await tx.connection.begin_nested()  # and left open
    await insert(tx, "o-2")

    assert isinstance(await tx.commit(new_append(held), owner), Committed)
    assert await rows(sql) == ["o-1", "o-2"]


async def test_the_connection_cannot_be_committed(
    store: PostgresStore, sql: asyncpg.Connection, held: Held, owner: UUID
) -> None:
    """Otherwise the rows would be there, and the saga would not know."""
    tx = await store.begin(SOON)
    await insert(tx)
    with pytest.raises(TransactionMisusedError, match="does not commit"):
        await tx.connection.commit()

    result = await tx.commit(new_append(held), owner)

    assert isinstance(result, RolledBack)
    assert not result.may_succeed
    await nothing_is_left(sql, held)
    await finish(store, sql, held, owner)


@pytest.mark.parametrize("end", ["rollback", "close", "text"])
async def test_a_transaction_that_the_user_ended_is_not_committed(
    store: PostgresStore, sql: asyncpg.Connection, held: Held, owner: UUID, end: str
) -> None:
    tx = await store.begin(SOON)
    await insert(tx)
    if end == "text":
        await tx.connection.execute(text("ROLLBACK"))
    else:
        await getattr(tx.connection, end)()

    result = await tx.commit(new_append(held), owner)

    assert isinstance(result, RolledBack)
    assert isinstance(result.error, TransactionMisusedError)
    assert not result.may_succeed
    await nothing_is_left(sql, held)
    await finish(store, sql, held, owner)


# -- the connection -----------------------------------------------------------------------


async def test_a_terminated_backend_before_commit_may_be_tried_again(
    store: PostgresStore, sql: asyncpg.Connection, held: Held, owner: UUID
) -> None:
    tx = await store.begin(SOON)
    await insert(tx)
    await terminate(sql, await pid_of(tx))

    result = await tx.commit(new_append(held), owner)

    assert isinstance(result, RolledBack)
    assert result.may_succeed
    await nothing_is_left(sql, held)
    await finish(store, sql, held, owner)


async def test_a_rollback_of_a_broken_connection_says_nothing(
    database: str, sql: asyncpg.Connection
) -> None:
    async with PostgresStore(database, Settings(transactions=1)) as store:
        tx = await store.begin(SOON)
        await insert(tx)
        await terminate(sql, await pid_of(tx))
        await tx.rollback()
        await tx.rollback()

        tx = await store.begin(SOON)  # the only connection, anew
        await insert(tx)
        await tx.rollback()


async def test_a_pooled_connection_that_broke_is_not_lent(
    database: str, sql: asyncpg.Connection
) -> None:
    async with PostgresStore(database, Settings(transactions=1)) as store:
        tx = await store.begin(SOON)
        pid = await pid_of(tx)
        await tx.rollback()
        await terminate(sql, pid)

        tx = await store.begin(SOON)
        assert await pid_of(tx) != pid
        await tx.rollback()


async def test_a_connection_is_used_again(database: str, sql: asyncpg.Connection) -> None:
    async with PostgresStore(database, Settings(transactions=1)) as store:
        owner = await new_worker(store)
        held = await start_saga(store, owner)
        tx = await store.begin(SOON)
        pid = await pid_of(tx)
        tx.session.add(Order(id="o-1"))
        assert isinstance(await tx.commit(new_append(held), owner), Committed)
        tx = await store.begin(SOON)
        assert await pid_of(tx) == pid
        tx.session.add(Order(id="o-2"))
        await tx.session.flush()
        await tx.rollback()
        tx = await store.begin(SOON)
        assert await pid_of(tx) == pid
        await tx.rollback()
        # Nothing of ours stays on it.
        assert await sql.fetchval("SHOW idle_in_transaction_session_timeout") == "0"


async def test_a_worker_that_stands_still_does_not_keep_the_rows_for_ever(
    database: str, sql: asyncpg.Connection
) -> None:
    settings = Settings(
        lease=timedelta(seconds=0.2),
        heartbeat=timedelta(seconds=0.05),
        lease_margin=timedelta(seconds=0.1),
    )
    async with PostgresStore(database, settings) as store:
        owner = await new_worker(store)
        held = await start_saga(store, owner)
        tx = await store.begin(SOON)
        await insert(tx)

        await nothing_is_left(sql, held)

        result = await tx.commit(new_append(held), owner)
        assert isinstance(result, RolledBack)
        assert result.may_succeed


async def test_a_connection_is_waited_for(database: str, orders: None) -> None:
    async with PostgresStore(database, Settings(transactions=1)) as store:
        first = await store.begin(SOON)
        second = asyncio.create_task(store.begin(SOON))
        await asyncio.wait({second}, timeout=0)
        assert not second.done()
        await first.rollback()
        await (await second).rollback()


async def test_a_wait_that_is_cancelled_takes_no_place(database: str, orders: None) -> None:
    async with PostgresStore(database, Settings(transactions=1)) as store:
        first = await store.begin(SOON)
        second = asyncio.create_task(store.begin(SOON))
        await asyncio.wait({second}, timeout=0)
        second.cancel()
        await asyncio.wait({second})
        await first.rollback()
        await (await store.begin(SOON)).rollback()


async def test_a_database_that_is_away_lends_nothing(proxy: Proxy, far: PostgresStore) -> None:
    await proxy.cut()
    with pytest.raises(DatabaseUnavailableError):
        await far.begin(SOON)
    await proxy.mend()

    await (await far.begin(SOON)).rollback()


async def test_a_store_that_closes_breaks_off_what_is_open(
    database: str, sql: asyncpg.Connection
) -> None:
    async with PostgresStore(database, Settings()) as store:
        owner = await new_worker(store)
        held = await start_saga(store, owner)
        tx = await store.begin(SOON)
        await insert(tx)

    await nothing_is_left(sql, held)
    await tx.rollback()


# -- whose engine -------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["SERIALIZABLE", "AUTOCOMMIT"])
async def test_the_user_s_engine_is_used_and_not_disposed(
    database: str, sql: asyncpg.Connection, level: str
) -> None:
    """Whatever its isolation is: the guard is written for READ COMMITTED."""
    url = make_url(database).set(drivername="postgresql+asyncpg")
    engine = create_async_engine(url, isolation_level=level, pool_size=1, max_overflow=0)
    try:
        async with PostgresStore(engine, Settings()) as store:
            owner = await new_worker(store)
            held = await start_saga(store, owner)
            tx = await store.begin(SOON)
            assert tx.connection.engine is engine
            isolation = await tx.connection.scalar(text("SHOW transaction_isolation"))
            assert isolation == "read committed"
            await insert(tx)
            assert isinstance(await tx.commit(new_append(held), owner), Committed)
        assert await rows(sql) == ["o-1"]
        async with engine.connect() as connection:
            shown = await connection.scalar(text("SHOW transaction_isolation"))
            assert shown == ("serializable" if level == "SERIALIZABLE" else "read committed")
    finally:
        await engine.dispose()


async def test_an_engine_with_a_codec_of_its_own_stores_the_same(
    database: str, sql: asyncpg.Connection
) -> None:
    """Applications let asyncpg turn dicts into json; our text is not to be turned again."""
    engine = create_async_engine(make_url(database).set(drivername="postgresql+asyncpg"))

    @event.listens_for(engine.sync_engine, "connect")
    def _set_codec(connection: Any, _record: object) -> None:
        async def set_codec(driver: asyncpg.Connection) -> None:
            await driver.set_type_codec(
                "json", encoder=json.dumps, decoder=json.loads, schema="pg_catalog"
            )

        connection.run_async(set_codec)

    try:
        async with PostgresStore(engine, Settings()) as store:
            owner = await new_worker(store)
            held = await start_saga(store, owner)
            tx = await store.begin(SOON)
            assert isinstance(await tx.commit(new_append(held), owner), Committed)
    finally:
        await engine.dispose()
    kinds = "SELECT DISTINCT json_typeof(data) FROM eventsaga.events"
    assert [row[0] for row in await sql.fetch(kinds)] == ["object"]


async def test_behind_a_pooler_no_statement_is_kept(database: str, sql: asyncpg.Connection) -> None:
    async with PostgresStore(database, Settings(pooler=True)) as store:
        owner = await new_worker(store)
        held = await start_saga(store, owner)
        tx = await store.begin(SOON)
        await insert(tx)
        tx.session.add(Order(id="o-2"))
        await tx.session.flush()
        kept = "SELECT count(*) FROM pg_prepared_statements WHERE name <> ''"
        assert await tx.connection.scalar(text(kept)) == 0
        assert isinstance(await tx.commit(new_append(held), owner), Committed)

    assert await rows(sql) == ["o-1", "o-2"]


# -- messages that get lost ---------------------------------------------------------------


def impatient(store: PostgresStore) -> None:
    """Let *store* give statements up after 0.3 s."""
    patience = timedelta(seconds=0.3)
    store._transactions.settings = replace(store.settings, statement_timeout=patience)


@pytest.mark.parametrize("loss", Loss, ids=lambda loss: loss.name.lower())
async def test_a_commit_without_an_answer_is_looked_up(
    proxy: Proxy, far: PostgresStore, sql: asyncpg.Connection, loss: Loss
) -> None:
    owner = await new_worker(far)
    held = await start_saga(far, owner)
    if loss in (Loss.SILENCE, Loss.DELAY):
        impatient(far)
    proxy.loses_cancels = True
    tx = await far.begin(SOON)
    await insert(tx)
    fault = proxy.arm(loss, COMMIT, held=loss is Loss.DELAY)

    outcome = asyncio.create_task(tx.commit(new_append(held), owner))
    if loss is Loss.DELAY:
        # The COMMIT is on its way: nothing is known before it has arrived.
        await until_blocked(sql, SETTLE)
        assert not outcome.done()
        fault.go_on.set()
    result = await outcome

    assert fault.struck.is_set()
    if loss is Loss.REQUEST:
        assert isinstance(result, RolledBack)
        assert result.may_succeed
        await nothing_is_left(sql, held)
        await finish(far, sql, held, owner)
    else:
        assert isinstance(result, Committed)
        assert await rows(sql) == ["o-1"]
        assert await event_types(sql, held.saga_id) == AFTER
        await (await far.begin(SOON)).rollback()


@pytest.mark.parametrize("loss", [Loss.REQUEST, Loss.ANSWER], ids=["request", "answer"])
@pytest.mark.parametrize("text", [SETTLE, READ_BACK], ids=["lock", "read_back"])
async def test_looking_it_up_may_fail_as_well(
    proxy: Proxy, far: PostgresStore, sql: asyncpg.Connection, loss: Loss, text: str
) -> None:
    owner = await new_worker(far)
    held = await start_saga(far, owner)
    tx = await far.begin(SOON)
    await insert(tx)
    proxy.arm(loss, COMMIT)
    again = [proxy.arm(later, text) for later in (Loss.REQUEST, Loss.ANSWER)]

    result = await tx.commit(new_append(held), owner)

    assert all(fault.struck.is_set() for fault in again)
    assert isinstance(result, Committed if loss is Loss.ANSWER else RolledBack)
    assert await rows(sql) == (["o-1"] if loss is Loss.ANSWER else [])


async def test_a_database_that_is_away_after_commit_is_waited_for(
    proxy: Proxy, far: PostgresStore, sql: asyncpg.Connection
) -> None:
    owner = await new_worker(far)
    held = await start_saga(far, owner)
    tx = await far.begin(SOON)
    await insert(tx)
    fault = proxy.arm(Loss.ANSWER, COMMIT, held=True)
    with logged("commit_outcome_not_known") as failed:
        outcome = asyncio.create_task(tx.commit(new_append(held), owner))
        await fault.done.wait()
        await proxy.cut()
        await failed.wait()
    assert not outcome.done()
    await proxy.mend()

    assert isinstance(await outcome, Committed)
    assert await rows(sql) == ["o-1"]


@pytest.mark.parametrize("loss", [Loss.REQUEST, Loss.ANSWER], ids=["request", "answer"])
async def test_a_takeover_while_the_answer_is_lost_is_told_apart(
    proxy: Proxy, far: PostgresStore, sql: asyncpg.Connection, store: PostgresStore, loss: Loss
) -> None:
    """Committed before it, the rows and the result count; lost before it, both are gone."""
    owner = await new_worker(far)
    held = await start_saga(far, owner)
    tx = await far.begin(SOON)
    await insert(tx)
    fault = proxy.arm(loss, COMMIT)
    look = proxy.arm(Loss.DELAY, SETTLE, held=True)

    outcome = asyncio.create_task(tx.commit(new_append(held), owner))
    await look.struck.wait()
    await take_over(store, sql, owner, recovered=loss is Loss.REQUEST)
    look.go_on.set()
    result = await outcome

    assert fault.struck.is_set()
    if loss is Loss.ANSWER:
        assert isinstance(result, Committed)
        assert await rows(sql) == ["o-1"]
    else:
        assert result == Fenced()
        assert await rows(sql) == []


@pytest.mark.parametrize("loss", Loss, ids=lambda loss: loss.name.lower())
async def test_a_lost_append_is_a_rollback(
    proxy: Proxy, far: PostgresStore, sql: asyncpg.Connection, loss: Loss
) -> None:
    """COMMIT was never sent, so there is nothing to look up."""
    owner = await new_worker(far)
    held = await start_saga(far, owner)
    if loss in (Loss.SILENCE, Loss.DELAY):
        impatient(far)
    tx = await far.begin(SOON)
    await insert(tx)
    fault = proxy.arm(loss, "SET last_seq", held=loss is Loss.DELAY)

    result = await tx.commit(new_append(held), owner)

    fault.go_on.set()
    assert isinstance(result, RolledBack)
    assert result.may_succeed
    await nothing_is_left(sql, held)
    await finish(far, sql, held, owner)


# -- cancellation -------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["SET last_seq", COMMIT], ids=["append", "commit"])
async def test_a_cancelled_commit_leaves_no_open_transaction(
    proxy: Proxy, far: PostgresStore, sql: asyncpg.Connection, text: str
) -> None:
    owner = await new_worker(far)
    held = await start_saga(far, owner)
    tx = await far.begin(SOON)
    await insert(tx)
    fault = proxy.arm(Loss.REQUEST, text, held=True)
    outcome = asyncio.create_task(tx.commit(new_append(held), owner))
    await fault.struck.wait()

    outcome.cancel()
    with pytest.raises(asyncio.CancelledError):
        await outcome

    fault.go_on.set()
    await nothing_is_left(sql, held)
    await finish(far, sql, held, owner)


async def test_a_cancelled_step_leaves_no_open_transaction(
    proxy: Proxy, far: PostgresStore, sql: asyncpg.Connection
) -> None:
    owner = await new_worker(far)
    held = await start_saga(far, owner)
    tx = await far.begin(SOON)
    step = asyncio.create_task(tx.connection.execute(text("SELECT pg_sleep(60)")))
    await until(
        sql,
        "SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)'"
        " AND pid <> pg_backend_pid()",
    )
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step

    await tx.rollback()

    await nothing_is_left(sql, held)
    await finish(far, sql, held, owner)


def engine_of(store: PostgresStore) -> Any:
    return store._transactions._engine


async def test_an_engine_is_made_when_it_is_needed(database: str, orders: None) -> None:
    async with PostgresStore(database, Settings()) as store:
        assert engine_of(store) is None
        await (await store.begin(SOON)).rollback()
        assert isinstance(engine_of(store), AsyncEngine)

"""Does who acts for one tenant see any row of another, anywhere? Each view is looked at."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import UUID

import asyncpg
import pytest

from eventsaga import (
    ChildSaga,
    KeyConflictError,
    Orchestrator,
    PermanentError,
    Saga,
    Step,
)
from eventsaga.client.verify import verify
from eventsaga.core.state import Status
from eventsaga.errors import PayloadError
from eventsaga.store.postgres import grants, migrate
from eventsaga.store.postgres.rebuild import rebuild
from eventsaga.store.postgres.redact import redact
from tests.contract.test_grants import VIEWS
from tests.runtime.sagas import ONCE, QUICK, Order, orchestrating
from tests.store.vandal import Vandal

TENANTS = ("acme", "globex", None)


async def note(order: Order) -> dict[str, str]:
    return {"note": f"{order.note}+"}


async def stays(_order: Order) -> None:
    raise PermanentError("no way back")


async def lost(_order: Order) -> None:
    raise ConnectionResetError("no answer")


CHILD = Saga("child", context=Order, steps=[Step("note", note)])
PARENT = Saga("parent", context=Order, steps=[ChildSaga("child", CHILD, lambda _: Order())])
PARKED = Saga(
    "parked",
    context=Order,
    steps=[
        Step("note", note, compensate=stays),
        Step("lost", lost, retry=ONCE, on_doubt="park"),
    ],
)
SAGAS = (CHILD, PARENT, PARKED)
Ids = dict[str | None, set[UUID]]


@pytest.fixture
async def shop(database: str) -> AsyncIterator[Orchestrator]:
    async with orchestrating(database, *SAGAS) as orchestrator:
        yield orchestrator


@pytest.fixture
async def sql(database: str, saga_database: str) -> AsyncIterator[asyncpg.Connection]:
    # Roles and settings are a session's: never behind a pooler.
    assert database
    connection = await asyncpg.connect(saga_database)
    yield connection
    await connection.close()


@pytest.fixture
async def theirs(shop: Orchestrator) -> Ids:
    """The sagas of each tenant; something of each stands in every view but one."""
    ids: Ids = {tenant: set() for tenant in TENANTS}
    for tenant in TENANTS:
        parent = await shop.start(PARENT, Order(), tenant=tenant, key="same")
        await parent.result(timeout=20)
        (child,) = await shop.children(parent.id)
        parked = await shop.start(PARKED, Order(), tenant=tenant)
        assert (await parked.result(timeout=20)).status is Status.PARKED
        await shop.cancel(parked.id, "r")
        assert (await shop.wait(parked.id, timeout=20)).status is Status.PARKED
        ids[tenant] = {parent.id, child.saga_id, parked.id}
    return ids


async def seen(sql: asyncpg.Connection, view: str, tenant: str | None, role: str) -> set[UUID]:
    async with sql.transaction():
        await sql.execute(f"SET LOCAL ROLE eventsaga_{role}")
        if tenant is not None:
            await sql.execute("SELECT set_config('eventsaga.tenant', $1, true)", tenant)
        return {row[0] for row in await sql.fetch(f"SELECT saga_id FROM eventsaga.{view}")}  # noqa: S608


@pytest.mark.parametrize("view", [view for view in VIEWS if view != "workers_live"])
async def test_an_auditor_sees_the_rows_of_one_tenant_only(
    theirs: Ids, sql: asyncpg.Connection, view: str
) -> None:
    everything = await seen(sql, view, None, "worker")
    for tenant, ids in theirs.items():
        mine = await seen(sql, view, tenant, "auditor")
        assert mine, "a view that shows nothing leaks nothing either"
        assert mine == everything & ids
    assert await seen(sql, view, "nobody", "auditor") == set()


@pytest.mark.parametrize("table", ["sagas", "events"])
async def test_a_leak_would_be_seen(theirs: Ids, sql: asyncpg.Connection, table: str) -> None:
    await sql.execute(f"ALTER TABLE eventsaga.{table} NO FORCE ROW LEVEL SECURITY")

    view = "saga_list" if table == "sagas" else "history"
    assert await seen(sql, view, "acme", "auditor") == {i for ids in theirs.values() for i in ids}
    assert "rows of one tenant are not kept from another" in await grants.check(sql)


async def test_no_figure_and_no_function_tells_of_another_tenant(
    theirs: Ids, sql: asyncpg.Connection
) -> None:
    (stranger, *_) = theirs["globex"]
    await sql.execute("UPDATE eventsaga.sagas SET owner = worker_id FROM eventsaga.workers")
    assert await sql.fetchval("SELECT sum(sagas) FROM eventsaga.workers_live") == 9
    await sql.execute("SET ROLE eventsaga_auditor; SET eventsaga.tenant = 'acme'")

    assert await sql.fetchval("SELECT sum(sagas) FROM eventsaga.workers_live") == 3
    assert await sql.fetchval("SELECT eventsaga.context_at($1, 1)", stranger) is None
    assert await sql.fetchval("SELECT eventsaga.context_at($1, now())", stranger) is None
    found = await sql.fetch("SELECT * FROM eventsaga.verify_chain($1)", stranger)
    assert [row["problem"] for row in found] == ["there is no such saga"]
    (own, *_) = theirs["acme"]
    assert await sql.fetch("SELECT * FROM eventsaga.verify_chain($1)", own) == []


async def test_a_client_acts_for_its_tenant_only(theirs: Ids, sql: asyncpg.Connection) -> None:
    await sql.execute("SET ROLE eventsaga_client; SET eventsaga.tenant = 'acme'")
    for tenant in ("globex", None):
        for saga_id in theirs[tenant]:
            for call in ("signal_saga($1, 's')", "cancel_saga($1, 'r')"):
                with pytest.raises(asyncpg.NoDataFoundError, match="there is no saga"):
                    await sql.fetchval(f"SELECT eventsaga.{call}", saga_id)

    new = await sql.fetchval("SELECT eventsaga.start_saga('child', '{}', key => 'k')")
    assert await sql.fetchval("SELECT eventsaga.cancel_saga($1, 'r')", new)
    await sql.execute("SET eventsaga.tenant = 'globex'")
    assert new != await sql.fetchval("SELECT eventsaga.start_saga('child', '{}', key => 'k')")
    await sql.execute("SET eventsaga.tenant = E'a\\x1fb'")
    with pytest.raises(asyncpg.InvalidParameterValueError, match="tenant"):
        await sql.fetchval("SELECT eventsaga.start_saga('child', '{}')")


async def test_keys_are_each_tenant_s_own_in_python_and_in_sql(
    shop: Orchestrator, sql: asyncpg.Connection
) -> None:
    by_tenant = {
        tenant: (await shop.start(CHILD, Order(), key="k", tenant=tenant)).id for tenant in TENANTS
    }
    assert len(set(by_tenant.values())) == 3
    for tenant, saga_id in by_tenant.items():
        again = await shop.start(CHILD, Order(), key="k", tenant=tenant)
        assert (again.id, again.created) == (saga_id, False)
        await sql.execute("SELECT set_config('eventsaga.tenant', $1, false)", tenant or "")
        assert saga_id == await sql.fetchval(
            "SELECT eventsaga.start_saga('child', '{}', key => 'k')"
        )
    with pytest.raises(KeyConflictError, match="'k'"):
        await shop.start(CHILD, Order(amount=7), key="k", tenant="acme")
    for tenant in ("", "a\x1fb", "x" * 101):
        with pytest.raises(PayloadError, match="tenant"):
            await shop.start(CHILD, Order(), tenant=tenant)
    for saga_id in by_tenant.values():
        await shop.wait(saga_id, timeout=20)
    assert [violation async for violation in verify(shop.store)] == []


async def test_whose_a_saga_is_stands_in_its_history(
    theirs: Ids, shop: Orchestrator, database: str, sql: asyncpg.Connection
) -> None:
    """A row that says otherwise is found, and written anew."""
    for tenant, ids in theirs.items():
        for saga_id in ids:
            assert (await shop.get(saga_id)).tenant == tenant, "also a child's"
    (moved, *_) = theirs["acme"]
    await Vandal(database).edit(
        "UPDATE eventsaga.sagas SET tenant = 'globex' WHERE saga_id = $1", moved
    )

    found = [violation async for violation in verify(shop.store)]
    assert [(violation.saga_id, violation.invariant) for violation in found] == [(moved, 3)]
    assert [repair.columns async for repair in rebuild(shop.store)] == [("tenant",)]
    assert [violation async for violation in verify(shop.store)] == []


@pytest.mark.mighty
async def test_all_of_it_works_in_a_schema_of_another_name(empty_database: str) -> None:
    await asyncio.to_thread(migrate.upgrade, empty_database, schema="other_sagas")
    connection = await asyncpg.connect(empty_database)
    settings = replace(QUICK, schema="other_sagas")
    try:
        await grants.apply(connection, "other_sagas")
        async with Orchestrator(empty_database, sagas=[CHILD], settings=settings) as orchestrator:
            handle = await orchestrator.start(CHILD, Order(note="ann"), tenant="acme")
            await handle.result(timeout=20)
            changed = await redact(orchestrator.store, handle.id, "note", reason="r", actor="a")
            assert changed == 2
        await connection.execute("SET ROLE other_sagas_auditor")
        assert await connection.fetch("TABLE other_sagas.history") == []
        await connection.execute("SET eventsaga.tenant = 'acme'")
        assert len(await connection.fetch("TABLE other_sagas.history")) == 5
    finally:
        await connection.execute("RESET ROLE; DROP SCHEMA other_sagas CASCADE")
        for role in grants.ROLES:
            await connection.execute(f"DROP ROLE other_sagas_{role}")
        await connection.close()

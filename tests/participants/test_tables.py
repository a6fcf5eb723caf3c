"""Are the tables there, are they those that Alembic expects, and is what is old deleted?"""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Column, Connection, Integer, MetaData, Table
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine

from eventsaga.participant import (
    Swept,
    barrier,
    create_tables,
    current,
    forget,
    participant_tables,
    sweep,
)
from eventsaga.participant.asgi import Scope
from eventsaga.store.postgres.connect import sqlalchemy_url
from tests.participants.answers import Held
from tests.participants.world import SAGA, World, ask, told
from tests.store.barriers import transaction

OLD = timedelta(days=30)


async def _age(world: World, key: str, *, schema: str = "public") -> None:
    await world.sql.execute(
        f"UPDATE {schema}.participant_keys SET created_at = created_at - interval '31 days'"  # noqa: S608
        " WHERE key = $1",
        key,
    )


async def test_tables_are_created_once_however_many_processes_start(empty_database: str) -> None:
    engine = create_async_engine(sqlalchemy_url(empty_database))

    await asyncio.gather(*(create_tables(engine, "payments") for _ in range(8)))
    await create_tables(engine, "payments")
    await create_tables(engine)

    async with engine.connect() as connection:
        found = await connection.exec_driver_sql(
            "SELECT schemaname || '.' || tablename FROM pg_tables"
            " WHERE tablename LIKE 'participant%' ORDER BY 1"
        )
        names = list(found.scalars())
    await engine.dispose()
    assert names == [
        "payments.participant_barriers",
        "payments.participant_keys",
        "public.participant_barriers",
        "public.participant_keys",
    ]


def _drift(connection: Connection, expected: MetaData, schema: str | None) -> list[Any]:
    def ours(_object: Any, name: str | None, kind: str, *_: Any) -> bool:
        return kind != "table" or str(name).startswith("participant")

    options = {
        "compare_type": True,
        "compare_server_default": True,
        "include_schemas": schema is not None,
        "include_object": ours,
    }
    context = MigrationContext.configure(connection, opts=options)
    return list(compare_metadata(context, expected))


@pytest.mark.parametrize("schema", [None, "payments"])
async def test_alembic_finds_no_difference_to_what_was_created(
    world: World, schema: str | None
) -> None:
    expected = MetaData()
    participant_tables(expected, schema=schema)
    if schema is not None:
        await world.sql.execute("DROP TABLE participant_keys, participant_barriers")
        await create_tables(world.engine, schema)

    async with world.engine.connect() as connection:
        assert await connection.run_sync(_drift, expected, schema) == []


def test_the_tables_join_the_metadata_of_the_users_models() -> None:
    own = MetaData(schema="shop")
    Table("orders", own, Column("id", Integer, primary_key=True))

    participant_tables(own)

    assert set(own.tables) == {
        "shop.orders",
        "shop.participant_barriers",
        "shop.participant_keys",
    }


async def test_another_schema_is_used_by_the_middleware_and_its_barrier(world: World) -> None:
    await create_tables(world.engine, "payments")

    async def handle(_scope: Any, _body: bytes) -> Any:
        participation = current()
        async with barrier(participation.session, participation.key) as gate:
            return told(201, gate.act)

    app = world.serve(handle, schema="payments")

    assert [(await ask(app, f"{SAGA}/charge")).json() for _ in range(2)] == [True, True]
    assert await world.keys() == []
    for table in ("keys", "barriers"):
        assert await world.sql.fetchval(f"SELECT count(*) FROM payments.participant_{table}") == 1  # noqa: S608
    async with world.engine.begin() as connection:
        assert await forget(connection, f"{SAGA}/charge", schema="payments")


async def test_services_in_one_database_do_not_lock_each_others_keys(world: World) -> None:
    """Both have their tables first on their search path; only the database is the same."""
    settings = {"server_settings": {"search_path": "payments, public"}}
    engine = create_async_engine(sqlalchemy_url(world.url), connect_args=settings)
    await create_tables(world.engine, "payments")
    held = Held()
    asking = asyncio.create_task(ask(world.serve(held)))
    await held.arrived.acquire()

    meanwhile = await ask(world.serve(database=engine))
    held.go_on.set()

    assert (meanwhile.status_code, (await asking).status_code) == (201, 201)
    assert await world.ledger() == ["charge", "charge"]
    await engine.dispose()


async def test_what_is_old_is_swept_and_then_applied_again(world: World) -> None:
    app = world.serve()
    for key in ("old", "young"):
        await ask(app, key)
    await _age(world, "old")

    assert await sweep(world.engine, OLD) == Swept(keys=1, barriers=0)
    assert await sweep(world.engine, OLD) == Swept(keys=0, barriers=0)

    assert [(await ask(app, key)).json()["id"] for key in ("young", "old")] == [2, 3]


async def test_an_old_barrier_is_swept_and_one_that_is_asked_again_is_not(world: World) -> None:
    async with AsyncSession(world.engine) as session, session.begin():
        for step in ("a", "b"):
            async with barrier(session, group="g", step=step, operation="undo"):
                pass
    await world.sql.execute(
        "UPDATE participant_barriers SET touched_at = touched_at - interval '31 days'"
    )
    async with (
        AsyncSession(world.engine) as session,
        session.begin(),
        barrier(session, group="g", step="b", operation="undo") as gate,
    ):
        assert not gate.act

    assert await sweep(world.engine, OLD) == Swept(keys=0, barriers=1)
    assert await world.sql.fetchval("SELECT step FROM participant_barriers") == "b"


async def test_a_sweep_of_many_takes_several_transactions(world: World) -> None:
    await world.sql.execute(
        "INSERT INTO participant_keys SELECT '', 'k-' || i, '', 200, '[]', '',"
        " now() - interval '31 days' FROM generate_series(1, 12001) AS i"
    )

    assert await sweep(world.engine, OLD) == Swept(keys=12_001, barriers=0)


async def test_a_sweep_does_not_wait_for_a_row_that_is_in_use(world: World) -> None:
    await ask(world.serve())
    await _age(world, "k-1")

    async with transaction(world.url) as holder:
        await holder.execute("SELECT FROM participant_keys FOR UPDATE")
        assert await sweep(world.engine, OLD) == Swept(keys=0, barriers=0)


@pytest.mark.parametrize("age", [timedelta(0), timedelta(days=-1)])
async def test_a_sweep_of_everything_is_refused(world: World, age: timedelta) -> None:
    with pytest.raises(ValueError, match="in use"):
        await sweep(world.engine, age)


async def test_a_forgotten_key_is_applied_again(world: World) -> None:
    def caller_of(_scope: Scope) -> str:
        return "ann"

    app = world.serve(caller_of=caller_of)
    await ask(app)

    async def forgotten(connection: AsyncConnection | AsyncSession, caller: str) -> bool:
        return await forget(connection, "k-1", caller=caller)

    async with world.engine.begin() as connection:
        found = [await forgotten(connection, caller) for caller in ("", "ann", "ann")]

    assert found == [False, True, False]
    assert (await ask(app)).json()["id"] == 2

import asyncio
from typing import Any

import asyncpg
import pytest
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from eventsaga import KeyConflictError, PayloadError, Saga, Status, Step, UnknownSagaError
from eventsaga.store.postgres.connect import sqlalchemy_url
from tests.runtime.sagas import QUICK, Order, nothing, one_step, orchestrating, run_sql, until

SAGA = one_step(nothing)


async def test_a_key_starts_one_saga_however_often_it_is_used(database: str) -> None:
    async with orchestrating(database, SAGA) as orchestrator:
        handles = await asyncio.gather(
            *(orchestrator.start("one", Order(), key="once") for _ in range(20))
        )

        assert len({handle.id for handle in handles}) == 1
        assert [handle.created for handle in handles].count(True) == 1
        assert len(await orchestrator.list()) == 1


async def test_a_key_with_another_input_is_a_conflict(database: str) -> None:
    async with orchestrating(database, SAGA, worker=False) as orchestrator:
        first = await orchestrator.start("one", Order(order_id="a"), key="k")

        with pytest.raises(KeyConflictError) as caught:
            await orchestrator.start("one", Order(order_id="b"), key="k")

        assert caught.value.saga_id == first.id
        assert len(await orchestrator.list()) == 1


async def test_a_mapping_is_as_good_as_the_model(database: str) -> None:
    async with orchestrating(database, SAGA) as orchestrator:
        by_mapping = await orchestrator.start("one", {"order_id": "m"}, key="k")
        by_model = await orchestrator.start(SAGA, Order(order_id="m"), key="k")

        assert by_mapping.id == by_model.id
        assert (await by_model.result(timeout=10)).context == Order(order_id="m")


class Other(BaseModel):
    order_id: str


@pytest.mark.parametrize(
    ("context", "told"),
    [
        (Other(order_id="x"), "takes Order, not Other"),
        ({"order_id": 1}, r"\$\.order_id: Input should be a valid string"),
        (Order(data=float("nan")), r"\$\.data: nan is not a JSON number"),
        (Order(data={"a": ["\x00"]}), r"\$\.data\.a\[0\]: contains a NUL"),
        (Order(data={1: "a"}), r"\$\.data: key 1 is of type int"),
        (Order(data="x" * 1_000_001), r"\$\.data: a string of 1,000,001"),
    ],
)
async def test_a_refused_input_names_the_place_and_leaves_no_row(
    database: str, context: Any, told: str
) -> None:
    async with orchestrating(database, SAGA, worker=False) as orchestrator:
        with pytest.raises(PayloadError, match=told):
            await orchestrator.start("one", context, key="k")

        assert await orchestrator.list() == []


async def test_an_unknown_saga_is_refused_with_the_known_ones(database: str) -> None:
    async with orchestrating(database, SAGA, worker=False) as orchestrator:
        with pytest.raises(UnknownSagaError, match=r"no saga 'two' .*registered: one"):
            await orchestrator.start("two", Order())


@pytest.mark.parametrize("bad", ["", "a\nb", "x" * 300, "naïve"])
async def test_a_correlation_id_that_no_header_can_carry_is_refused(
    database: str, bad: str
) -> None:
    async with orchestrating(database, SAGA, worker=False) as orchestrator:
        if bad:
            with pytest.raises(PayloadError, match="correlation_id"):
                await orchestrator.start("one", Order(), correlation_id=bad)
        else:
            handle = await orchestrator.start("one", Order(), correlation_id=bad)
            assert (await handle.state()).correlation_id == str(handle.id)


async def test_more_sagas_than_fit_into_the_worker_are_all_run(database: str) -> None:
    from dataclasses import replace  # noqa: PLC0415 - of one test

    few = replace(QUICK, max_concurrency=50)
    async with orchestrating(database, SAGA, settings=few) as orchestrator:
        handles = await orchestrator.start_many("one", [Order() for _ in range(500)])

        states = await asyncio.gather(*(handle.result(timeout=60) for handle in handles))

        assert {state.status for state in states} == {Status.COMPLETED}


async def test_start_many_starts_nothing_if_one_input_is_refused(database: str) -> None:
    async with orchestrating(database, SAGA, worker=False) as orchestrator:
        with pytest.raises(PayloadError, match=r"\$\[1\]\.order_id"):
            await orchestrator.start_many("one", [{"order_id": "a"}, {"order_id": 2}])

        assert await orchestrator.list() == []


async def test_start_many_tells_of_conflicts_and_starts_the_rest(database: str) -> None:
    async with orchestrating(database, SAGA, worker=False) as orchestrator:
        await orchestrator.start("one", Order(order_id="first"), key="a")

        with pytest.raises(ExceptionGroup) as caught:
            await orchestrator.start_many("one", [Order(), Order()], keys=["a", "b"])

        assert caught.group_contains(KeyConflictError)
        assert len(await orchestrator.list()) == 2


@pytest.mark.parametrize("commit", [True, False])
async def test_a_saga_started_in_a_session_shares_the_fate_of_its_transaction(
    database: str, *, commit: bool
) -> None:
    engine = create_async_engine(sqlalchemy_url(database))
    async with orchestrating(database, SAGA) as orchestrator:
        async with AsyncSession(engine) as session:
            handle = await orchestrator.start("one", Order(), key="k", connection=session)
            assert await orchestrator.list() == []
            await (session.commit() if commit else session.rollback())

        if commit:
            assert (await handle.result(timeout=10)).status is Status.COMPLETED
        assert len(await orchestrator.list()) == int(commit)
    await engine.dispose()


async def test_a_saga_started_on_an_asyncpg_connection_is_seen_after_its_commit(
    database: str,
) -> None:
    connection = await asyncpg.connect(database)
    async with orchestrating(database, SAGA) as orchestrator:
        async with connection.transaction():
            handle = await orchestrator.start("one", Order(), connection=connection)
            assert await orchestrator.list() == []

        assert (await handle.result(timeout=10)).status is Status.COMPLETED
    await connection.close()


async def test_a_connection_of_another_kind_is_refused(database: str) -> None:
    async with orchestrating(database, SAGA, worker=False) as orchestrator:
        with pytest.raises(TypeError, match="AsyncSession, an AsyncConnection or asyncpg's"):
            await orchestrator.start("one", Order(), connection=object())


async def test_a_saga_whose_definition_nobody_has_is_left_alone_and_reported(
    database: str,
) -> None:
    async with orchestrating(database, SAGA, worker=False) as orchestrator:
        handle = await orchestrator.start("one", Order())
    await run_sql(database, "UPDATE eventsaga.sagas SET wake_at = wake_at - interval '1 minute'")
    changed = Saga(
        "one", version=2, context=Order, steps=[Step("only", nothing, compensate=nothing)]
    )
    async with orchestrating(database, changed) as orchestrator:
        known = await orchestrator.start("one", Order())
        await known.result(timeout=10)
        (stranded,) = await orchestrator.store.stranded()
        state = await orchestrator.get(handle.id)

    assert (stranded.name, stranded.sagas) == ("one", 1)
    assert state.status is Status.PENDING
    assert await until(database, "SELECT count(*) FROM eventsaga.definitions") == 2

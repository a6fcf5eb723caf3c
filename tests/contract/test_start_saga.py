"""Does a saga that was started in SQL run like any other? And does a bad one hurt nobody?"""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from pydantic import BaseModel, Field

from eventsaga import KeyConflictError, Orchestrator, Saga, Status, Step, StepContext
from eventsaga.client.verify import verify
from tests.runtime.sagas import orchestrating, until

ENDED = "SELECT status = $2 FROM eventsaga.sagas WHERE saga_id = $1"
START = "SELECT eventsaga.start_saga('order', $1, key => $2)"


class Order(BaseModel):
    """An input with something to check, and something to fill in."""

    order_id: str
    total: int = Field(default=5, gt=0)
    charge: str | None = None


async def charge(order: Order, step: StepContext) -> dict[str, Any]:
    return {"charge": f"{order.order_id}/{order.total}/{step.correlation_id}"}


ORDER = Saga("order", context=Order, steps=[Step("charge", charge)], deadline=600)


def at_least(least: int) -> Saga[Any]:
    """Return the same saga with a model that asks for more, or for less."""

    class Checked(BaseModel):
        order_id: str
        total: int = Field(ge=least)

    async def nothing(_order: Checked) -> None:
        """Do nothing."""

    return Saga("order", context=Checked, steps=[Step("charge", nothing)])


@pytest.fixture
async def sql(database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database)
    await connection.set_type_codec(
        "jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog"
    )
    yield connection
    await connection.close()


@pytest.fixture
async def worker(database: str) -> AsyncIterator[Orchestrator]:
    async with orchestrating(database, ORDER) as opened:
        yield opened


async def settled(orchestrator: Orchestrator, saga_id: UUID) -> Any:
    return await orchestrator.wait(saga_id, timeout=20)


async def test_it_runs_with_the_input_as_its_model_writes_it(
    worker: Orchestrator, sql: asyncpg.Connection
) -> None:
    saga_id = await sql.fetchval(START, {"order_id": "o-1"}, None)
    state = await settled(worker, saga_id)
    history = await worker.history(saga_id)

    assert state.status is Status.COMPLETED
    assert state.context == Order(order_id="o-1", charge=f"o-1/5/{saga_id}")
    assert [stored.type for stored in history] == [
        "SagaStarted",
        "SagaAccepted",
        "StepStarted",
        "StepSucceeded",
        "SagaCompleted",
    ]
    accepted: Any = history[1].event
    assert accepted.context == {"order_id": "o-1", "total": 5, "charge": None}
    assert accepted.deadline_at is not None
    assert saga_id.version == 7
    assert [violation async for violation in verify(worker.store, [saga_id])] == []


async def test_it_begins_if_and_only_if_the_transaction_commits(
    worker: Orchestrator, sql: asyncpg.Connection
) -> None:
    transaction = sql.transaction()
    await transaction.start()
    await sql.fetchval(START, {"order_id": "gone"}, "k")
    await transaction.rollback()
    kept = await sql.fetchval(START, {"order_id": "kept"}, "k")
    await settled(worker, kept)

    assert [row.saga_id for row in await worker.list()] == [kept]


async def test_a_trigger_starts_one_for_each_row(
    worker: Orchestrator, sql: asyncpg.Connection
) -> None:
    await sql.execute("""
        CREATE TABLE orders (id text PRIMARY KEY);
        CREATE FUNCTION begin_order() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM eventsaga.start_saga('order', jsonb_build_object('order_id', new.id),
                                         key => new.id);
            RETURN new;
        END $$;
        CREATE TRIGGER begin_order AFTER INSERT ON orders
           FOR EACH ROW EXECUTE FUNCTION begin_order();
        INSERT INTO orders SELECT 'o-' || n FROM generate_series(1, 20) n;
    """)
    rows = await worker.list()
    states = [await settled(worker, row.saga_id) for row in rows]

    assert sorted(state.context.order_id for state in states) == sorted(
        f"o-{n}" for n in range(1, 21)
    )
    assert {state.status for state in states} == {Status.COMPLETED}


async def test_the_same_key_is_the_same_saga_from_any_number_of_connections(
    worker: Orchestrator, database: str, sql: asyncpg.Connection
) -> None:
    pool = await asyncpg.create_pool(database, min_size=8, max_size=8)
    call = "SELECT eventsaga.start_saga('order', '{\"order_id\": \"o-1\"}', key => 'k')"
    started = await asyncio.gather(*(pool.fetchval(call) for _ in range(32)))
    await pool.close()
    by_python = await worker.start("order", Order(order_id="o-1"), key="k")

    assert {*started, by_python.id} == {started[0]}
    assert not by_python.created
    with pytest.raises(asyncpg.UniqueViolationError, match="has another context"):
        await sql.fetchval(START, {"order_id": "o-2"}, "k")
    await settled(worker, started[0])


async def test_a_key_that_python_has_taken_is_found_in_sql(
    worker: Orchestrator, sql: asyncpg.Connection
) -> None:
    handle = await worker.start("order", Order(order_id="o-1"), key="k")

    assert await sql.fetchval(START, {"order_id": "o-1"}, "k") == handle.id
    with pytest.raises(KeyConflictError):
        await worker.start("order", Order(order_id="o-2"), key="k")


async def test_who_cannot_see_the_keys_owner_is_told_to_try_again(
    worker: Orchestrator, database: str, sql: asyncpg.Connection
) -> None:
    async with sql.transaction(isolation="repeatable_read"):
        await sql.fetchval("SELECT 1")
        await worker.start("order", Order(order_id="o-1"), key="k")
        with pytest.raises(asyncpg.SerializationError):
            await sql.fetchval(START, {"order_id": "o-1"}, "k")


async def test_what_does_not_fit_is_parked_with_the_reason(
    worker: Orchestrator, database: str, sql: asyncpg.Connection
) -> None:
    saga_id = await sql.fetchval(START, {"order_id": "o-1", "total": 0}, None)
    state = await settled(worker, saga_id)
    explained = await worker.explain(saga_id)

    assert (state.status, state.context) == (Status.PARKED, {})
    assert state.error.message == "$.total: Input should be greater than 0"
    assert [str(verb) for verb in explained.legal] == ["retry", "cancel", "abandon"]
    await worker.cancel(saga_id, reason="mistyped", actor="ann")
    await until(database, ENDED, saga_id, "COMPENSATED")
    assert [violation async for violation in verify(worker.store, [saga_id])] == []


async def test_a_worker_with_another_model_takes_it_when_asked_again(
    database: str, sql: asyncpg.Connection
) -> None:
    async with orchestrating(database, at_least(9)) as strict:
        saga_id = await sql.fetchval(START, {"order_id": "o-1", "total": 7}, None)
        assert (await settled(strict, saga_id)).status is Status.PARKED
    async with orchestrating(database, at_least(7)) as mild:
        await mild.retry(saga_id, reason="the limit was wrong", actor="ann")
        await until(database, ENDED, saga_id, "COMPLETED")


_ODD = {
    "deep": '{"order_id": ' + "[" * 2000 + "]" * 2000 + "}",
    "a number beyond floats": '{"order_id": "o", "total": 1e9000}',
    "a number of many digits": '{"order_id": "o", "total": ' + "9" * 9000 + "}",
    "a field that is missing": "{}",
    "text that looks like a format": '{"order_id": 7, "total": "%s {0} $1"}',
}


@pytest.mark.parametrize("text", _ODD.values(), ids=_ODD.keys())
async def test_whatever_json_can_say_parks_its_saga_alone(
    worker: Orchestrator, sql: asyncpg.Connection, text: str
) -> None:
    odd = await sql.fetchval("SELECT eventsaga.start_saga('order', $1::text::jsonb)", text)
    good = await sql.fetchval(START, {"order_id": "o-1"}, None)

    assert (await settled(worker, good)).status is Status.COMPLETED
    assert (await settled(worker, odd)).status is Status.PARKED
    assert [violation async for violation in verify(worker.store)] == []


_REFUSED = {
    "SELECT eventsaga.start_saga('ordre', '{}')": "no worker has ever brought a saga 'ordre'",
    "SELECT eventsaga.start_saga(NULL)": "no worker has ever brought a saga NULL",
    "SELECT eventsaga.start_saga('order', version => 7)": "a saga 'order' version 7",
    "SELECT eventsaga.start_saga('order', '[]')": "must be a JSON object, not array",
    "SELECT eventsaga.start_saga('order', NULL)": "must be a JSON object, not null",
    "SELECT eventsaga.start_saga('order', key => '')": "the key must be 1 to 500",
    "SELECT eventsaga.start_saga('order', key => E'a\\nb')": "the key must be 1 to 500",
    "SELECT eventsaga.start_saga('order', correlation_id => 'ä')": "printable ASCII",
    "SELECT eventsaga.start_saga('order', jsonb_build_object('x', repeat('x', 1000000)))": (
        "exceeds the limit"
    ),
    "SELECT eventsaga.signal_saga(gen_random_uuid(), 'x')": "there is no saga",
    "SELECT eventsaga.cancel_saga(NULL, 'x')": "there is no saga null",
}


@pytest.mark.parametrize(("call", "reason"), _REFUSED.items())
async def test_what_makes_no_sense_is_refused_and_nothing_is_written(
    worker: Orchestrator, sql: asyncpg.Connection, call: str, reason: str
) -> None:
    with pytest.raises(asyncpg.PostgresError, match=reason.replace("(", r"\(")):
        await sql.fetchval(call)

    assert await worker.list() == []
    assert await sql.fetchval("SELECT count(*) FROM eventsaga.start_keys") == 0


async def test_a_saga_that_is_over_hears_nothing(
    worker: Orchestrator, sql: asyncpg.Connection
) -> None:
    handle = await worker.start("order", Order(order_id="o-1"))
    await handle.result(timeout=20)

    with pytest.raises(asyncpg.PostgresError, match="is COMPLETED"):
        await sql.fetchval("SELECT eventsaga.cancel_saga($1, 'late')", handle.id)


async def test_the_newest_version_is_started_if_none_is_named(
    database: str, sql: asyncpg.Connection
) -> None:
    second = Saga("order", context=Order, version=2, steps=[Step("charge", charge)])
    async with orchestrating(database, ORDER, second) as worker:
        newest = await sql.fetchval(START, {"order_id": "o-1"}, None)
        first = await sql.fetchval(
            "SELECT eventsaga.start_saga('order', $1, version => 1)", {"order_id": "o-1"}
        )
        versions = [(await settled(worker, each)).version for each in (newest, first)]

    assert versions == [2, 1]

"""Do SQL and Python say the same of every history? Contexts, doubts and chains are compared."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from eventsaga import (
    ChildSaga,
    ForEach,
    InDoubtError,
    Orchestrator,
    Parallel,
    PermanentError,
    Saga,
    Step,
    StepContext,
    WaitForSignal,
)
from eventsaga.client.verify import verify
from eventsaga.core.state import Status
from tests.runtime.sagas import ONCE, Order, orchestrating, until
from tests.store.vandal import Vandal

ENDED = "SELECT status = $2 FROM eventsaga.sagas WHERE saga_id = $1"


async def note(order: Order) -> dict[str, Any]:
    return {"note": f"{order.note}+", "data": {"nested": [1, None]}}


async def unnote(_order: Order) -> dict[str, Any]:
    return {"note": None}


async def decline(_order: Order) -> None:
    raise PermanentError("declined")


async def lost(_order: Order) -> None:
    raise InDoubtError("no answer")


async def one(_order: Order, step: StepContext) -> dict[str, Any] | None:
    return None if step.item == 1 else {"amount": 3}


async def odd(_order: Order) -> object:
    return {"amount": object()}


async def other_amount(_order: Order) -> dict[str, Any]:
    return {"amount": 1.5}


async def amount(_order: Order) -> dict[str, Any]:
    return {"amount": 2.5}


CHILD = Saga("child", context=Order, steps=[Step("note", note)])
NOTE = Step("note", note, compensate=unnote)
SAGAS = (
    CHILD,
    Saga("plain", context=Order, steps=[NOTE, Step("again", note)]),
    Saga("back", context=Order, steps=[NOTE, Step("bad", decline)]),
    Saga("each", context=Order, steps=[ForEach("pack", lambda _: [0, 1, 2], Step("one", one))]),
    Saga(
        "into",
        context=Order,
        steps=[ForEach("pack", lambda _: range(12), Step("one", one), into="data")],
    ),
    Saga("empty", context=Order, steps=[ForEach("p", lambda _: [], Step("q", one), into="data")]),
    Saga(
        "conflict",
        context=Order,
        steps=[NOTE, Parallel("both", [Step("a", amount), Step("b", other_amount)])],
    ),
    Saga("refused", context=Order, steps=[Step("odd", odd, retry=ONCE)]),
    Saga("signal", context=Order, steps=[WaitForSignal("said", into="data", model=None)]),
    Saga("parent", context=Order, steps=[NOTE, ChildSaga("child", CHILD, lambda _: Order())]),
    Saga("doubt", context=Order, steps=[NOTE, Step("lost", lost, retry=ONCE, on_doubt="park")]),
    Saga(
        "undo",
        context=Order,
        steps=[Step("kept", note, compensate=lost, compensate_retry=ONCE), Step("bad", decline)],
    ),
)


@pytest.fixture
async def sql(database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database)
    await connection.set_type_codec(
        "jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog"
    )
    yield connection
    await connection.close()


@pytest.fixture
async def ran(database: str, sql: asyncpg.Connection) -> AsyncIterator[Orchestrator]:
    """Every saga has come to its end, or to where it waits for a person."""
    async with orchestrating(database, *SAGAS) as orchestrator:
        handles = {saga.name: await orchestrator.start(saga, Order()) for saga in SAGAS}
        in_sql = await sql.fetchval("SELECT eventsaga.start_saga('plain', '{\"note\": \"x\"}')")
        await sql.fetchval(
            "SELECT eventsaga.signal_saga($1, 'said', $2)", handles["signal"].id, {"ok": [1]}
        )
        await asyncio.gather(*(handle.result(timeout=30) for handle in handles.values()))
        await orchestrator.wait(in_sql, timeout=30)
        yield orchestrator


async def test_what_a_saga_knew_is_the_same_in_sql_and_in_python(
    ran: Orchestrator, sql: asyncpg.Connection
) -> None:
    compared = 0
    for row in await ran.list(limit=100):
        for stored in await ran.history(row.saga_id):
            seen = await ran.state_at(row.saga_id, seq=stored.seq)
            known: dict[str, Any] = seen.context.model_dump(mode="json") if seen.context else {}
            by_seq = await sql.fetchval(
                "SELECT eventsaga.context_at($1, $2::int)", row.saga_id, stored.seq
            )
            by_time = await sql.fetchval(
                "SELECT eventsaga.context_at($1, $2::timestamptz)", row.saga_id, stored.recorded_at
            )
            assert by_seq == known, (row.name, stored)
            last_of_its_time = await ran.state_at(row.saga_id, at=stored.recorded_at)
            assert (by_time == known) or last_of_its_time.seq != stored.seq
            compared += 1
    assert compared > 80
    statuses = {row.name: row.status for row in await ran.list(limit=100)}
    assert statuses["into"] is statuses["signal"] is statuses["parent"] is Status.COMPLETED
    assert statuses["conflict"] is statuses["back"] is Status.COMPENSATED
    assert statuses["doubt"] is statuses["undo"] is Status.PARKED


async def test_of_no_saga_nothing_is_known(database: str, sql: asyncpg.Connection) -> None:
    unknown = UUID(int=7)

    assert await sql.fetchval("SELECT eventsaga.context_at($1, 1)", unknown) is None
    assert await sql.fetchval("SELECT eventsaga.context_at($1, now())", unknown) is None
    found = await sql.fetch("SELECT * FROM eventsaga.verify_chain($1)", unknown)
    assert [tuple(row) for row in found] == [(0, "there is no such saga")]


async def test_doubts_are_the_same_in_sql_and_in_python(
    ran: Orchestrator, database: str, sql: asyncpg.Connection
) -> None:
    async def seen() -> dict[UUID, tuple[str, ...]]:
        states = [await ran.get(row.saga_id) for row in await ran.list(limit=100)]
        return {state.saga_id: state.in_doubt_steps for state in states if state.in_doubt_steps}

    async def shown() -> dict[UUID, tuple[str, ...]]:
        rows = await sql.fetch("SELECT * FROM eventsaga.in_doubt WHERE operation = 'execute'")
        return {row["saga_id"]: (row["step"],) for row in rows}

    before, by_sql = await seen(), await shown()
    undone = await sql.fetch("SELECT * FROM eventsaga.in_doubt WHERE operation = 'compensate'")
    names = {row.name: row.saga_id for row in await ran.list(limit=100)}
    refused, doubtful = names["refused"], names["doubt"]
    await ran.resolve(doubtful, "lost", "failed", reason="asked them", actor="ann")
    await until(database, ENDED, doubtful, "COMPENSATED")

    assert by_sql == before == {doubtful: ("lost",), refused: ("odd",)}
    assert [(row["saga_name"], row["step"]) for row in undone] == [("undo", "kept")]
    assert undone[0]["idempotency_key"] == f"{undone[0]['saga_id']}/kept/undo"
    assert await seen() == await shown() == {refused: ("odd",)}


EDITS = {
    "an edit": "UPDATE eventsaga.events SET data = '{}' WHERE saga_id = $1 AND seq = 3",
    "a changed time": "UPDATE eventsaga.events SET occurred_at = now() WHERE saga_id = $1"
    " AND seq = 2",
    "a removed event": "DELETE FROM eventsaga.events WHERE saga_id = $1 AND seq = 4",
    "a cut tail": "DELETE FROM eventsaga.events WHERE saga_id = $1 AND seq >= 5",
    "a cut head": "DELETE FROM eventsaga.events WHERE saga_id = $1 AND seq = 1",
    "a swap": "UPDATE eventsaga.events SET data = (SELECT o.data FROM eventsaga.events o"
    " WHERE o.saga_id = $1 AND o.seq = 5) WHERE saga_id = $1 AND seq = 3",
    "an inserted event": "INSERT INTO eventsaga.events SELECT saga_id, 99, type, schema_version,"
    " data, occurred_at, recorded_at, worker_id, txid, salt, hash FROM eventsaga.events"
    " WHERE saga_id = $1 AND seq = 3",
    "a row that is gone": "DELETE FROM eventsaga.sagas WHERE saga_id = $1",
    "a head of its own": "UPDATE eventsaga.sagas SET last_hash = '' WHERE saga_id = $1",
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
async def test_whatever_breaks_a_chain_is_found_by_both(
    database: str, sql: asyncpg.Connection, edit: str
) -> None:
    async with orchestrating(database, *SAGAS) as orchestrator:
        handle = await orchestrator.start("plain", Order())
        await handle.result(timeout=20)
        clean = await sql.fetch("SELECT * FROM eventsaga.verify_chain($1)", handle.id)
        await Vandal(database).edit(edit, handle.id)
        found = await sql.fetch("SELECT * FROM eventsaga.verify_chain($1)", handle.id)
        seen = [violation async for violation in verify(orchestrator.store, [handle.id])]

    assert clean == []
    assert found
    assert seen


async def test_every_chain_that_python_wrote_is_whole_to_sql(
    ran: Orchestrator, sql: asyncpg.Connection
) -> None:
    broken = await sql.fetch(
        "SELECT s.saga_id, v.* FROM eventsaga.sagas s, eventsaga.verify_chain(s.saga_id) v"
    )

    assert broken == []
    assert len(await ran.list(limit=100)) == len(SAGAS) + 2

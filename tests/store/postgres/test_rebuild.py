"""Is every row put right, and nothing else, while others write? Forced, one by one."""

import asyncio
from typing import Any

import asyncpg
import pytest
from pydantic import BaseModel

from eventsaga.client import Orchestrator
from eventsaga.client.verify import verify
from eventsaga.core.state import Status
from eventsaga.saga import Saga, Step
from eventsaga.store.ports import Committed, Fenced
from eventsaga.store.postgres import append as appending
from eventsaga.store.postgres import rebuild as rebuilding
from eventsaga.store.postgres.rebuild import Repair, rebuild
from eventsaga.store.postgres.scan import read_events
from eventsaga.store.postgres.store import PostgresStore
from tests.store.barriers import PATIENCE, locked, until, until_blocked
from tests.store.builders import (
    ORDERS,
    advance,
    new_append,
    new_worker,
    queue_append,
    start_saga,
)
from tests.store.vandal import Vandal, all_sorts, run_to_the_end

LOCKING = "FOR UPDATE OF s"
APPENDING = "SET last_seq"


async def repairs(store: PostgresStore, **options: Any) -> list[Repair]:
    return [repair async for repair in rebuild(store, **options)]


async def is_verified(store: PostgresStore) -> bool:
    return not [violation async for violation in verify(store)]


async def test_rows_that_are_right_are_left_alone(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    await all_sorts(store)
    before = await sql.fetch("SELECT xmin, * FROM eventsaga.sagas ORDER BY saga_id")
    assert await repairs(store) == []
    assert await sql.fetch("SELECT xmin, * FROM eventsaga.sagas ORDER BY saga_id") == before


CHANGES = {
    "name": "'other'",
    "version": "2",
    "fingerprint": "'beef'",
    "status": "'FINE'",
    "current_steps": "'{ship,NULL}'",
    "context": "(context::text || ' ')::json",
    "error": "NULL",
    "correlation_id": "'x'",
    "last_seq": "2",
    "last_hash": "sha256('')",
    "created_at": "created_at + interval '1 us'",
    "updated_at": "'infinity'",
    "parent_id": "gen_random_uuid()",
    "parent_step": "'ship'",
}


@pytest.mark.parametrize("column", CHANGES)
async def test_each_column_is_written_anew(
    store: PostgresStore, vandal: Vandal, sql: asyncpg.Connection, column: str
) -> None:
    held = await run_to_the_end(store, await new_worker(store), failing="ship")
    before = await vandal.row(held.saga_id)
    await vandal.edit(f"UPDATE eventsaga.sagas SET {column} = {CHANGES[column]}")  # noqa: S608
    assert await vandal.row(held.saga_id) != before

    assert await repairs(store) == [Repair(held.saga_id, (column,))]

    after = await vandal.row(held.saga_id)
    # Its number may have fenced its owner: somebody looks whether it owes something.
    assert (after["wake_at"] is not None) == (column == "last_seq")
    assert after == before | {"wake_at": after["wake_at"]}


async def test_a_count_beyond_the_last_event_is_put_right_if_the_head_fits(
    store: PostgresStore, vandal: Vandal, sql: asyncpg.Connection
) -> None:
    held = await run_to_the_end(store, await new_worker(store))
    await vandal.edit("UPDATE eventsaga.sagas SET last_seq = 99")
    assert await repairs(store) == [Repair(held.saga_id, ("last_seq",))]


async def test_the_lease_of_a_running_saga_is_not_touched(
    store: PostgresStore, vandal: Vandal, sql: asyncpg.Connection
) -> None:
    owner = await new_worker(store)
    held = await start_saga(store, owner)
    await vandal.edit("UPDATE eventsaga.sagas SET claims = 3, correlation_id = 'x'")

    await repairs(store)

    row = await vandal.row(held.saga_id)
    assert (row["owner"], row["wake_at"], row["claims"]) == (owner, None, 3)
    assert isinstance(await advance(store, held, owner), Committed)


async def test_the_instant_of_a_waiting_saga_is_not_touched(
    store: PostgresStore, vandal: Vandal, sql: asyncpg.Connection
) -> None:
    held = await start_saga(store)
    await vandal.edit("UPDATE eventsaga.sagas SET wake_at = '2100-01-01', version = 9")
    await repairs(store)
    row = await vandal.row(held.saga_id)
    assert (row["version"], row["wake_at"].year, row["owner"]) == (1, 2100, None)


async def test_a_row_that_was_called_settled_is_due_again(
    store: PostgresStore, vandal: Vandal, sql: asyncpg.Connection
) -> None:
    """Its status alone would not do: nobody looks for a saga without owner and instant."""
    held = await start_saga(store)
    await vandal.edit("UPDATE eventsaga.sagas SET status = 'COMPLETED', wake_at = NULL")

    assert await repairs(store) == [Repair(held.saga_id, ("status", "wake_at"))]

    (claimed,) = await store.claim(await new_worker(store), ORDERS, 10)
    assert claimed.saga_id == held.saga_id


async def test_the_lease_of_a_settled_saga_is_left_to_the_workers(
    store: PostgresStore, vandal: Vandal, sql: asyncpg.Connection
) -> None:
    """It may owe a hook, or be asked something; one that does not is given up again."""
    owner = await new_worker(store)
    held = await run_to_the_end(store, owner)
    await vandal.edit("UPDATE eventsaga.sagas SET owner = $1, name = 'other'", owner)
    assert await repairs(store) == [Repair(held.saga_id, ("name",))]
    assert (await vandal.row(held.saga_id))["owner"] == owner
    await vandal.edit("UPDATE eventsaga.sagas SET owner = NULL, wake_at = now()")
    assert await repairs(store) == []
    assert await is_verified(store)


async def test_a_missing_row_is_made_again(
    store: PostgresStore, vandal: Vandal, sql: asyncpg.Connection
) -> None:
    held = await run_to_the_end(store, await new_worker(store), failing="ship")
    before = await vandal.row(held.saga_id)
    await vandal.edit("DELETE FROM eventsaga.sagas")

    (repair,) = await repairs(store)

    assert repair.refused is None
    assert await vandal.row(held.saga_id) == before


async def test_a_missing_row_of_a_running_saga_belongs_to_nobody_and_is_due(
    store: PostgresStore, vandal: Vandal, sql: asyncpg.Connection
) -> None:
    owner = await new_worker(store)
    held = await start_saga(store, owner)
    await vandal.edit("DELETE FROM eventsaga.sagas")
    await repairs(store)
    (claimed,) = await store.claim(await new_worker(store), ORDERS, 10)
    assert (claimed.saga_id, len(claimed.history)) == (held.saga_id, held.state.seq)


async def test_a_dry_run_writes_nothing(store: PostgresStore, vandal: Vandal) -> None:
    held = await start_saga(store)
    await vandal.edit("UPDATE eventsaga.sagas SET version = 9")
    before = await vandal.row(held.saga_id)
    assert await repairs(store, dry_run=True) == [Repair(held.saga_id, ("version",))]
    assert await vandal.row(held.saga_id) == before


async def test_only_the_sagas_asked_for_are_rebuilt(store: PostgresStore, vandal: Vandal) -> None:
    asked, other = await start_saga(store), await start_saga(store)
    await vandal.edit("UPDATE eventsaga.sagas SET version = 9")
    assert await repairs(store, saga_ids=[asked.saga_id]) == [Repair(asked.saga_id, ("version",))]
    assert (await vandal.row(other.saga_id))["version"] == 9


# -- what is not trusted ------------------------------------------------------------------

DAMAGE = {
    "UPDATE eventsaga.events SET salt = sha256('') WHERE seq = 5": "event 5: its hash does not fit",
    "DELETE FROM eventsaga.events WHERE seq = 5": "event 5: the event is missing",
    "DELETE FROM eventsaga.events WHERE seq > 5": "the end of the history may have been cut off",
    "DELETE FROM eventsaga.events": "no events to be rebuilt from",
    "UPDATE eventsaga.events SET data = '{}' WHERE seq = 5": "event 5: its hash does not fit",
    "UPDATE eventsaga.events SET schema_version = 9 WHERE seq = 5": "a newer eventsaga wrote it",
}


@pytest.mark.parametrize("statement", DAMAGE)
async def test_a_row_is_left_as_the_witness_of_a_broken_history(
    store: PostgresStore, vandal: Vandal, statement: str
) -> None:
    held = await run_to_the_end(store, await new_worker(store))
    await vandal.edit(statement)
    await vandal.edit("UPDATE eventsaga.sagas SET version = 9")
    before = await vandal.row(held.saga_id)

    (repair,) = await repairs(store)

    assert DAMAGE[statement] in (repair.refused or "")
    assert await vandal.row(held.saga_id) == before


async def test_a_history_without_its_end_is_believed_if_somebody_insists(
    store: PostgresStore, vandal: Vandal, sql: asyncpg.Connection
) -> None:
    held = await run_to_the_end(store, await new_worker(store))
    await vandal.edit("DELETE FROM eventsaga.events WHERE seq > 4")

    (repair,) = await repairs(store, force=True)

    assert repair.refused is None
    row = await vandal.row(held.saga_id)
    assert (row["status"], row["last_seq"], row["current_steps"]) == ("RUNNING", 4, ["charge"])
    (claimed,) = await store.claim(await new_worker(store), ORDERS, 10)
    assert claimed.saga_id == held.saga_id


async def test_what_cannot_be_folded_is_refused_even_if_somebody_insists(
    store: PostgresStore, vandal: Vandal
) -> None:
    await run_to_the_end(store, await new_worker(store))
    await vandal.edit("UPDATE eventsaga.events SET data = '[]' WHERE seq = 5")
    (repair,) = await repairs(store, force=True)
    assert repair.refused is not None


async def test_an_id_that_stands_for_nothing_is_refused(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    unknown = await sql.fetchval("SELECT gen_random_uuid()")
    assert await repairs(store, saga_ids=[unknown]) == [
        Repair(unknown, (), "there is no such saga")
    ]


# -- beside others ------------------------------------------------------------------------


async def test_an_append_in_flight_is_waited_for_and_seen(
    database: str, store: PostgresStore, vandal: Vandal, sql: asyncpg.Connection
) -> None:
    owner = await new_worker(store)
    held = await start_saga(store, owner)
    await vandal.edit("UPDATE eventsaga.sagas SET version = 9")
    append = new_append(held)
    other = await asyncpg.connect(database)
    try:
        async with other.transaction():
            taken = await appending.append_all(
                other, appending.APPEND, [appending.encode_append(append)], owner, "1s"
            )
            assert taken == {held.saga_id}
            rebuilt = asyncio.create_task(repairs(store))
            await until_blocked(sql, LOCKING)
        assert await asyncio.wait_for(rebuilt, PATIENCE) == [Repair(held.saga_id, ("version",))]
    finally:
        await other.close()
    row = await vandal.row(held.saga_id)
    assert (row["version"], row["last_seq"]) == (1, append.state.seq)


async def test_an_append_that_comes_later_waits_and_goes_through(
    store: PostgresStore,
    vandal: Vandal,
    sql: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owner = await new_worker(store)
    held = await start_saga(store, owner)
    await vandal.edit("UPDATE eventsaga.sagas SET version = 9")
    is_locked, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(*args: Any) -> Any:
        is_locked.set()
        await go_on.wait()
        return await read_events(*args)

    monkeypatch.setattr(rebuilding, "read_events", slowly)
    rebuilt = asyncio.create_task(repairs(store))
    await asyncio.wait_for(is_locked.wait(), PATIENCE)
    outcome = queue_append(store, new_append(held), owner)
    await until_blocked(sql, APPENDING)
    go_on.set()

    assert isinstance(await asyncio.wait_for(outcome, PATIENCE), Committed)
    assert await rebuilt == [Repair(held.saga_id, ("version",))]


@pytest.mark.parametrize("number", [1, 77])
async def test_a_saga_whose_owner_was_fenced_by_a_wrong_number_is_given_up(
    store: PostgresStore, vandal: Vandal, sql: asyncpg.Connection, number: int
) -> None:
    """Its owner has dropped it, or will, and lives: nobody else would ever take it."""
    owner = await new_worker(store)
    held = await start_saga(store, owner)
    await vandal.edit("UPDATE eventsaga.sagas SET last_seq = $1", number)
    assert isinstance(await queue_append(store, new_append(held), owner), Fenced)

    assert await repairs(store) == [Repair(held.saga_id, ("last_seq",))]

    assert isinstance(await queue_append(store, new_append(held), owner), Fenced)
    (claimed,) = await store.claim(await new_worker(store), ORDERS, 10)
    assert claimed.saga_id == held.saga_id


async def test_of_two_that_make_a_missing_row_the_second_finds_it(
    store: PostgresStore,
    vandal: Vandal,
    sql: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = await run_to_the_end(store, await new_worker(store))
    before = await vandal.row(held.saga_id)
    await vandal.edit("DELETE FROM eventsaga.sagas")
    arrived, both_are_here = 0, asyncio.Event()

    async def together(*args: Any) -> Any:
        nonlocal arrived
        arrived += 1
        if arrived == 2:
            both_are_here.set()
        await both_are_here.wait()
        return await read_events(*args)

    monkeypatch.setattr(rebuilding, "read_events", together)
    done = await asyncio.wait_for(asyncio.gather(repairs(store), repairs(store)), PATIENCE)

    assert sorted(map(len, done)) == [0, 1]
    assert await vandal.row(held.saga_id) == before


async def test_a_row_that_somebody_holds_for_long_does_not_hold_up_the_others(
    database: str,
    store: PostgresStore,
    vandal: Vandal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rebuilding, "LOCK", rebuilding.LOCK.replace("5s", "50ms"))
    first, second = await start_saga(store), await start_saga(store)
    await vandal.edit("UPDATE eventsaga.sagas SET version = 9")

    async with locked(database, first.saga_id):
        refused, repaired = await repairs(store)

    assert "another transaction holds its row" in (refused.refused or "")
    assert repaired == Repair(second.saga_id, ("version",))
    assert await repairs(store) == [Repair(first.saga_id, ("version",))]


async def test_a_row_that_is_right_by_the_time_it_is_locked_is_no_repair(
    database: str, store: PostgresStore, vandal: Vandal, sql: asyncpg.Connection
) -> None:
    held = await start_saga(store)
    await vandal.edit("UPDATE eventsaga.sagas SET version = 9")
    async with locked(database, held.saga_id) as stranger:
        rebuilt = asyncio.create_task(repairs(store))
        await until_blocked(sql, LOCKING)
        await stranger.execute("UPDATE eventsaga.sagas SET version = 1")
    assert await asyncio.wait_for(rebuilt, PATIENCE) == []


class Count(BaseModel):
    number: int


async def add(context: Count) -> dict[str, Any]:
    await asyncio.sleep(0)
    return {"number": context.number + 1}


async def test_sagas_complete_while_their_rows_are_damaged_and_rebuilt(
    database: str, sql: asyncpg.Connection
) -> None:
    saga = Saga("count", context=Count, steps=[Step(f"step_{n}", add) for n in range(8)])
    async with Orchestrator(database, [saga]) as orchestrator:
        handles = await orchestrator.start_many("count", [{"number": 0}] * 200)
        ended = asyncio.gather(*(handle.result() for handle in handles))
        repaired = 0
        while not ended.done():
            await sql.execute("UPDATE eventsaga.sagas SET correlation_id = 'x', version = 9")
            repaired += len(await repairs(orchestrator.store))
        await sql.execute("UPDATE eventsaga.sagas SET correlation_id = 'x', version = 9")
        repaired += len(await repairs(orchestrator.store))
        assert repaired >= len(handles)
        assert {state.status for state in await ended} == {Status.COMPLETED}
        assert {state.context.number for state in await ended} == {8}
        assert await is_verified(orchestrator.store)
    await until(sql, "SELECT count(*) = 200 FROM eventsaga.sagas WHERE status = 'COMPLETED'")

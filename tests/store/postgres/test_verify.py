"""Is everything found that must not be? Each kind of damage, done and looked for."""

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from eventsaga.client import Orchestrator
from eventsaga.client.verify import verify
from eventsaga.core.state import Status
from eventsaga.saga import Saga, Step
from eventsaga.store.examine import Violation
from eventsaga.store.postgres import scan as scanning
from eventsaga.store.postgres.store import PostgresStore
from eventsaga.wire.chain import link, salted
from tests.store.builders import new_worker, start_saga, start_sagas
from tests.store.vandal import Vandal, all_sorts, run_to_the_end

Found = set[tuple[int, int | None]]


async def found_by_verify(store: PostgresStore, *saga_ids: UUID) -> list[Violation]:
    return [violation async for violation in verify(store, saga_ids or None)]


def places(violations: Sequence[Violation]) -> Found:
    return {(violation.invariant, violation.seq) for violation in violations}


async def test_sagas_of_every_kind_are_in_order(store: PostgresStore) -> None:
    sagas = await all_sorts(store)
    seen: list[tuple[int, int]] = []

    violations = verify(store, progress=lambda done, total: seen.append((done, total)))

    assert [violation async for violation in violations] == []
    assert seen[0] == (0, len(sagas))
    assert seen[-1] == (len(sagas), len(sagas))


async def test_an_empty_database_is_in_order(store: PostgresStore) -> None:
    assert await found_by_verify(store) == []


def copy_of(seq: int, *, at: int) -> str:
    """Return the statement that puts a copy of an event somewhere else."""
    return (
        "INSERT INTO eventsaga.events"  # noqa: S608
        " (saga_id, seq, type, schema_version, data, occurred_at, salt, hash)"
        f" SELECT saga_id, {at}, type, schema_version, data, occurred_at, salt, hash"
        f"   FROM eventsaga.events WHERE seq = {seq}"
    )


MAKE_ROOM = """
    UPDATE eventsaga.events SET seq = seq + 100 WHERE seq > 5;
    UPDATE eventsaga.events SET seq = seq - 99 WHERE seq > 100
"""
CHANGE_PLACES = """
    UPDATE eventsaga.events SET seq = 108 - seq WHERE seq IN (3, 5);
    UPDATE eventsaga.events SET seq = seq - 100 WHERE seq > 100
"""
MAKE_DEEP = """
    UPDATE eventsaga.events SET data = (repeat('[', 999) || repeat(']', 999))::json WHERE seq = 5
"""

# A completed saga: 1 started, 2-3 reserve, 4-5 charge, 6-7 ship, 8 completed.
EVENTS_CHANGED: dict[str, tuple[str, Found]] = {
    "its data was edited": (
        'UPDATE eventsaga.events SET data = \'{"step":"charge","attempt":1}\' WHERE seq = 5',
        {(19, 5), (3, None)},
    ),
    "its data was only written in another way": (
        "UPDATE eventsaga.events SET data = (data::text || ' ')::json WHERE seq = 5",
        {(19, 5)},
    ),
    "its data is gone": (
        "UPDATE eventsaga.events SET data = NULL WHERE seq = 5",
        {(19, 5), (2, 5)},
    ),
    "its data is no object": (
        "UPDATE eventsaga.events SET data = '[1]' WHERE seq = 5",
        {(19, 5), (2, 5)},
    ),
    "its data is too deep to be read": (
        MAKE_DEEP,
        {(19, 5), (2, 5)},
    ),
    "its salt was changed": (
        "UPDATE eventsaga.events SET salt = sha256('') WHERE seq = 5",
        {(19, 5)},
    ),
    "its salt is gone": (
        "UPDATE eventsaga.events SET salt = NULL WHERE seq = 5",
        {(19, 5)},
    ),
    "its hash was changed": (
        "UPDATE eventsaga.events SET hash = sha256('') WHERE seq = 5",
        {(19, 5), (19, 6)},
    ),
    "its type was changed": (
        "UPDATE eventsaga.events SET type = 'StepCompensated' WHERE seq = 5",
        {(19, 5), (2, 5)},
    ),
    "its type is unknown": (
        "UPDATE eventsaga.events SET type = 'StepForgiven' WHERE seq = 5",
        {(19, 5), (2, 5)},
    ),
    "its schema version is of the future": (
        "UPDATE eventsaga.events SET schema_version = 99 WHERE seq = 5",
        {(2, 5)},
    ),
    "its time was changed": (
        "UPDATE eventsaga.events SET occurred_at = occurred_at - interval '1 us' WHERE seq = 5",
        {(19, 5)},
    ),
    "its time is beyond the calendar": (
        "UPDATE eventsaga.events SET occurred_at = '20000-01-01' WHERE seq = 5",
        {(19, 5), (2, 5)},
    ),
    "it was deleted": (
        "DELETE FROM eventsaga.events WHERE seq = 5",
        {(1, 5), (19, 6), (2, 8)},
    ),
    "it was deleted with the next": (
        "DELETE FROM eventsaga.events WHERE seq IN (4, 5)",
        {(1, 4), (19, 6), (3, None)},
    ),
    "the first was deleted": (
        "DELETE FROM eventsaga.events WHERE seq = 1",
        {(1, 1), (19, 2), (2, 2)},
    ),
    "the last was deleted": (
        "DELETE FROM eventsaga.events WHERE seq = 8",
        {(1, 8), (19, 7), (3, None), (16, None)},
    ),
    "the end was cut off": (
        "DELETE FROM eventsaga.events WHERE seq > 4",
        {(1, 5), (19, 4), (3, None), (16, None)},
    ),
    "two changed places": (
        CHANGE_PLACES,
        {(19, 3), (19, 4), (19, 5), (19, 6), (2, 3)},
    ),
    "one was inserted at the end": (
        copy_of(8, at=9),
        {(1, 9), (2, 9), (19, 9)},
    ),
    "one was inserted in between": (
        f"{MAKE_ROOM};{copy_of(5, at=6)}",
        {(2, 6), (1, 9), *((19, seq) for seq in (6, 7, 8, 9))},
    ),
    "the last got a number far away": (
        "UPDATE eventsaga.events SET seq = 100 WHERE seq = 8",
        {(1, 8), (1, 9), (19, 100)},
    ),
    "its saga has no row": (
        "DELETE FROM eventsaga.sagas",
        {(1, None)},
    ),
    "all of them are gone": (
        "DELETE FROM eventsaga.events",
        {(1, None)},
    ),
}


@pytest.mark.parametrize("damage", EVENTS_CHANGED)
async def test_a_changed_history_is_found_where_it_was_changed(
    store: PostgresStore, vandal: Vandal, damage: str
) -> None:
    held = await run_to_the_end(store, await new_worker(store))
    statements, expected = EVENTS_CHANGED[damage]

    for statement in statements.split(";"):
        await vandal.edit(statement)

    found = await found_by_verify(store)
    assert places(found) == expected, [str(violation) for violation in found]
    assert {violation.saga_id for violation in found} == {held.saga_id}


COLUMNS_CHANGED = {
    "name": "SET name = 'other'",
    "version": "SET version = 2",
    "fingerprint": "SET fingerprint = 'beef'",
    "status": "SET status = 'COMPLETED'",
    "status without meaning": "SET status = 'FINE'",
    "current_steps": "SET current_steps = '{ship}'",
    "current_steps with nothing in it": "SET current_steps = '{NULL}'",
    "context": "SET context = '{}'",
    "context in another spelling": "SET context = (context::text || ' ')::json",
    "error": "SET error = NULL",
    "error in another spelling": "SET error = replace(error::text, ':', ': ')::json",
    "correlation_id": "SET correlation_id = 'x'",
    "created_at": "SET created_at = created_at + interval '1 us'",
    "updated_at": "SET updated_at = 'infinity'",
}


@pytest.mark.parametrize("change", COLUMNS_CHANGED)
async def test_a_row_that_is_not_the_fold_of_its_events_is_found(
    store: PostgresStore, vandal: Vandal, change: str
) -> None:
    held = await run_to_the_end(store, await new_worker(store), failing="ship")
    assert held.state.status is Status.COMPENSATED

    await vandal.edit(f"UPDATE eventsaga.sagas {COLUMNS_CHANGED[change]}")

    (violation,) = await found_by_verify(store)
    assert (violation.saga_id, violation.invariant) == (held.saga_id, 3)
    assert f"column {change.split(maxsplit=1)[0]!r}" in violation.message


async def test_a_wrong_head_is_a_break_of_the_chain(store: PostgresStore, vandal: Vandal) -> None:
    held = await run_to_the_end(store, await new_worker(store))
    await vandal.edit("UPDATE eventsaga.sagas SET last_hash = sha256('')")
    assert places(await found_by_verify(store)) == {(19, held.state.seq)}


async def test_a_wrong_count_is_a_gap(store: PostgresStore, vandal: Vandal) -> None:
    held = await run_to_the_end(store, await new_worker(store))
    await vandal.edit("UPDATE eventsaga.sagas SET last_seq = last_seq + 2")
    assert places(await found_by_verify(store)) == {(1, held.state.seq + 1)}


async def test_a_forged_event_whose_hash_fits_is_found_by_the_row(
    store: PostgresStore, vandal: Vandal
) -> None:
    """Whoever knows the formula can link an event; the row's head and count know better."""
    held = await start_saga(store, await new_worker(store))
    at, salt, data = held.state.updated_at, b"salt", b'{"reason":"r","actor":"a"}'
    forged = link(held.last_hash, held.saga_id, 3, "SagaCancelRequested", at, salted(salt, data))
    await vandal.edit(
        "INSERT INTO eventsaga.events"
        " (saga_id, seq, type, schema_version, data, occurred_at, salt, hash)"
        " VALUES ($1, 3, 'SagaCancelRequested', 1, $2, $3, $4, $5)",
        held.saga_id,
        data.decode(),
        at,
        salt,
        forged,
    )
    assert places(await found_by_verify(store)) == {(1, 3), (14, 3), (19, 3), (3, None)}


@pytest.mark.parametrize(
    ("lease", "text"),
    [
        ("owner = NULL, wake_at = NULL", "never due"),
        ("owner = NULL, wake_at = 'infinity'", None),
    ],
)
async def test_a_saga_that_nobody_would_ever_go_on_with_is_found(
    store: PostgresStore, vandal: Vandal, lease: str, text: str | None
) -> None:
    await start_saga(store, await new_worker(store))
    await vandal.edit(f"UPDATE eventsaga.sagas SET {lease}")  # noqa: S608
    found = await found_by_verify(store)
    assert places(found) == ({(16, None)} if text else set())
    assert all(text in violation.message for violation in found if text)


async def test_a_settled_saga_that_will_be_taken_again_is_no_flaw(
    store: PostgresStore, vandal: Vandal
) -> None:
    """It owes a hook, or somebody asks something of it."""
    await run_to_the_end(store, await new_worker(store))
    await vandal.edit("UPDATE eventsaga.sagas SET wake_at = clock_timestamp()")
    assert await found_by_verify(store) == []


async def test_a_report_tells_no_context(store: PostgresStore, vandal: Vandal) -> None:
    await start_saga(store, context={"card": "4111"})
    await vandal.edit('UPDATE eventsaga.sagas SET context = \'{"card": "4242"}\'')
    (violation,) = await found_by_verify(store)
    assert "4111" not in str(violation)
    assert "4242" not in str(violation)


async def test_of_many_flaws_of_a_kind_the_first_ones_are_told(
    store: PostgresStore, vandal: Vandal
) -> None:
    held = await run_to_the_end(store, await new_worker(store), failing="ship")
    await vandal.edit("UPDATE eventsaga.events SET salt = NULL")
    found = await found_by_verify(store)
    assert held.state.seq == 13
    assert [violation.seq for violation in found] == [*range(1, 11), None]
    assert "3 more" in found[-1].message


# -- which sagas are looked at ------------------------------------------------------------


async def test_only_the_sagas_asked_for_are_looked_at(store: PostgresStore, vandal: Vandal) -> None:
    good, bad, other = await start_sagas(store, None, 3)
    await vandal.edit(
        "UPDATE eventsaga.sagas SET version = 7 WHERE saga_id = ANY ($1)",
        [bad.saga_id, other.saga_id],
    )
    found = await found_by_verify(store, good.saga_id, bad.saga_id, bad.saga_id)
    assert [violation.saga_id for violation in found] == [bad.saga_id]


async def test_an_id_that_stands_for_nothing_is_told(store: PostgresStore) -> None:
    unknown = UUID(int=1)
    (violation,) = await found_by_verify(store, unknown)
    assert (violation.saga_id, violation.message) == (unknown, "there is no such saga")


# -- beside workers -----------------------------------------------------------------------


class Count(BaseModel):
    number: int


async def pause(context: Count) -> dict[str, Any]:
    await asyncio.sleep(0)
    return {"number": context.number + 1}


async def test_nothing_is_found_while_workers_append(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row and its events come from one snapshot, so an append between two reads is no flaw."""
    monkeypatch.setattr(scanning, "_PAGE", 20)
    saga = Saga("count", context=Count, steps=[Step(f"step_{n}", pause) for n in range(10)])
    async with Orchestrator(database, [saga]) as orchestrator:
        handles = await orchestrator.start_many("count", [{"number": 0}] * 300)
        ended = asyncio.gather(*(handle.result() for handle in handles))
        rounds = 0
        while not ended.done() or not rounds:
            assert await found_by_verify(orchestrator.store) == []
            rounds += 1
        assert {state.status for state in await ended} == {Status.COMPLETED}
        assert await found_by_verify(orchestrator.store) == []

"""Is it named what only several sagas tell, and what only a database holds?"""

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from eventsaga.client.verify import verify
from eventsaga.store.examine import Violation
from eventsaga.store.invariants import (
    Due,
    Effect,
    Grant,
    Keyed,
    Ledger,
    judge_due,
    judge_grants,
    judge_keys,
    judge_starts,
    start_key_of,
)
from eventsaga.store.postgres.store import PostgresStore
from eventsaga.wire.chain import GENESIS, link, salted
from tests.core.histories import (
    EXECUTE,
    OTHER_WORKER,
    SAGA,
    SECOND,
    T0,
    WORKER,
)
from tests.store.builders import new_worker, start_saga, start_sagas
from tests.store.rows import (
    COMPLETED,
    named,
    records_of,
)
from tests.store.vandal import Vandal, all_sorts

A_KEY = ("order", "k-1")
OTHER_SAGA = UUID(int=9)


def test_a_start_key_stands_for_one_saga() -> None:
    both = [Keyed(SAGA, A_KEY), Keyed(OTHER_SAGA, A_KEY)]

    assert list(judge_starts(both[:1], {A_KEY: SAGA})) == []
    (twice,) = judge_starts(both, {A_KEY: SAGA})
    (lost,) = judge_starts(both[:1], {})
    (orphan,) = judge_keys(both[:1])

    assert [(v.saga_id, v.invariant) for v in (twice, lost, orphan)] == [
        (OTHER_SAGA, 5),
        (SAGA, 5),
        (SAGA, 5),
    ]


@pytest.mark.parametrize("data", ["[1]", "{", '{"key":1}', '{"saga_name":"o","key":"\\u0000"}'])
def test_a_key_that_never_was_one_is_left_alone(data: str) -> None:
    (first, *_) = records_of(COMPLETED, lambda _seq: WORKER)
    assert start_key_of([first._replace(data=data)]) is None
    assert start_key_of([]) is None


def test_two_leases_at_once_are_named() -> None:
    first = Grant(SAGA, WORKER, T0, T0 + 9 * SECOND)
    renewed = Grant(SAGA, WORKER, T0 + 5 * SECOND, T0 + 14 * SECOND)
    early = Grant(SAGA, OTHER_WORKER, T0 + 13 * SECOND, T0 + 20 * SECOND)
    late = early._replace(begin=renewed.end)
    elsewhere = early._replace(saga_id=OTHER_SAGA)

    assert list(judge_grants([late, renewed, first, elsewhere])) == []
    (violation,) = judge_grants([early, renewed, first])
    assert (violation.saga_id, violation.invariant) == (SAGA, 15)


def test_a_saga_that_waits_for_too_long_is_named() -> None:
    now = T0 + 60 * SECOND
    sagas = [
        Due(UUID(int=1), None, T0, None),
        Due(UUID(int=2), WORKER, None, T0),
        Due(UUID(int=3), WORKER, None, None),
        Due(UUID(int=4), None, now, None),
        Due(UUID(int=5), WORKER, None, now),
    ]

    assert [v.saga_id.int for v in judge_due(sagas, now)] == [3]
    late = list(judge_due(sagas, now, grace=10 * SECOND))
    assert [v.saga_id.int for v in late] == [1, 2, 3]
    assert {v.invariant for v in late} == {16}


# -- in a database


async def verified(store: PostgresStore, *saga_ids: UUID, **given: Any) -> list[Violation]:
    return [violation async for violation in verify(store, saga_ids or None, **given)]


async def test_sagas_of_every_kind_are_in_order(store: PostgresStore) -> None:
    sagas = await all_sorts(store)
    await start_saga(store, key="k-1")
    assert await verified(store) == []
    assert await verified(store, sagas[0].saga_id) == []


async def test_a_key_that_was_turned_is_found(store: PostgresStore, vandal: Vandal) -> None:
    one, other = await start_saga(store, key="k-1"), await start_saga(store, key="k-2")
    await vandal.edit("UPDATE eventsaga.start_keys SET saga_id = $1 WHERE key = 'k-2'", one.saga_id)
    assert [(v.saga_id, v.invariant) for v in await verified(store)] == [(other.saga_id, 5)]


async def test_a_key_of_no_saga_is_found(store: PostgresStore, vandal: Vandal) -> None:
    await start_saga(store, key="k-1")
    await vandal.edit("UPDATE eventsaga.start_keys SET saga_id = $1", OTHER_SAGA)
    found = await verified(store)
    assert {v.invariant for v in found} == {5}
    assert len(found) == 2


async def test_many_keys_are_looked_up_some_at_a_time(
    store: PostgresStore, vandal: Vandal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventsaga.client.verify._KEYS", 2)
    sagas = [await start_saga(store, key=f"k-{number}") for number in range(5)]
    await vandal.edit("DELETE FROM eventsaga.start_keys WHERE key IN ('k-1', 'k-4')")
    found = {violation.saga_id for violation in await verified(store)}
    assert found == {sagas[1].saga_id, sagas[4].saga_id}


async def test_an_owner_that_does_not_exist_is_found(store: PostgresStore, vandal: Vandal) -> None:
    held = await start_saga(store, await new_worker(store))
    await vandal.edit("DELETE FROM eventsaga.workers")
    assert [(v.saga_id, v.invariant) for v in await verified(store)] == [(held.saga_id, 16)]
    assert [v.invariant for v in await verified(store, held.saga_id)] == [16]


async def test_a_late_saga_is_found_if_somebody_should_be_there(
    store: PostgresStore, vandal: Vandal
) -> None:
    held = await start_saga(store)
    await vandal.edit("UPDATE eventsaga.sagas SET wake_at = clock_timestamp() - interval '1 min'")
    assert await verified(store) == []
    found = await verified(store, grace=timedelta(seconds=10))
    assert [(v.saga_id, v.invariant) for v in found] == [(held.saga_id, 16)]
    assert await verified(store, grace=timedelta(hours=1)) == []


async def test_a_changed_writer_is_found(store: PostgresStore, vandal: Vandal) -> None:
    """The chain does not cover who wrote an event."""
    sagas = await all_sorts(store)
    await vandal.edit(
        "UPDATE eventsaga.events SET worker_id = $2 WHERE saga_id = $1 AND seq = 3",
        sagas[2].saga_id,
        OTHER_WORKER,
    )
    assert named(await verified(store)) == [(14, 3)]


async def test_the_order_is_that_of_the_recorded_shape(
    store: PostgresStore, vandal: Vandal
) -> None:
    """A definition that a worker once brought is known without its code."""
    sagas = await all_sorts(store)
    undone = sagas[3]
    definition = undone.definition
    await store.register_definitions(
        {(definition.name, definition.version, definition.fingerprint): definition.shape()}
    )
    assert await verified(store) == []
    connection = await asyncpg.connect(store.url)
    rows = await connection.fetch(
        "SELECT * FROM eventsaga.events WHERE saga_id = $1 ORDER BY seq", undone.saga_id
    )
    await connection.close()
    names = {'"charge"': '"reserve"', '"reserve"': '"charge"'}
    previous, head = GENESIS, b""
    for row in rows:
        data = row["data"]
        if row["type"].startswith("StepCompensat"):
            for old, new in names.items():
                if f'"step":{old}' in data:
                    data = data.replace(f'"step":{old}', f'"step":{new}')
                    break
        previous = head = link(
            previous,
            undone.saga_id,
            row["seq"],
            row["type"],
            row["occurred_at"],
            salted(row["salt"], data.encode()),
        )
        await vandal.edit(
            "UPDATE eventsaga.events SET data = $3, hash = $4 WHERE saga_id = $1 AND seq = $2",
            undone.saga_id,
            row["seq"],
            data,
            head,
        )
    await vandal.edit(
        "UPDATE eventsaga.sagas SET last_hash = $2 WHERE saga_id = $1", undone.saga_id, head
    )
    assert [v.invariant for v in await verified(store)] == [12]


async def test_a_ledger_is_held_against_all_sagas(store: PostgresStore) -> None:
    (held,) = await start_sagas(store, await new_worker(store), 1)
    meant = Effect(held.saga_id, "reserve", EXECUTE, f"{held.saga_id}/reserve")
    unmeant = Effect(held.saga_id, "ship", EXECUTE, f"{held.saga_id}/ship")
    stranger = replace(meant, saga_id=OTHER_SAGA, key="k")

    assert await verified(store, ledger=Ledger([meant])) == []
    found = await verified(store, ledger=Ledger([meant, unmeant, stranger]))
    assert [(v.saga_id, v.invariant) for v in found] == [(held.saga_id, 6), (OTHER_SAGA, 6)]

"""How does a saga begin to exist? Once for each key, however many want it at the same time."""

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections import Counter
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventsaga.errors import KeyConflictError
from eventsaga.settings import Settings
from eventsaga.store.ports import Refused, Start, Started, StartResult
from eventsaga.store.postgres.store import PostgresStore
from tests.proxy import Loss, Proxy
from tests.store.barriers import PATIENCE, transaction, until_alone, until_blocked
from tests.store.builders import (
    ORDERS,
    advance,
    definition_of,
    impatient_store,
    new_start,
    new_worker,
    queue_start,
    start_saga,
)
from tests.store.checker import event_types, saga_row
from tests.store.vandal import Vandal

START: Final = "keyed AS"
ROOT: Final = Path(__file__).parents[3]
_KEYS: Final = "SELECT saga_name, key, saga_id FROM eventsaga.start_keys ORDER BY key"


def created(results: list[StartResult]) -> list[bool]:
    assert all(isinstance(result, Started) for result in results), results
    return [result.created for result in results if isinstance(result, Started)]


async def test_an_owned_saga_starts_with_the_intent_of_its_first_step(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    owner = await new_worker(store)

    held = await start_saga(store, owner, context={"order_id": "Grüße"})

    assert await event_types(sql, held.saga_id) == ["SagaStarted", "StepStarted"]
    row = await saga_row(sql, held.saga_id)
    assert (row["owner"], row["wake_at"], row["claims"]) == (owner, None, 0)
    assert row["current_steps"] == ["reserve"]
    assert row["context"] == {"order_id": "Grüße"}


async def test_an_unowned_saga_is_due_at_once_by_the_clock_of_the_database(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    before = await sql.fetchval("SELECT clock_timestamp()")

    held = await start_saga(store)

    row = await saga_row(sql, held.saga_id)
    assert row["owner"] is None
    assert before <= row["wake_at"] <= await sql.fetchval("SELECT clock_timestamp()")
    assert await event_types(sql, held.saga_id) == ["SagaStarted"]


async def test_the_same_key_is_one_saga(store: PostgresStore, sql: asyncpg.Connection) -> None:
    first = await queue_start(store, new_start(key="k"))
    second = await queue_start(store, new_start(key="k"))

    assert isinstance(first, Started)
    assert isinstance(second, Started)
    assert (first.created, second.created) == (True, False)
    assert second.saga_id == first.saga_id
    assert await sql.fetchval("SELECT count(*) FROM eventsaga.sagas") == 1


async def test_the_same_key_for_another_input_is_a_conflict(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    first = await queue_start(store, new_start(key="k", context={"a": 1}))
    second = await queue_start(store, new_start(key="k", context={"a": 2}))

    assert isinstance(first, Started)
    assert isinstance(second, Refused)
    assert isinstance(second.error, KeyConflictError)
    assert second.error.saga_id == first.saga_id
    assert await sql.fetchval("SELECT count(*) FROM eventsaga.sagas") == 1


async def test_a_key_belongs_to_its_saga_name(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    results = [
        await queue_start(store, new_start(key="k", definition=definition_of("s", name=name)))
        for name in ("order", "refund")
    ]

    assert created(results) == [True, True]


async def test_the_same_key_twice_in_one_batch_is_one_saga(
    database: str, sql: asyncpg.Connection
) -> None:
    async with PostgresStore(database, Settings(append_writers=1)) as store:
        starts = [new_start(key=key) for key in ("b", "a", "b", "a", "b")]
        starts.append(new_start(key="a", context={"other": "input"}))
        results = await asyncio.gather(*(queue_start(store, start) for start in starts))

    outcomes = Counter(type(result) for result in results)
    # Which of the two inputs for "a" came first is nobody's promise.
    assert outcomes in ({Started: 5, Refused: 1}, {Started: 4, Refused: 2})
    assert [row["key"] for row in await sql.fetch(_KEYS)] == ["a", "b"]
    assert await sql.fetchval("SELECT count(*) FROM eventsaga.sagas") == 2


async def test_starts_without_a_key_are_sagas_of_their_own(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    results = await asyncio.gather(*(queue_start(store, new_start()) for _ in range(50)))

    assert created(list(results)) == [True] * 50
    assert len({result.saga_id for result in results if isinstance(result, Started)}) == 50
    assert await sql.fetch(_KEYS) == []


# -- at once ------------------------------------------------------------------------------


async def test_many_connections_that_start_one_key_at_once_start_one_saga(
    database: str, sql: asyncpg.Connection
) -> None:
    """All of them stand before the key when it becomes free again."""
    stores = [PostgresStore(database, Settings(append_writers=1)) for _ in range(8)]
    gate = await asyncpg.connect(database)
    async with gate.transaction():
        await gate.execute(
            "INSERT INTO eventsaga.start_keys VALUES ('order', 'k', gen_random_uuid(), '')"
        )
        outcomes: list[asyncio.Future[StartResult]] = []
        for store in stores:
            await store.__aenter__()
            outcomes.append(queue_start(store, new_start(key="k")))
        await until_blocked(sql, START, len(stores))
        await gate.execute("ROLLBACK; BEGIN")
    results = await asyncio.gather(*outcomes)
    for store in stores:
        await store.__aexit__()
    await gate.close()

    assert sorted(created(list(results))) == [False] * 7 + [True]
    assert len({result.saga_id for result in results if isinstance(result, Started)}) == 1
    assert await sql.fetchval("SELECT count(*) FROM eventsaga.sagas") == 1


_PROCESS: Final = """
import asyncio, sys
from eventsaga.settings import Settings
from eventsaga.store.postgres.store import PostgresStore
from tests.store.builders import new_start, queue_start

async def main(url):
    async with PostgresStore(url, Settings()) as store:
        print("ready", flush=True)
        sys.stdin.readline()
        starts = [queue_start(store, new_start(key=f"k{n % 20}")) for n in range(100)]
        for result in await asyncio.gather(*starts):
            print(result.created, result.saga_id)

asyncio.run(main(sys.argv[1]))
"""


async def test_many_processes_that_start_the_same_keys_start_each_once(
    database: str, sql: asyncpg.Connection
) -> None:
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", _PROCESS, database, stdin=PIPE, stdout=PIPE, cwd=ROOT
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"

    outputs = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))

    lines = [line.split() for output, _ in outputs for line in output.decode().splitlines()]
    assert len(lines) == 400
    assert sum(was_created == "True" for was_created, _ in lines) == 20
    assert len({saga_id for _, saga_id in lines}) == 20
    assert await sql.fetchval("SELECT count(*) FROM eventsaga.sagas") == 20


async def test_crossing_keys_in_two_batches_do_not_deadlock(
    database: str, sql: asyncpg.Connection
) -> None:
    """Both batches take their keys in the same order, whatever the order of the starts."""
    keys = [f"k{number:02}" for number in range(20)]
    async with (
        PostgresStore(database, Settings(append_writers=1)) as one,
        PostgresStore(database, Settings(append_writers=1)) as two,
    ):
        for _ in range(10):
            forth = [queue_start(one, new_start(key=key)) for key in keys]
            back = [queue_start(two, new_start(key=key)) for key in reversed(keys)]
            results = await asyncio.gather(*forth, *back)
            assert sum(created(list(results))) == 20
            await sql.execute("DELETE FROM eventsaga.start_keys")

    # Backends tell their numbers when they end.
    await until_alone(sql)
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    assert await sql.fetchval(deadlocks) == 0


async def test_a_key_in_an_open_transaction_delays_nobody_else(
    database: str, sql: asyncpg.Connection
) -> None:
    """However long somebody's transaction is open: its key waits, all other starts go on."""
    stranger = await asyncpg.connect(database)
    async with PostgresStore(database, Settings(append_writers=1)) as store:
        async with stranger.transaction():
            taken = await store.start_within(stranger, new_start(key="k3"))
            starts = {key: new_start(key=key) for key in ("k1", "k2", "k3", "k4", "k5")}
            outcomes = {key: queue_start(store, start) for key, start in starts.items()}
            waiting = outcomes.pop("k3")

            assert created(list(await asyncio.gather(*outcomes.values()))) == [True] * 4
            assert created([await queue_start(store, new_start())]) == [True]
            await until_blocked(sql, START)
            assert not waiting.done()

        result = await waiting
    await stranger.close()

    assert isinstance(taken, Started)
    assert result == Started(taken.saga_id, created=False)


async def test_a_key_that_was_rolled_back_is_free(
    database: str, store: PostgresStore, sql: asyncpg.Connection
) -> None:
    stranger = await asyncpg.connect(database)
    transaction = stranger.transaction()
    await transaction.start()
    await store.start_within(stranger, new_start(key="k", context={"other": "input"}))
    waiting = queue_start(store, new_start(key="k"))
    await until_blocked(sql, START)
    await transaction.rollback()
    await stranger.close()

    assert created([await waiting]) == [True]


@pytest.mark.parametrize(
    "spoil",
    ["fingerprint", "correlation_id"],
)
async def test_a_start_that_cannot_be_stored_fails_alone(
    database: str, sql: asyncpg.Connection, spoil: str
) -> None:
    """NUL passes no check but the server's."""
    async with PostgresStore(database, Settings(append_writers=1)) as store:
        starts: list[Start] = [new_start(key=f"k{number}") for number in range(5)]
        setattr(starts[3].state, spoil, "a\x00b")
        results = await asyncio.gather(*(queue_start(store, start) for start in starts))

    assert [type(result) for result in results] == [Started] * 3 + [Refused] + [Started]
    assert [row["key"] for row in await sql.fetch(_KEYS)] == ["k0", "k1", "k2", "k4"]


async def test_what_was_started_can_be_claimed(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    held = await start_saga(store)
    worker = await new_worker(store)

    (claimed,) = await store.claim(worker, ORDERS, 10)

    assert claimed.saga_id == held.saga_id
    assert [stored.type for stored in claimed.history] == ["SagaStarted"]
    assert claimed.history[-1].hash == held.last_hash


# -- children, whose id follows from their parent ------------------------------------------------

PARENT: Final = UUID("01a20000-0000-7000-8000-000000000001")


def new_child(**options: Any) -> Start:
    return new_start(parent=(PARENT, "ship"), **options)


async def settled_soon(*outcomes: asyncio.Future[StartResult]) -> list[StartResult]:
    """Return the outcomes; a start that goes round in circles fails the test."""
    return await asyncio.wait_for(asyncio.gather(*outcomes), PATIENCE)


async def test_a_child_knows_its_parent_and_the_parent_its_children(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    child = new_child()
    await queue_start(store, child)
    await start_saga(store)

    row = await store.get(child.state.saga_id)
    assert row is not None
    assert (row.parent_id, row.parent_step) == (PARENT, "ship")
    assert await store.children(PARENT) == [row]
    assert await store.children(child.state.saga_id) == []


@pytest.mark.parametrize("context", [None, {"other": "content"}], ids=["same", "other content"])
@pytest.mark.parametrize("owned", [False, True], ids=["for anybody", "for its starter"])
async def test_a_child_that_exists_is_not_started_again(
    store: PostgresStore, sql: asyncpg.Connection, *, context: dict[str, Any] | None, owned: bool
) -> None:
    """Whoever was first has decided what it is and who runs it."""
    first, second = await new_worker(store), await new_worker(store)
    one, two = new_child(owned=owned), new_child(context=context, owned=owned)
    (result,) = await settled_soon(queue_start(store, one, first if owned else None))
    assert created([result]) == [True]
    before = await saga_row(sql, one.state.saga_id)

    (result,) = await settled_soon(queue_start(store, two, second if owned else None))

    assert result == Started(one.state.saga_id, created=False)
    assert await saga_row(sql, one.state.saga_id) == before
    assert await event_types(sql, one.state.saga_id) == [
        "SagaStarted",
        *(["StepStarted"] if owned else []),
    ]


async def test_a_child_that_has_moved_on_is_not_started_again(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    owner = await new_worker(store)
    held = await start_saga(store, owner, parent=(PARENT, "ship"))
    while not held.state.status.is_settled:
        await advance(store, held, owner)

    assert await settled_soon(queue_start(store, new_child(), None)) == [
        Started(held.saga_id, created=False)
    ]


async def test_of_two_that_start_a_child_at_once_the_second_waits_and_finds_it(
    database: str, store: PostgresStore, sql: asyncpg.Connection
) -> None:
    """The row of the first is not committed when the second one inserts its own."""
    first, second = new_child(), new_child(context={"other": "content"})
    async with transaction(database) as stranger:
        assert created([await store.start_within(stranger, first)]) == [True]
        outcome = queue_start(store, second)
        await until_blocked(sql, START)

    assert await settled_soon(outcome) == [Started(first.state.saga_id, created=False)]


async def test_a_child_whose_first_starter_gives_up_is_started_by_the_second(
    database: str, store: PostgresStore, sql: asyncpg.Connection
) -> None:
    stranger = await asyncpg.connect(database)
    undone = stranger.transaction()
    await undone.start()
    await store.start_within(stranger, new_child())
    outcome = queue_start(store, new_child())
    await until_blocked(sql, START)
    await undone.rollback()
    await stranger.close()

    assert created(await settled_soon(outcome)) == [True]


async def test_the_same_child_twice_in_one_batch_is_one_saga(
    database: str, sql: asyncpg.Connection
) -> None:
    async with PostgresStore(database, Settings(append_writers=1)) as store:
        starts = [new_child(context={"n": n}) for n in range(5)]
        starts += [new_start() for _ in range(3)]
        results = await settled_soon(*(queue_start(store, start) for start in starts))

    assert Counter(created(results[:5])) == {True: 1, False: 4}
    assert created(results[5:]) == [True] * 3
    assert await sql.fetchval("SELECT count(*) FROM eventsaga.sagas") == 4


async def test_many_that_start_the_same_children_make_each_once(
    database: str, store: PostgresStore, sql: asyncpg.Connection
) -> None:
    parents = [uuid4() for _ in range(20)]
    async with PostgresStore(database, Settings()) as other:
        results = await settled_soon(
            *(
                queue_start(each, new_start(parent=(parent, "ship"), context={"n": n}))
                for n in range(3)
                for each in (store, other)
                for parent in parents
            )
        )

    assert Counter(created(results)) == {True: 20, False: 100}


@pytest.mark.parametrize("within", [False, True], ids=["queued", "within a transaction"])
async def test_a_child_whose_row_has_lost_its_events_is_not_started_for_ever(
    database: str, store: PostgresStore, vandal: Vandal, *, within: bool
) -> None:
    """The row takes the id, and no event says what it stands for: `verify` finds that."""
    child = new_child()
    await queue_start(store, child)
    await vandal.edit("DELETE FROM eventsaga.events")

    if within:
        async with transaction(database) as caller:
            result = await store.start_within(caller, new_child())
    else:
        (result,) = await settled_soon(queue_start(store, new_child()))

    assert result == Started(child.state.saga_id, created=False)


async def test_a_child_whose_starter_lost_the_answer_was_created_by_it(
    database: str, sql: asyncpg.Connection
) -> None:
    """Its own events tell it from another's, which has the same id."""
    async with Proxy(database) as proxy, impatient_store(proxy.url) as store:
        proxy.arm(Loss.ANSWER, START)
        assert created(await settled_soon(queue_start(store, new_child()))) == [True]
        proxy.arm(Loss.ANSWER, START)
        assert created(await settled_soon(queue_start(store, new_child()))) == [False]

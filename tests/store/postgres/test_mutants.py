"""Would the other tests notice? Each mutant lacks one guarantee, and one of their checks sees it.

A mutant that nobody notices means that the check is worth nothing, so these tests fail then.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import asyncpg
import pytest

from eventsaga.settings import Settings
from eventsaga.store.ports import Committed, Fenced
from eventsaga.store.postgres import append as appending
from eventsaga.store.postgres import claim as claiming
from eventsaga.store.postgres import start as starting
from eventsaga.store.postgres import writer
from eventsaga.store.postgres.append import EncodedAppend
from eventsaga.store.postgres.connect import Connection
from eventsaga.store.postgres.store import PostgresStore
from eventsaga.wire.chain import link
from tests.proxy import Loss, Proxy
from tests.store.barriers import locked, until_blocked
from tests.store.builders import (
    ORDERS,
    advance,
    impatient_store,
    new_append,
    new_start,
    new_worker,
    queue_append,
    queue_start,
    start_saga,
    start_sagas,
    take_over,
)
from tests.store.checker import event_types, flaws

Mutate = Callable[[object, str, str, str], None]


@pytest.fixture
async def vandal(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection after which nobody looks whether the database is in order."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


@pytest.fixture
def mutate(monkeypatch: pytest.MonkeyPatch) -> Mutate:
    """Replace a part of a statement."""

    def replace(module: object, name: str, old: str, new: str) -> None:
        statement: str = getattr(module, name)
        assert old in statement
        monkeypatch.setattr(module, name, statement.replace(old, new))

    return replace


async def test_an_append_without_the_owner_in_its_guard_lets_a_zombie_write(
    database: str, vandal: asyncpg.Connection, mutate: Mutate
) -> None:
    mutate(appending, "APPEND", " AND s.owner = $13::uuid", " AND $13::uuid IS NOT NULL")
    async with PostgresStore(database, Settings()) as store:
        zombie = await new_worker(store)
        held = await start_saga(store, zombie)
        await take_over(store, vandal, zombie, recovered=False)

        assert isinstance(await advance(store, held, zombie), Committed)


async def test_an_append_without_the_number_in_its_guard_meets_the_primary_key(
    database: str, vandal: asyncpg.Connection, mutate: Mutate
) -> None:
    """The second wall; with both gone the history forks, and the checker sees it."""
    mutate(appending, "APPEND", "s.last_seq = m.expected AND ", "")
    async with PostgresStore(database, Settings()) as store:
        owner = await new_worker(store)
        held = await start_saga(store, owner)
        twice = [new_append(held), new_append(held)]
        first, second = [await queue_append(store, each, owner) for each in twice]
        assert isinstance(first, Committed)
        assert not isinstance(second, Committed)
        assert await flaws(vandal) == []

        await vandal.execute("ALTER TABLE eventsaga.events DROP CONSTRAINT events_pkey")
        assert isinstance(await queue_append(store, new_append(held), owner), Committed)

    assert f"{held.saga_id}: events [1, 2, 3, 3, 4, 4], but last_seq 4" in await flaws(vandal)


async def test_events_that_do_not_depend_on_the_guard_are_seen_by_the_checker(
    database: str, vandal: asyncpg.Connection, mutate: Mutate
) -> None:
    mutate(appending, "APPEND", "      JOIN advanced USING", " LEFT JOIN advanced USING")
    async with PostgresStore(database, Settings()) as store:
        zombie = await new_worker(store)
        held = await start_saga(store, zombie)
        await take_over(store, vandal, zombie, recovered=False)

        await advance(store, held, zombie)

    assert f"{held.saga_id}: events [1, 2, 3, 4], but last_seq 2" in await flaws(vandal)


@pytest.mark.parametrize(
    "column",
    ["status = m.status,", "current_steps = string_to_array(m.current_steps, ','),"],
)
async def test_a_row_that_is_not_the_fold_of_its_events_is_seen_by_the_checker(
    database: str, vandal: asyncpg.Connection, mutate: Mutate, column: str
) -> None:
    mutate(appending, "APPEND", column, "")
    async with PostgresStore(database, Settings()) as store:
        owner = await new_worker(store)
        held = await start_saga(store, owner)
        while not held.state.status.is_settled:
            await advance(store, held, owner)

    (flaw,) = await flaws(vandal)
    assert column.split(maxsplit=1)[0] in flaw


async def test_a_chain_that_leaves_something_out_is_seen_by_the_checker(
    database: str, vandal: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgetful(previous: bytes, *others: Any) -> bytes:
        return link(bytes(len(previous)), *others)

    monkeypatch.setattr("eventsaga.store.postgres.rows.link", forgetful)
    async with PostgresStore(database, Settings()) as store:
        await start_saga(store, await new_worker(store))

    assert [flaw.split(": ")[1] for flaw in await flaws(vandal)] == ["the chain breaks at 2"]


async def test_a_writer_that_takes_silence_for_a_fence_loses_sagas(
    database: str, vandal: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own first statement was the one that had moved the saga on."""

    class Hasty(writer.AppendSender):
        async def send(
            self, connection: Connection, batch: Sequence[EncodedAppend], lock_timeout: str
        ) -> list[EncodedAppend]:
            for item in await super().send(connection, batch, lock_timeout):
                item.append.done(Fenced())
            return []

    monkeypatch.setattr(writer, "AppendSender", Hasty)
    async with Proxy(database) as proxy, impatient_store(proxy.url) as store:
        proxy.loses_cancels = True
        owner = await new_worker(store)
        held = await start_saga(store, owner)
        async with locked(database, held.saga_id):
            outcome = queue_append(store, new_append(held), owner)
            await until_blocked(vandal, "SET last_seq", 2)

        assert isinstance(await outcome, Fenced)
    assert len(await event_types(vandal, held.saga_id)) == 4


async def test_a_writer_that_sends_again_without_asking_denies_what_it_did(
    database: str, vandal: asyncpg.Connection, mutate: Mutate
) -> None:
    """A reading back that looks for another hash than the one that was sent."""
    mutate(appending, "READ_BACK", "AND e.hash = g.hash", "AND e.hash <> g.hash")
    async with Proxy(database) as proxy, impatient_store(proxy.url) as store:
        owner = await new_worker(store)
        held = await start_saga(store, owner)
        proxy.arm(Loss.ANSWER, "SET last_seq")

        assert isinstance(await advance(store, held, owner), Fenced)
    assert len(await event_types(vandal, held.saga_id)) == 4


async def test_a_start_that_does_not_mind_its_key_makes_two_sagas(
    database: str, vandal: asyncpg.Connection, mutate: Mutate
) -> None:
    mutate(starting, "START", "WHERE g.key IS NULL OR EXISTS", "WHERE true OR EXISTS")
    async with PostgresStore(database, Settings()) as store:
        for _ in range(2):
            await queue_start(store, new_start(key="k"))

    assert await vandal.fetchval("SELECT count(*) FROM eventsaga.sagas") == 2


async def test_a_claim_that_waits_for_locks_is_held_up_by_strangers(
    database: str, vandal: asyncpg.Connection
) -> None:
    mutant = claiming.CLAIM.replace(" SKIP LOCKED", "")
    async with PostgresStore(database, Settings()) as store, store.connection() as connection:
        held, _ = await start_sagas(store, None, 2)
        worker = await new_worker(store)
        async with locked(database, held.saga_id):
            claim = asyncio.create_task(
                claiming.claim(connection, mutant, claiming.LOCK_NAMES, worker, ORDERS, 10, {}, {})
            )
            await until_blocked(vandal, "names AS MATERIALIZED")
            assert not claim.done()
        assert len(await claim) == 2

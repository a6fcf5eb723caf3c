"""Who takes a saga that nobody runs? One worker that has its definition, when it is due."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventsaga.core.events import SagaStarted
from eventsaga.core.graph import SagaDefinition
from eventsaga.errors import CorruptHistoryError, UnknownEventError
from eventsaga.settings import Settings
from eventsaga.store.ports import Claimed, Committed, GivenUp
from eventsaga.store.postgres.claim import CLAIM, LOCK_NAMES, claim
from eventsaga.store.postgres.store import PostgresStore
from tests.store.barriers import locked, transaction, until_blocked
from tests.store.builders import (
    ORDER,
    ORDERS,
    advance,
    definition_of,
    dismissal,
    end_lease,
    hold,
    key_of,
    new_message,
    new_worker,
    park,
    start_saga,
    start_sagas,
)
from tests.store.checker import saga_row
from tests.store.vandal import run_to_the_end

_DUE: Final = "UPDATE eventsaga.sagas SET wake_at = clock_timestamp() + $2 WHERE saga_id = $1"


def ids(claimed: Sequence[Claimed]) -> set[UUID]:
    return {saga.saga_id for saga in claimed}


async def due_in(sql: asyncpg.Connection, saga_id: UUID, seconds: float) -> None:
    await sql.execute(_DUE, saga_id, timedelta(seconds=seconds))


async def test_a_claimed_saga_comes_with_its_history_and_belongs_to_the_worker(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    held = await start_saga(store)
    worker = await new_worker(store)

    (claimed,) = await store.claim(worker, ORDERS, 10)

    assert (claimed.saga_id, claimed.claims, claimed.previous_owner) == (held.saga_id, 1, None)
    row = await saga_row(sql, held.saga_id)
    assert (row["owner"], row["wake_at"], row["claims"]) == (worker, None, 1)
    assert isinstance(await advance(store, hold(claimed), worker), Committed)


async def test_a_claimed_saga_is_not_claimed_again(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    await start_sagas(store, None, 3)
    one, two = await new_worker(store), await new_worker(store)

    assert len(await store.claim(one, ORDERS, 10)) == 3
    assert await store.claim(two, ORDERS, 10) == []
    assert await store.claim(one, ORDERS, 10) == []


async def test_two_workers_that_claim_at_once_take_different_sagas(
    database: str, store: PostgresStore, sql: asyncpg.Connection
) -> None:
    """The first one's locks are still held when the second one looks; it does not wait."""
    await start_sagas(store, None, 10)
    one, two = await new_worker(store), await new_worker(store)
    async with transaction(database) as first:
        taken = {
            row["saga_id"] for row in await claim(first, CLAIM, LOCK_NAMES, one, ORDERS, 4, {}, {})
        }
        others = ids(await store.claim(two, ORDERS, 100))

    assert (len(taken), len(others)) == (4, 6)
    assert not taken & others


async def test_many_workers_that_claim_at_once_share_all_sagas(
    database: str, store: PostgresStore, sql: asyncpg.Connection
) -> None:
    sagas = await start_sagas(store, None, 60)
    async with PostgresStore(database, Settings(pool_size=6)) as wide:
        workers = [await new_worker(wide) for _ in range(6)]
        shares: list[set[UUID]] = []
        while sum(map(len, shares)) < len(sagas):
            claims = (wide.claim(worker, ORDERS, 5) for worker in workers)
            shares += [ids(share) for share in await asyncio.gather(*claims)]

    assert sum(map(len, shares)) == len(sagas)
    assert set[UUID]().union(*shares) == {held.saga_id for held in sagas}


async def test_a_row_that_somebody_locks_is_passed_over(
    database: str, store: PostgresStore, sql: asyncpg.Connection
) -> None:
    held, other = await start_sagas(store, None, 2)
    worker = await new_worker(store)

    async with locked(database, held.saga_id):
        assert ids(await store.claim(worker, ORDERS, 10)) == {other.saga_id}

    assert ids(await store.claim(worker, ORDERS, 10)) == {held.saga_id}


@pytest.mark.parametrize(
    "definition",
    [
        definition_of("reserve", "charge", "ship", name="refund"),
        definition_of("reserve", "charge", "ship", version=2),
        definition_of("reserve", "charge"),
    ],
    ids=["name", "version", "shape"],
)
async def test_a_worker_leaves_sagas_of_other_definitions_alone(
    store: PostgresStore, sql: asyncpg.Connection, definition: Any
) -> None:
    """Due, written to or orphaned: what it cannot run is not its business."""
    theirs = [await start_saga(store, definition=definition) for _ in range(2)]
    await store.post(new_message(theirs[1].saga_id))
    dead = await new_worker(store, (key_of(definition),), timedelta(0))
    await start_saga(store, dead, definition=definition)
    mine = await start_saga(store)
    worker = await new_worker(store)

    assert ids(await store.claim(worker, ORDERS, 10)) == {mine.saga_id}
    assert len(await store.claim(worker, (key_of(definition),), 10)) == 3


async def test_a_worker_without_definitions_claims_nothing(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    await start_saga(store)

    assert await store.claim(await new_worker(store, ()), (), 10) == []


@pytest.mark.parametrize("registered", [False, True], ids=["stranger", "late worker"])
async def test_who_has_no_lease_is_given_nothing(
    store: PostgresStore, sql: asyncpg.Connection, *, registered: bool
) -> None:
    """Least of all what was its own: others would take it away again at once."""
    worker = await new_worker(store) if registered else uuid4()
    await start_saga(store)
    if registered:
        await start_saga(store, worker)
        await end_lease(sql, worker)

    assert await store.claim(worker, ORDERS, 10) == []


# -- when it is due -----------------------------------------------------------------------


async def test_what_is_due_for_the_longest_time_is_taken_first(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    sagas = await start_sagas(store, None, 6)
    order = [3, 0, 5, 1, 4, 2]
    for number, held in zip(order, sagas, strict=True):
        await due_in(sql, held.saga_id, number - 60)
    worker = await new_worker(store)

    taken = [ids(await store.claim(worker, ORDERS, 2)) for _ in range(3)]

    by_age = [sagas[order.index(number)].saga_id for number in range(6)]
    assert taken == [set(by_age[:2]), set(by_age[2:4]), set(by_age[4:])]


async def test_what_is_not_due_yet_sleeps_on(store: PostgresStore, sql: asyncpg.Connection) -> None:
    """By the clock of the database, whatever that of the worker says."""
    held = await start_saga(store)
    worker = await new_worker(store)
    await due_in(sql, held.saga_id, 3600)

    assert await store.claim(worker, ORDERS, 10) == []

    await due_in(sql, held.saga_id, 0)
    assert ids(await store.claim(worker, ORDERS, 10)) == {held.saga_id}


async def test_a_sleeping_saga_that_somebody_wrote_to_is_woken(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    held, asleep = await start_sagas(store, None, 2)
    worker = await new_worker(store)
    for saga in (held, asleep):
        await due_in(sql, saga.saga_id, 3600)

    await store.post(new_message(held.saga_id))

    assert ids(await store.claim(worker, ORDERS, 10)) == {held.saga_id}


async def test_a_saga_that_is_due_and_written_to_is_taken_once(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    held = await start_saga(store)
    for _ in range(3):
        await store.post(new_message(held.saga_id))

    (claimed,) = await store.claim(await new_worker(store), ORDERS, 10)

    assert claimed.claims == 1


async def test_a_settled_saga_is_claimed_only_to_be_asked_something(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    """Whoever takes it answers, and makes it due never again."""
    owner = await new_worker(store)
    held = await run_to_the_end(store, owner)
    assert await store.claim(owner, ORDERS, 10) == []

    message = new_message(held.saga_id)
    await store.post(message)
    (claimed,) = await store.claim(owner, ORDERS, 10)
    assert (claimed.saga_id, len(claimed.history)) == (held.saga_id, held.state.seq)
    await store.dismiss_mail(owner, [dismissal(held, message.message_id, "it has ended")])
    await store.give_up(owner, [GivenUp(held.saga_id, None)])

    assert await store.claim(owner, ORDERS, 10) == []
    row = await saga_row(sql, held.saga_id)
    assert (row["owner"], row["wake_at"], row["claims"]) == (None, None, 0)


async def test_a_parked_saga_that_somebody_wrote_to_is_woken(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    """That is how a person reaches it."""
    owner = await new_worker(store)
    held = await start_saga(store, owner)
    assert isinstance(await advance(store, held, owner, park()), Committed)
    row = await saga_row(sql, held.saga_id)
    assert (row["status"], row["owner"], row["wake_at"]) == ("PARKED", None, None)
    assert await store.claim(owner, ORDERS, 10) == []

    await store.post(new_message(held.saga_id))

    assert ids(await store.claim(owner, ORDERS, 10)) == {held.saga_id}


async def test_no_more_sagas_are_taken_than_asked_for(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    """From all three kinds together."""
    dead = await new_worker(store, lease=timedelta(0))
    await start_sagas(store, dead, 5)
    await start_sagas(store, None, 5)
    for held in await start_sagas(store, None, 5):
        await due_in(sql, held.saga_id, 3600)
        await store.post(new_message(held.saga_id))
    worker = await new_worker(store)

    counts = [len(await store.claim(worker, ORDERS, 4)) for _ in range(5)]

    assert counts == [4, 4, 4, 3, 0]


# -- whose turn it is -----------------------------------------------------------------------

REFUND: Final = definition_of("pay_back", name="refund")
NOTICE: Final = definition_of("send", name="notice")
KINDS: Final = {"order": ORDER, "refund": REFUND, "notice": NOTICE}
ALL: Final = tuple(key_of(definition) for definition in KINDS.values())


async def start_many(
    store: PostgresStore, count: int, definition: SagaDefinition = ORDER, owner: UUID | None = None
) -> set[UUID]:
    started = (start_saga(store, owner, definition=definition) for _ in range(count))
    return {held.saga_id for held in await asyncio.gather(*started)}


def names(claimed: Sequence[Claimed]) -> Counter[str]:
    first = [saga.history[0].event for saga in claimed]
    return Counter(event.saga_name for event in first if isinstance(event, SagaStarted))


async def test_a_flood_of_one_name_starves_no_other(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    """All 500 have been due for longer."""
    await start_many(store, 500)
    refunds = await start_many(store, 3, REFUND)
    await start_many(store, 50, NOTICE)
    worker = await new_worker(store, ALL)

    first = await store.claim(worker, ALL, 12)

    # One of each in turn, until there are no refunds left.
    assert names(first) == {"order": 5, "refund": 3, "notice": 4} or names(first) == {
        "order": 4,
        "refund": 3,
        "notice": 5,
    }
    assert refunds < ids(first)
    counted = names(first)
    for _ in range(4):
        counted += names(await store.claim(worker, ALL, 20))
    assert counted["refund"] == 3
    assert abs(counted["order"] - counted["notice"]) <= 1


async def test_nothing_is_left_over_when_there_is_room(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    """A share that a name does not need goes to the others."""
    await start_many(store, 30)
    await start_many(store, 2, REFUND)

    claimed = await store.claim(await new_worker(store, ALL), ALL, 20)

    assert names(claimed) == {"order": 18, "refund": 2}


async def test_within_a_name_the_oldest_is_taken_first(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    old, young = await start_many(store, 2), await start_many(store, 2)
    for saga_id in old:
        await due_in(sql, saga_id, -60)
    await start_many(store, 5, REFUND)

    claimed = await store.claim(await new_worker(store, ALL), ALL, 4)

    assert names(claimed) == {"order": 2, "refund": 2}
    assert old < ids(claimed)
    assert not young & ids(claimed)


async def test_what_has_priority_is_taken_first(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    """Although it came last; a name that is left out has priority 0."""
    await start_many(store, 20)
    await start_many(store, 5, NOTICE)
    await start_many(store, 5, REFUND)
    worker = await new_worker(store, ALL)
    priorities = {"refund": 7, "order": -1}

    shares = [names(await store.claim(worker, ALL, 4, priorities=priorities)) for _ in range(4)]

    assert shares == [
        {"refund": 4},
        {"refund": 1, "notice": 3},
        {"notice": 2, "order": 2},
        {"order": 4},
    ]


async def test_versions_of_a_name_share_its_turn_and_its_bound(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    second = definition_of("reserve", version=2)
    both = (*ALL, key_of(second))
    await start_many(store, 6)
    await start_many(store, 6, second)
    await start_many(store, 6, REFUND)
    worker = await new_worker(store, both)

    assert names(await store.claim(worker, both, 6)) == {"order": 3, "refund": 3}
    claimed = await store.claim(worker, both, 20, max_running={"order": 5})
    assert names(claimed) == {"order": 2, "refund": 3}


# -- no more than a number at the same time ---------------------------------------------------

MOST: Final = {"order": 3}
LOCKING: Final = "INSERT INTO eventsaga.limits"


async def test_no_more_of_a_name_are_taken_than_may_run_at_the_same_time(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    """Over all workers; what is given up or ends makes room."""
    await start_many(store, 10)
    await start_many(store, 4, REFUND)
    one, two = await new_worker(store, ALL), await new_worker(store, ALL)

    first = await store.claim(one, ALL, 2, max_running=MOST)
    first += await store.claim(one, ALL, 10, max_running=MOST)
    assert names(first) == {"order": 3, "refund": 4}
    assert await store.claim(two, ALL, 10, max_running=MOST) == []
    assert await store.claim(two, ALL, 10, max_running={"order": 1}) == []

    given_up, *_ = (saga for saga in first if names([saga]) == {"order": 1})
    await store.give_up(one, [GivenUp(given_up.saga_id, await store.now() + timedelta(hours=1))])
    assert names(await store.claim(two, ALL, 10, max_running=MOST)) == {"order": 1}
    assert names(await store.claim(two, ALL, 10, max_running={"refund": 4})) == {"order": 6}


async def test_none_may_run(store: PostgresStore, sql: asyncpg.Connection) -> None:
    await start_many(store, 2)
    worker = await new_worker(store)
    assert await store.claim(worker, ORDERS, 10, max_running={"order": 0}) == []


@pytest.mark.parametrize("locks", [True, False], ids=["as it is", "mutant"])
async def test_two_claims_at_once_do_not_take_more_than_may_run(
    database: str, store: PostgresStore, sql: asyncpg.Connection, *, locks: bool
) -> None:
    """The first one has counted and taken, but not committed, when the second one begins.

    The mutant does not wait for it, finds the room that it saw, and takes too many.
    """
    await start_many(store, 10)
    one, two = await new_worker(store), await new_worker(store)
    lock_names = LOCK_NAMES if locks else "SELECT count(*) FROM unnest($1::text[])"
    second = await asyncpg.connect(database)
    async with transaction(database) as first:
        taken = await claim(first, CLAIM, lock_names, one, ORDERS, 2, {}, MOST)
        assert len(taken) == 2
        other = asyncio.create_task(claim(second, CLAIM, lock_names, two, ORDERS, 9, {}, MOST))
        if locks:
            await until_blocked(sql, LOCKING)
            assert not other.done()
        else:
            await other
    await other
    await second.close()

    running = await sql.fetchval("SELECT count(*) FROM eventsaga.sagas WHERE owner IS NOT NULL")
    assert running == (3 if locks else 5)


async def test_many_claims_at_once_do_not_take_more_than_may_run(
    database: str, store: PostgresStore, sql: asyncpg.Connection
) -> None:
    await start_many(store, 40)
    async with PostgresStore(database, Settings(pool_size=6)) as wide:
        workers = [await new_worker(wide) for _ in range(6)]
        for most in (5, 11):
            claims = (
                wide.claim(worker, ORDERS, 4, max_running={"order": most}) for worker in workers * 2
            )
            await asyncio.gather(*claims)
            running = "SELECT count(*) FROM eventsaga.sagas WHERE owner IS NOT NULL"
            assert await sql.fetchval(running) == most


async def test_what_lost_its_worker_is_taken_beyond_the_bound_and_mail_before_what_is_due(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    """What was begun goes on; sagas of the dead do not count; somebody waits for an answer."""
    dead = await new_worker(store)
    orphans = await start_many(store, 2, ORDER, dead)
    due = await start_many(store, 2)
    (asked,) = await start_many(store, 1)
    await due_in(sql, asked, 3600)
    await store.post(new_message(asked))
    worker = await new_worker(store)
    await start_many(store, 3, ORDER, worker)
    await end_lease(sql, dead)

    assert ids(await store.claim(worker, ORDERS, 10, max_running=MOST)) == orphans
    assert not await store.claim(worker, ORDERS, 10, max_running=MOST)
    room_for_one = {"order": 6}
    assert ids(await store.claim(worker, ORDERS, 10, max_running=room_for_one)) == {asked}

    await end_lease(sql, worker)
    successor = await new_worker(store)
    assert due < ids(await store.claim(successor, ORDERS, 20, max_running=MOST))


async def test_mail_that_waits_for_room_hides_no_other_mail(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    """Neither that of another name nor that of a parked saga of the same one."""
    worker = await new_worker(store)
    await start_many(store, 3, ORDER, worker)
    parked = await start_saga(store, worker)
    await advance(store, parked, worker, park())
    waiting = await start_many(store, 5)
    (other,) = await start_many(store, 1, REFUND)
    for saga_id in (*waiting, parked.saga_id, other):
        await due_in(sql, saga_id, 3600)
        await store.post(new_message(saga_id))

    claimed = await store.claim(worker, (*ORDERS, key_of(REFUND)), 3, max_running=MOST)

    assert ids(claimed) == {parked.saga_id, other}


# -- which shapes there are -----------------------------------------------------------------


async def test_unfinished_sagas_of_another_shape_are_told(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    """Parked ones too; those that have ended bother nobody, nor do other versions and names."""
    other = definition_of("reserve", "charge")
    owner = await new_worker(store)
    await start_many(store, 2, other)
    parked = await start_saga(store, owner, definition=other)
    await advance(store, parked, owner, park())
    ended = await start_saga(store, owner, definition=other)
    while not ended.state.status.is_settled:
        await advance(store, ended, owner)
    await start_many(store, 1, definition_of("reserve", version=2))
    await start_many(store, 1, REFUND)
    await start_many(store, 1)

    assert await store.conflicting(ORDERS) == [(key_of(other), 3)]
    assert await store.conflicting((*ORDERS, key_of(REFUND))) == [(key_of(other), 3)]
    assert await store.conflicting((key_of(other),)) == [(ORDERS[0], 1)]
    assert await store.conflicting((*ORDERS, key_of(other))) == []
    assert await store.conflicting(()) == []


async def test_the_shape_of_one_name_says_nothing_about_another(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    """Two sagas may have the same steps, and the same fingerprint."""
    await start_many(store, 1)
    name, version, fingerprint = ORDERS[0]

    found = await store.conflicting([(name, version, "beef"), ("refund", 1, fingerprint)])

    assert found == [(ORDERS[0], 1)]


async def test_a_recorded_shape_is_found_again(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    await store.register_definitions({key_of(ORDER): ORDER.shape()})

    assert await store.graph(key_of(ORDER)) == ORDER.shape()
    assert await store.graph(key_of(REFUND)) is None
    assert await store.graph((ORDER.name, ORDER.version, "beef")) is None


# -- claims without progress --------------------------------------------------------------


async def test_every_claim_counts_until_the_saga_makes_progress(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    """It is raised by the claim itself: who is killed by a saga cannot count any more."""
    held = await start_saga(store)
    for expected in (1, 2, 3):
        worker = await new_worker(store)
        (claimed,) = await store.claim(worker, ORDERS, 10)
        assert (claimed.saga_id, claimed.claims) == (held.saga_id, expected)
        await end_lease(sql, worker)

    worker = await new_worker(store)
    (claimed,) = await store.claim(worker, ORDERS, 10)
    await advance(store, hold(claimed), worker, release=True, wake_at=await store.now())
    (claimed,) = await store.claim(worker, ORDERS, 10)
    assert claimed.claims == 1


async def test_a_claim_that_ends_in_good_order_does_not_count(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    """Deploys are no sign of poison, nor is a saga that is put back to sleep."""
    held = await start_saga(store)
    for _ in range(3):
        worker = await new_worker(store)
        (claimed,) = await store.claim(worker, ORDERS, 10)
        assert claimed.claims == 1
        await store.release(worker)
    worker = await new_worker(store)
    for _ in range(3):
        (claimed,) = await store.claim(worker, ORDERS, 10)
        assert claimed.claims == 1
        await store.give_up(worker, [GivenUp(held.saga_id, await store.now())])

    assert (await saga_row(sql, held.saga_id))["claims"] == 0


# -- giving up and finding again ------------------------------------------------------------


async def test_a_saga_that_is_given_up_is_due_at_the_given_instant(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    owner = await new_worker(store)
    now, later = await start_sagas(store, owner, 2)
    instant = await store.now() + timedelta(hours=1)

    await store.give_up(
        owner, [GivenUp(now.saga_id, await store.now()), GivenUp(later.saga_id, instant)]
    )

    assert (await saga_row(sql, later.saga_id))["wake_at"] == instant
    assert ids(await store.claim(await new_worker(store), ORDERS, 10)) == {now.saga_id}


async def test_nobody_gives_up_what_belongs_to_another(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    owner, stranger = await new_worker(store), await new_worker(store)
    held = await start_saga(store, owner)

    await store.give_up(stranger, [GivenUp(held.saga_id, None)])

    assert (await saga_row(sql, held.saga_id))["owner"] == owner


async def test_what_a_worker_owns_without_knowing_it_can_be_looked_up(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    owner = await new_worker(store)
    known, forgotten = await start_sagas(store, owner, 2)
    await start_sagas(store, await new_worker(store), 2)

    assert ids(await store.load_owned(owner, [known.saga_id])) == {forgotten.saga_id}
    assert await store.load_owned(owner, [known.saga_id, forgotten.saga_id]) == []


# -- histories that cannot be read ----------------------------------------------------------

UNREADABLE: Final = {
    "a newer event": ("UPDATE eventsaga.events SET type = 'SagaTeleported'", UnknownEventError),
    "a newer version": ("UPDATE eventsaga.events SET schema_version = 9", UnknownEventError),
    "a missing field": ("UPDATE eventsaga.events SET data = '{}'", CorruptHistoryError),
    "no data": ("UPDATE eventsaga.events SET data = NULL", CorruptHistoryError),
    "no object": ("UPDATE eventsaga.events SET data = '[1]'", CorruptHistoryError),
    "no text": (
        """UPDATE eventsaga.events SET data = '{"saga_name": "\\ud800"}'""",
        CorruptHistoryError,
    ),
    "no events": ("DELETE FROM eventsaga.events", CorruptHistoryError),
}


@pytest.mark.parametrize(("damage", "error"), UNREADABLE.values(), ids=UNREADABLE.keys())
async def test_one_unreadable_history_does_not_keep_the_others_from_being_taken(
    database: str, store: PostgresStore, damage: str, error: type[Exception]
) -> None:
    broken, *fine = await start_sagas(store, None, 4)
    async with transaction(database) as vandal:
        await vandal.execute("ALTER TABLE eventsaga.events DISABLE TRIGGER ALL")
        await vandal.execute(f"{damage} WHERE saga_id = $1", broken.saga_id)

    worker = await new_worker(store)
    claimed = {saga.saga_id: saga for saga in await store.claim(worker, ORDERS, 10)}

    assert claimed.keys() == {broken.saga_id, *(held.saga_id for held in fine)}
    assert isinstance(claimed[broken.saga_id].unreadable, error)
    assert claimed[broken.saga_id].history == ()
    assert all(claimed[held.saga_id].unreadable is None for held in fine)

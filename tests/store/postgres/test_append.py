"""What does one append do? Events and row together, for the owner alone, or nothing at all."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from eventsaga.client.verify import verify
from eventsaga.core.commands import RecordSuccess
from eventsaga.core.events import Operation
from eventsaga.core.state import Status
from eventsaga.settings import Settings
from eventsaga.store.ports import Committed, Fenced
from eventsaga.store.postgres.claim import CLAIM, LOCK_NAMES, claim
from eventsaga.store.postgres.store import PostgresStore
from eventsaga.wire.payload import WARN_BYTES
from tests.store.barriers import locked, transaction, until_blocked
from tests.store.builders import (
    ORDER,
    ORDERS,
    advance,
    end_lease,
    failure_of,
    new_append,
    new_batch,
    new_message,
    new_worker,
    park,
    queue_append,
    retry,
    start_saga,
    take_over,
)
from tests.store.checker import event_types, flaws, saga_row

APPEND = "SET last_seq"


async def test_events_and_row_are_written_together(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    owner = await new_worker(store)
    held = await start_saga(store, owner)

    result = await advance(store, held, owner)

    assert isinstance(result, Committed)
    assert await event_types(sql, held.saga_id) == [
        "SagaStarted",
        "StepStarted",
        "StepSucceeded",
        "StepStarted",
    ]
    row = await saga_row(sql, held.saga_id)
    assert (row["last_seq"], row["last_hash"]) == (4, result.last_hash)
    assert row["current_steps"] == ["charge"]
    transactions = await sql.fetch(
        "SELECT txid FROM eventsaga.events WHERE saga_id = $1 AND seq > 2", held.saga_id
    )
    xmin = await sql.fetchval(
        "SELECT xmin::text FROM eventsaga.sagas WHERE saga_id = $1", held.saga_id
    )
    assert {str(int(row["txid"]) % 2**32) for row in transactions} == {xmin}


async def test_a_whole_saga_is_written_and_given_up_at_its_end(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    owner = await new_worker(store)
    held = await start_saga(store, owner)

    while not held.state.status.is_settled:
        assert isinstance(await advance(store, held, owner), Committed)

    row = await saga_row(sql, held.saga_id)
    assert (row["status"], row["owner"], row["wake_at"]) == ("COMPLETED", None, None)
    assert row["context"] == {
        "order_id": "o-1",
        "reserve": "done",
        "charge": "done",
        "ship": "done",
    }


async def test_the_error_of_a_saga_that_goes_back_stays_in_its_row(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    owner = await new_worker(store)
    held = await start_saga(store, owner)
    await advance(store, held, owner)

    await advance(store, held, owner, command=failure_of("charge"))
    while not held.state.status.is_settled:
        await advance(store, held, owner)

    row = await saga_row(sql, held.saga_id)
    assert row["status"] == Status.COMPENSATED
    assert '"step_name":"charge"' in row["error"]


# -- two writers ------------------------------------------------------------------------


async def test_of_two_workers_only_the_owner_appends(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    owner, stranger = await new_worker(store), await new_worker(store)
    held = await start_saga(store, owner)
    append = new_append(held)

    refused = await queue_append(store, replace(append), stranger)
    taken = await queue_append(store, replace(append), owner)

    assert isinstance(refused, Fenced)
    assert isinstance(taken, Committed)
    assert len(await event_types(sql, held.saga_id)) == 4


async def test_of_two_connections_of_one_owner_one_appends(
    database: str, store: PostgresStore, sql: asyncpg.Connection
) -> None:
    """Both statements stand before the same row when it becomes free."""
    owner = await new_worker(store)
    held = await start_saga(store, owner)
    async with PostgresStore(database, Settings()) as other:
        async with locked(database, held.saga_id):
            outcomes = [queue_append(each, new_append(held), owner) for each in (store, other)]
            await until_blocked(sql, APPEND, 2)
        results = [await outcome for outcome in outcomes]

    assert sorted(type(result).__name__ for result in results) == ["Committed", "Fenced"]
    assert len(await event_types(sql, held.saga_id)) == 4
    (taken,) = [result for result in results if isinstance(result, Committed)]
    assert (await saga_row(sql, held.saga_id))["last_hash"] == taken.last_hash


# -- the fence --------------------------------------------------------------------------


@pytest.mark.parametrize("recovered", [False, True], ids=["claimed", "recovered"])
async def test_a_worker_that_lost_its_saga_writes_nothing(
    store: PostgresStore, sql: asyncpg.Connection, *, recovered: bool
) -> None:
    """From the claim on, before the new owner has written anything."""
    zombie = await new_worker(store)
    held = await start_saga(store, zombie)
    await take_over(store, sql, zombie, recovered=recovered)
    before = await saga_row(sql, held.saga_id), await event_types(sql, held.saga_id)

    assert isinstance(await advance(store, held, zombie), Fenced)

    assert before == (await saga_row(sql, held.saga_id), await event_types(sql, held.saga_id))


async def test_a_saga_that_came_back_to_its_worker_is_fenced_by_its_number(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    """The owner is the same again, but the decision was made on an older history."""
    first = await new_worker(store)
    held = await start_saga(store, first)
    stale = new_append(held)
    second, (taken,) = await take_over(store, sql, first)
    await advance(store, taken, second, release=True, wake_at=await store.now())
    await store.register_worker(first, timedelta(minutes=1), ORDERS)
    assert await store.claim(first, ORDERS, 10)

    assert isinstance(await queue_append(store, stale, first), Fenced)


async def test_an_append_that_waits_while_the_saga_is_taken_over_writes_nothing(
    database: str, store: PostgresStore, sql: asyncpg.Connection
) -> None:
    """It was sent in time and stands before the row when the takeover commits."""
    zombie, successor = await new_worker(store), await new_worker(store)
    held = await start_saga(store, zombie)
    await end_lease(sql, zombie)
    async with transaction(database) as thief:
        (row,) = await claim(thief, CLAIM, LOCK_NAMES, successor, ORDERS, 10, {}, {})
        assert row["saga_id"] == held.saga_id
        outcome = queue_append(store, new_append(held), zombie)
        await until_blocked(sql, APPEND)

    assert isinstance(await outcome, Fenced)
    assert len(await event_types(sql, held.saga_id)) == 2


async def test_a_claim_passes_over_a_saga_whose_append_is_being_committed(
    database: str, store: PostgresStore, sql: asyncpg.Connection
) -> None:
    """The other order: the last append of the old owner stands, and the new one sees it."""
    zombie = await new_worker(store)
    held = await start_saga(store, zombie)
    successor = await new_worker(store)
    async with locked(database, held.saga_id):
        outcome = queue_append(store, new_append(held), zombie)
        await until_blocked(sql, APPEND)
        await end_lease(sql, zombie)
        assert await store.claim(successor, ORDERS, 10) == []

    assert isinstance(await outcome, Committed)
    (claimed,) = await store.claim(successor, ORDERS, 10)
    assert len(claimed.history) == 4


async def test_an_unowned_saga_takes_no_events(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    owner = await new_worker(store)
    held = await start_saga(store)

    assert isinstance(await queue_append(store, new_append(held), owner), Fenced)


async def test_a_saga_that_does_not_exist_is_fenced(store: PostgresStore) -> None:
    owner = await new_worker(store)
    held = await start_saga(store, owner)
    held.state.saga_id = uuid4()

    assert isinstance(await queue_append(store, new_append(held), owner), Fenced)


# -- what goes with it ------------------------------------------------------------------


async def test_requests_are_answered_in_the_same_commit(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    owner = await new_worker(store)
    held = await start_saga(store, owner)
    answered, waiting = uuid4(), uuid4()
    for message_id in (answered, waiting):
        await store.post(new_message(held.saga_id, message_id=message_id))

    await advance(store, held, owner, inbox=(answered,))

    rows = await sql.fetch("SELECT id FROM eventsaga.inbox WHERE answered_at IS NULL")
    assert [row["id"] for row in rows] == [waiting]


async def test_a_fenced_append_leaves_the_inbox_alone(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    """Beside a saga in the same batch that advances, and takes its own request."""
    owner = await new_worker(store)
    fenced, fine = await start_saga(store, owner), await start_saga(store, owner)
    requests = {held.saga_id: uuid4() for held in (fenced, fine)}
    for saga_id, message_id in requests.items():
        await store.post(new_message(saga_id, message_id=message_id))
    await sql.execute(
        "UPDATE eventsaga.sagas SET owner = gen_random_uuid() WHERE saga_id = $1", fenced.saga_id
    )

    outcomes = [
        queue_append(store, new_append(held, inbox=(requests[held.saga_id],)), owner)
        for held in (fenced, fine)
    ]

    assert [type(await outcome) for outcome in outcomes] == [Fenced, Committed]
    rows = await sql.fetch("SELECT saga_id FROM eventsaga.inbox WHERE answered_at IS NULL")
    assert [row["saga_id"] for row in rows] == [fenced.saga_id]


@pytest.mark.parametrize(("progress", "claims"), [(True, 0), (False, 3)])
async def test_only_progress_clears_the_count_of_claims(
    store: PostgresStore, sql: asyncpg.Connection, *, progress: bool, claims: int
) -> None:
    owner = await new_worker(store)
    held = await start_saga(store, owner)
    await sql.execute("UPDATE eventsaga.sagas SET claims = 3")

    await advance(store, held, owner, progress=progress)

    assert (await saga_row(sql, held.saga_id))["claims"] == claims


TOMORROW = datetime.now(UTC) + timedelta(days=1)


@pytest.mark.parametrize(
    ("options", "wake_at"),
    [({"release": True, "wake_at": TOMORROW}, TOMORROW), ({"release": True}, None)],
    ids=["for later", "never"],
)
async def test_a_released_saga_belongs_to_nobody_and_knows_when_it_is_due(
    store: PostgresStore, sql: asyncpg.Connection, options: dict[str, Any], wake_at: Any
) -> None:
    """Without an instant it is due never, as one is that is settled and owes nothing."""
    owner = await new_worker(store)
    held = await start_saga(store, owner)

    await advance(store, held, owner, **options)

    row = await saga_row(sql, held.saga_id)
    assert row["owner"] is None
    assert row["wake_at"] == wake_at


async def test_a_saga_that_is_kept_has_no_instant_to_wake_at(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    owner = await new_worker(store)
    held = await start_saga(store, owner)

    await advance(store, held, owner, wake_at=TOMORROW)

    row = await saga_row(sql, held.saga_id)
    assert (row["owner"], row["wake_at"]) == (owner, None)


async def test_the_context_is_written_when_the_status_changes(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    """In between it is in the events: a row that does not grow stays in its page."""
    owner = await new_worker(store)
    held = await start_saga(store, owner)

    await advance(store, held, owner)
    assert (await saga_row(sql, held.saga_id))["context"] == {"order_id": "o-1"}

    await advance(store, held, owner, command=failure_of("charge"))
    assert (await saga_row(sql, held.saga_id))["context"] == {
        "order_id": "o-1",
        "reserve": "done",
    }


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
async def test_the_error_of_a_parked_saga_goes_when_it_goes_on(
    store: PostgresStore, sql: asyncpg.Connection, *, backward: bool
) -> None:
    """What remains is why it goes back, if it does; the fixture compares the whole row."""
    owner = await new_worker(store)
    held = await start_saga(store, owner)
    await advance(store, held, owner)
    before = None
    if backward:
        await advance(store, held, owner, failure_of("charge"))
        before = (await saga_row(sql, held.saga_id))["error"]
        assert before is not None

    await advance(store, held, owner, park())
    parked = await saga_row(sql, held.saga_id)
    assert (parked["status"], parked["owner"]) == ("PARKED", None)
    assert parked["error"] is not None
    request = new_message(held.saga_id)
    await store.post(request)
    assert len(await store.claim(owner, ORDERS, 10)) == 1
    await advance(store, held, owner, retry(), inbox=(request.message_id,))

    assert "SagaRetried" in await event_types(sql, held.saga_id)
    row = await saga_row(sql, held.saga_id)
    assert row["status"] == ("COMPENSATING" if backward else "RUNNING")
    assert row["error"] == before
    assert await flaws(sql) == []
    while not held.state.status.is_settled:
        assert isinstance(await advance(store, held, owner), Committed)
        assert await flaws(sql) == []


BATCHES = {
    "parked, and on": [park(), retry()],
    "parked, on, and further": [park(), retry(), None, None],
    "on, and parked": [None, park()],
    "parked twice": [park(), retry(), None, park()],
    "on, and back": [None, failure_of("charge")],
    "parked, on, and back": [None, park(), retry(), None, failure_of("ship"), None],
    "back, parked, and on": [None, failure_of("charge"), park(), retry(), None],
    "back, and parked": [None, failure_of("charge"), park()],
    "to the end": [None, None, park(), retry(), None],
    "back to the start": [None, failure_of("charge"), None],
}


@pytest.mark.parametrize("commands", BATCHES.values(), ids=BATCHES.keys())
@pytest.mark.parametrize("whole", [True, False], ids=["at once", "one by one"])
async def test_the_row_is_the_fold_of_a_batch_with_several_changes_of_status(
    store: PostgresStore, sql: asyncpg.Connection, *, commands: list[Any], whole: bool
) -> None:
    """The context as of the last change, the error as of the end; see `flaws`."""
    owner = await new_worker(store)
    held = await start_saga(store, owner)
    for batch in [commands] if whole else [[command] for command in commands]:
        append = new_batch(held, *batch, release=False)
        result = await queue_append(store, append, owner)
        assert isinstance(result, Committed)
        held.state, held.last_hash = append.state, result.last_hash
        assert await flaws(sql) == []

    row = await saga_row(sql, held.saga_id)
    assert (row["status"], row["last_seq"]) == (held.state.status, held.state.seq)
    assert row["context"] == held.state.shown_context
    assert [violation async for violation in verify(store)] == []


async def test_a_large_result_is_reported(
    store: PostgresStore, sql: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """Long before it is refused, with where it is and how large."""
    owner = await new_worker(store)
    held = await start_saga(store, owner)
    large = RecordSuccess(
        at=datetime.now(UTC),
        step="reserve",
        attempt=1,
        operation=Operation.EXECUTE,
        result={"receipt": "x" * WARN_BYTES},
    )

    await advance(store, held, owner)
    assert "payload_large" not in caplog.text

    other = await start_saga(store, owner, definition=ORDER)
    await advance(store, other, owner, command=large)
    assert f"payload_large saga_id={other.saga_id} what=StepSucceeded bytes=256" in caplog.text

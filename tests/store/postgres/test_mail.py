"""How does the outside reach a saga? By requests that only its owner sees, each taken once."""

from uuid import uuid4

import asyncpg
import pytest

from eventsaga.store.ports import Answer, Committed, Fenced, Reply
from eventsaga.store.postgres.store import PostgresStore
from tests.proxy import Loss, Proxy
from tests.store.barriers import locked, transaction
from tests.store.builders import (
    ORDERS,
    advance,
    dismissal,
    end_lease,
    impatient_store,
    new_append,
    new_message,
    new_worker,
    queue_append,
    start_saga,
    start_sagas,
)
from tests.store.vandal import run_to_the_end

_AGE = """
UPDATE eventsaga.inbox
   SET created_at = now() - interval '61 min',
       answered_at = CASE WHEN answered_at IS NOT NULL THEN now() - interval '61 min' END
 WHERE id = ANY ($1)
"""


async def test_requests_are_read_by_the_owner_oldest_first(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    owner, stranger = await new_worker(store), await new_worker(store)
    one, two = await start_sagas(store, owner, 2)
    sent = [(one, "a"), (two, "b"), (one, "c")]
    for held, reason in sent:
        await store.post(new_message(held.saga_id, reason))

    messages = await store.read_mail(owner, 10)

    assert [(m.saga_id, m.data["reason"]) for m in messages] == [
        (held.saga_id, reason) for held, reason in sent
    ]
    assert {(m.kind, m.actor) for m in messages} == {("cancel", "ada")}
    assert await store.read_mail(stranger, 10) == []
    assert [m.data["reason"] for m in await store.read_mail(owner, 2)] == ["a", "b"]


async def test_the_same_request_is_taken_once(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    owner = await new_worker(store)
    held, message_id = await start_saga(store, owner), uuid4()

    for reason in ("first", "second"):
        await store.post(new_message(held.saga_id, reason, message_id=message_id))

    (message,) = await store.read_mail(owner, 10)
    assert message.data == {"reason": "first"}


async def test_a_request_to_a_saga_that_does_not_exist_is_not_kept(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    assert not await store.post(new_message(uuid4()))

    assert await sql.fetchval("SELECT count(*) FROM eventsaga.inbox") == 0


async def test_a_request_waits_for_nobody_and_holds_up_nobody(
    database: str, store: PostgresStore, sql: asyncpg.Connection
) -> None:
    """Neither does a locked saga delay a request, nor an open request its saga."""
    owner = await new_worker(store)
    held = await start_saga(store, owner)
    async with locked(database, held.saga_id):
        await store.post(new_message(held.saga_id))

    async with transaction(database) as caller:
        await caller.execute(
            "INSERT INTO eventsaga.inbox (saga_id, id, kind, data, actor)"
            " VALUES ($1, gen_random_uuid(), 'cancel', '{}', 'ada')",
            held.saga_id,
        )
        await advance(store, held, owner)
        assert len(await store.read_mail(owner, 10)) == 1

    assert len(await store.read_mail(owner, 10)) == 2


@pytest.mark.parametrize(
    "data", ["[1]", "null", '"text"', "17", '{"reason": "\\ud800"}', '{"a": "\\u0000"}']
)
async def test_a_request_that_is_no_object_does_not_stop_the_reader(
    store: PostgresStore, sql: asyncpg.Connection, data: str
) -> None:
    """Requests may be inserted by SQL, and the type json takes more than there is data for."""
    owner = await new_worker(store)
    held = await start_saga(store, owner)
    await sql.execute(
        "INSERT INTO eventsaga.inbox (saga_id, id, kind, data, actor)"
        " VALUES ($1, gen_random_uuid(), 'cancel', $2, 'ada')",
        held.saga_id,
        data,
    )
    await store.post(new_message(held.saga_id))

    messages = await store.read_mail(owner, 10)

    assert [dict(message.data).get("reason") for message in messages] == [None, "r"]


# -- answers ------------------------------------------------------------------------------


async def test_a_request_is_open_until_its_events_are_committed(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    owner = await new_worker(store)
    held = await start_saga(store, owner)
    message = new_message(held.saga_id)
    assert await store.post(message)
    assert (await store.answer(held.saga_id, message.message_id)).reply is Reply.OPEN

    assert await store.read_mail(owner, 10) == [message]
    assert (await store.answer(held.saga_id, message.message_id)).reply is Reply.OPEN

    await advance(store, held, owner, inbox=(message.message_id,))
    assert await store.answer(held.saga_id, message.message_id) == Answer(reply=Reply.TAKEN)
    assert await store.read_mail(owner, 10) == []


async def test_a_refused_request_is_not_read_again_and_its_reason_is_told(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    """As often as somebody asks: an answer may be lost, and is asked for again."""
    owner = await new_worker(store)
    held = await start_saga(store, owner)
    refused, other = new_message(held.saga_id), new_message(held.saga_id)
    for message in (refused, other):
        await store.post(message)

    await store.dismiss_mail(owner, [dismissal(held, refused.message_id, "too late")])

    assert await store.read_mail(owner, 10) == [other]
    for _ in range(2):
        answer = await store.answer(held.saga_id, refused.message_id)
        assert answer == Answer(reply=Reply.REFUSED, reason="too late")
    assert (await store.answer(held.saga_id, other.message_id)).reply is Reply.OPEN


async def test_the_answer_to_a_refused_request_may_be_lost(
    database: str, sql: asyncpg.Connection
) -> None:
    async with Proxy(database) as proxy, impatient_store(proxy.url) as store:
        owner = await new_worker(store)
        held = await start_saga(store, owner)
        message = new_message(held.saga_id)
        await store.post(message)
        await store.dismiss_mail(owner, [dismissal(held, message.message_id, "too late")])
        proxy.arm(Loss.ANSWER, "AS is_open")

        answer = await store.answer(held.saga_id, message.message_id)

    assert answer == Answer(reply=Reply.REFUSED, reason="too late")


async def test_what_was_refused_can_be_asked_again(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    """Under the same id: the saga may have come to where it takes it."""
    owner = await new_worker(store)
    held = await start_saga(store, owner)
    first = new_message(held.saga_id, "early")
    again = new_message(held.saga_id, "again", message_id=first.message_id)
    await store.post(first)
    await store.dismiss_mail(owner, [dismissal(held, first.message_id, "not yet")])

    assert await store.post(again)

    assert await store.read_mail(owner, 10) == [again]
    assert (await store.answer(held.saga_id, first.message_id)).reply is Reply.OPEN


async def test_an_answer_about_what_was_never_asked_is_that_it_was_taken(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    assert (await store.answer(uuid4(), uuid4())).reply is Reply.TAKEN


async def test_a_refused_request_wakes_nobody(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    owner = await new_worker(store)
    held = await run_to_the_end(store, owner)
    message = new_message(held.saga_id)
    await store.post(message)
    await store.dismiss_mail(owner, [dismissal(held, message.message_id, "it has ended")])

    assert await store.claim(owner, ORDERS, 10) == []


async def test_sweeping_takes_old_answers_and_nothing_else(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    """By the time of the answer: nobody could have read it before."""
    held = await start_saga(store)
    messages = [new_message(held.saga_id) for _ in range(5)]
    refused, taken, refused_long_ago, taken_long_ago, open_ = (m.message_id for m in messages)
    for message in messages:
        await store.post(message)
    await sql.execute(_AGE, [message.message_id for message in messages])
    for message_id in (refused, refused_long_ago):
        await store.dismiss_mail(uuid4(), [dismissal(held, message_id, "no")])
    await store.dismiss_mail(uuid4(), [dismissal(held, each) for each in (taken, taken_long_ago)])
    await sql.execute(_AGE, [refused_long_ago, taken_long_ago])

    await store.sweep()

    left = {row["id"] for row in await sql.fetch("SELECT id FROM eventsaga.inbox")}
    assert left == {refused, taken, open_}


async def test_sweeping_takes_permits_of_workers_that_are_gone(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    alive, dead = await new_worker(store), await new_worker(store)
    for worker in (alive, dead):
        await store.acquire(worker, "k", 2, concurrency=9, interval=None, burst=1)
    await end_lease(sql, dead)

    await store.sweep()

    rows = await sql.fetch("SELECT worker_id, held FROM eventsaga.permits")
    assert [tuple(row) for row in rows] == [(alive, 2)]


# -- in a transaction of the caller's ---------------------------------------------------------


async def test_a_request_within_a_transaction_is_there_with_its_commit(
    database: str, store: PostgresStore, sql: asyncpg.Connection
) -> None:
    owner = await new_worker(store)
    held = await start_saga(store, owner)
    message = new_message(held.saga_id)
    async with transaction(database) as caller:
        assert await store.post_within(caller, message)
        assert not await store.post_within(caller, new_message(uuid4()))
        assert await store.read_mail(owner, 10) == []

    assert await store.read_mail(owner, 10) == [message]


async def test_a_request_within_a_transaction_that_is_undone_was_never_left(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    owner = await new_worker(store)
    held = await start_saga(store, owner)
    caller = sql.transaction()
    await caller.start()
    assert await store.post_within(sql, new_message(held.saga_id))
    await caller.rollback()

    assert await store.read_mail(owner, 10) == []


# -- from saga to saga --------------------------------------------------------------------


async def test_an_append_leaves_its_messages_in_the_same_commit(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    """Only to sagas that exist, also to itself."""
    owner = await new_worker(store)
    sender, receiver = await start_sagas(store, owner, 2)
    told = [new_message(held.saga_id) for held in (receiver, sender)]
    outbox = (*told, new_message(uuid4()), told[0])

    assert isinstance(await advance(store, sender, owner, outbox=outbox), Committed)

    assert sorted(m.message_id for m in await store.read_mail(owner, 10)) == sorted(
        m.message_id for m in told
    )
    (inserted,) = await sql.fetch("SELECT DISTINCT xmin FROM eventsaga.inbox")
    appended = await sql.fetchval(
        "SELECT xmin FROM eventsaga.events WHERE saga_id = $1 AND seq = 3", sender.saga_id
    )
    assert inserted["xmin"] == appended


async def test_a_fenced_append_tells_nobody(store: PostgresStore, sql: asyncpg.Connection) -> None:
    """Beside a saga in the same batch that advances, and tells."""
    owner = await new_worker(store)
    fenced, fine, receiver = await start_sagas(store, owner, 3)
    await sql.execute(
        "UPDATE eventsaga.sagas SET owner = gen_random_uuid() WHERE saga_id = $1", fenced.saga_id
    )

    outcomes = [
        queue_append(store, new_append(held, outbox=(new_message(receiver.saga_id, text),)), owner)
        for held, text in ((fenced, "fenced"), (fine, "fine"))
    ]

    assert [type(await outcome) for outcome in outcomes] == [Fenced, Committed]
    assert [m.data["reason"] for m in await store.read_mail(owner, 10)] == ["fine"]


async def test_an_append_whose_answer_is_lost_tells_once(
    database: str, sql: asyncpg.Connection
) -> None:
    async with Proxy(database) as proxy, impatient_store(proxy.url) as store:
        owner = await new_worker(store)
        sender, receiver = await start_sagas(store, owner, 2)
        message = new_message(receiver.saga_id)
        proxy.arm(Loss.ANSWER, "SET last_seq")

        assert isinstance(await advance(store, sender, owner, outbox=(message,)), Committed)
        assert await store.read_mail(owner, 10) == [message]


async def test_a_message_wakes_the_saga_that_it_is_for(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    owner = await new_worker(store)
    ended = await run_to_the_end(store, owner)
    sender = await start_saga(store, owner)

    await advance(store, sender, owner, outbox=(new_message(ended.saga_id),))

    (claimed,) = await store.claim(await new_worker(store), ORDERS, 10)
    assert claimed.saga_id == ended.saga_id

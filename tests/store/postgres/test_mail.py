"""How does the outside reach a saga? By requests that only its owner sees, each taken once."""

from uuid import uuid4

import asyncpg
import pytest

from eventsaga.store.postgres.store import PostgresStore
from tests.store.barriers import locked, transaction
from tests.store.builders import advance, new_worker, start_saga, start_sagas


async def test_requests_are_read_by_the_owner_oldest_first(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    owner, stranger = await new_worker(store), await new_worker(store)
    one, two = await start_sagas(store, owner, 2)
    sent = [(one, "a"), (two, "b"), (one, "c")]
    for held, reason in sent:
        await store.post(held.saga_id, uuid4(), "cancel", {"reason": reason}, "ada")

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
        await store.post(held.saga_id, message_id, "cancel", {"reason": reason}, "ada")

    (message,) = await store.read_mail(owner, 10)
    assert message.data == {"reason": "first"}


async def test_a_request_to_a_saga_that_does_not_exist_is_not_kept(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    await store.post(uuid4(), uuid4(), "cancel", {"reason": "r"}, "ada")

    assert await sql.fetchval("SELECT count(*) FROM eventsaga.inbox") == 0


async def test_a_request_waits_for_nobody_and_holds_up_nobody(
    database: str, store: PostgresStore, sql: asyncpg.Connection
) -> None:
    """Neither does a locked saga delay a request, nor an open request its saga."""
    owner = await new_worker(store)
    held = await start_saga(store, owner)
    async with locked(database, held.saga_id):
        await store.post(held.saga_id, uuid4(), "cancel", {"reason": "r"}, "ada")

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
    await store.post(held.saga_id, uuid4(), "cancel", {"reason": "r"}, "ada")

    messages = await store.read_mail(owner, 10)

    assert [dict(message.data).get("reason") for message in messages] == [None, "r"]


async def test_sweeping_takes_what_nobody_will_answer_and_nothing_else(
    store: PostgresStore, sql: asyncpg.Connection
) -> None:
    owner = await new_worker(store)
    settled, running = await start_sagas(store, owner, 2)
    sleeping = await start_saga(store)
    for held in (settled, running, sleeping):
        await store.post(held.saga_id, uuid4(), "cancel", {"reason": "r"}, "ada")
    while not settled.state.status.is_settled:
        await advance(store, settled, owner)

    await store.sweep_mail()

    left = {row["saga_id"] for row in await sql.fetch("SELECT saga_id FROM eventsaga.inbox")}
    assert left == {running.saga_id, sleeping.saga_id}

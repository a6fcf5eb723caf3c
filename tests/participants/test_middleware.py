"""Is the same request applied once, and what is stored of it?"""

import asyncio
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from eventsaga.participant import (
    IdempotencyMiddleware,
    barrier,
    current,
    forget,
)
from eventsaga.participant.asgi import Receive, Reply, Scope, Send
from eventsaga.participant.transaction import KeyTransaction
from eventsaga.runtime.outcome import Verdict
from tests.participants.answers import Held, problem, refusing, verdict, without_locks
from tests.participants.world import (
    SAGA,
    World,
    ask,
    told,
    write,
)
from tests.store.barriers import until_blocked


async def test_the_same_request_again_gets_the_same_reply_and_takes_no_effect(
    world: World,
) -> None:
    async def binary(scope: Scope, _body: bytes) -> Reply:
        number = await write(current().session)
        headers = ((b"x-one", b"1"), (b"x-two", b"\xe9\xff"), (b"x-one", b"3"))
        return Reply(207, headers, bytes(range(256)) + str(number).encode())

    app = world.serve(binary)

    first, second, third = [await ask(app, json={"amount": 5}) for _ in range(3)]

    assert first.status_code == second.status_code == third.status_code == 207
    assert first.content == second.content == third.content == bytes(range(256)) + b"1"
    marker = (b"idempotent-replayed", b"true")
    assert [*first.headers.raw, marker] == second.headers.raw == third.headers.raw
    assert await world.ledger() == ["charge"]
    assert len(world.calls) == 1


async def test_an_empty_reply_is_repeated_as_well(world: World) -> None:
    async def empty(_scope: Scope, _body: bytes) -> Reply:
        return Reply(204, (), b"")

    app = world.serve(empty)

    assert [(await ask(app)).status_code for _ in range(2)] == [204, 204]
    assert len(world.calls) == 1


async def test_headers_of_one_connection_or_of_one_visitor_are_not_stored(world: World) -> None:
    async def chatty(_scope: Scope, _body: bytes) -> Reply:
        secret = ("Set-Cookie", "session=secret")
        return told(201, None, secret, ("Date", "today"), ("Location", "/charges/1"))

    app = world.serve(chatty)

    first, again = await ask(app), await ask(app)

    assert first.headers["set-cookie"] == "session=secret"
    assert set(again.headers) == {"content-type", "location", "idempotent-replayed"}
    stored = await world.sql.fetchval("SELECT participant_keys::text FROM participant_keys")
    assert "secret" not in stored


@pytest.mark.parametrize(
    "other",
    [
        {"json": {"amount": 6}},
        {"path": "/charges/"},
        {"path": "/charges?force=1"},
        {"method": "PUT"},
        {"json": None},
    ],
)
async def test_the_same_key_for_another_request_is_refused(
    world: World, other: dict[str, Any]
) -> None:
    app = world.serve()
    await ask(app, json={"amount": 5})

    request: dict[str, Any] = {"json": {"amount": 5}} | other
    refused = await ask(app, **request)

    assert problem(refused) == (422, "key_reused", None)
    assert await world.ledger() == ["charge"]


async def test_a_key_in_quotes_is_the_same_key(world: World) -> None:
    app = world.serve()

    replies = [await ask(app, key) for key in (r"a\"b", '"a\\\\\\"b"')]

    assert [reply.json()["id"] for reply in replies] == [1, 1]
    assert await world.keys() == [r"a\"b"]


async def test_each_caller_has_keys_of_its_own(world: World) -> None:
    def caller_of(scope: Scope) -> str:
        return str(dict(scope["headers"])[b"x-user"], "ascii")

    app = world.serve(caller_of=caller_of)

    ids = [
        (await ask(app, headers={"x-user": user})).json()["id"] for user in ("ann", "bob", "ann")
    ]

    assert ids == [1, 2, 1]


async def test_fifty_requests_at_once_are_one_effect(world: World) -> None:
    """One is held until all others were answered, so they were all there at the same time."""
    held = Held()
    app = world.serve(held)

    asking = [asyncio.create_task(ask(app)) for _ in range(50)]
    others: list[httpx.Response] = []
    for reply in asyncio.as_completed(asking):
        others.append(await reply)
        if len(others) == 49:
            held.go_on.set()

    first = others.pop()
    assert first.status_code == 201
    assert {problem(reply) for reply in others} == {(409, "still_running", "1")}
    assert verdict(others[0]).in_doubt
    again = await asyncio.gather(*(ask(app) for _ in range(50)))
    assert {reply.content for reply in again} == {first.content}
    assert await world.ledger() == ["charge"]


async def test_correctness_rests_on_the_primary_key_and_not_on_the_lock(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_locks(monkeypatch)
    held = Held()
    app = world.serve(held)
    asking = [asyncio.create_task(ask(app)) for _ in range(2)]
    for _ in asking:
        await held.arrived.acquire()

    held.go_on.set()
    replies = sorted([await reply for reply in asking], key=lambda reply: reply.status_code)

    assert replies[0].status_code == 201
    assert problem(replies[1]) == (409, "still_running", "1")
    assert await world.ledger() == ["charge"]
    assert (await ask(app)).content == replies[0].content


@pytest.mark.parametrize("status", [500, 502, 503])
async def test_a_reply_that_says_it_broke_rolls_back_and_is_not_stored(
    world: World, status: int
) -> None:
    async def broken(scope: Scope, _body: bytes) -> Reply:
        await write(current().session)
        return told(status, "broken", ("Retry-After", "7"))

    app = world.serve(broken)

    replies = [await ask(app) for _ in range(2)]

    assert [(r.status_code, r.json(), r.headers["retry-after"]) for r in replies] == [
        (status, "broken", "7")
    ] * 2
    assert (await world.ledger(), await world.keys()) == ([], [])


async def test_an_exception_rolls_back_is_answered_500_and_raised(world: World) -> None:
    async def broken(scope: Scope, _body: bytes) -> Reply:
        await write(current().session)
        raise ZeroDivisionError

    app = world.serve(broken)

    assert problem(await ask(app)) == (500, "not_done", None)
    with pytest.raises(ZeroDivisionError):
        await ask(app, raises=True)
    assert (await world.ledger(), await world.keys()) == ([], [])


async def test_a_response_that_is_not_complete_rolls_back(world: World) -> None:
    async def half(scope: Scope, _receive: Receive, send: Send) -> None:
        await write(current().session)
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"hal", "more_body": True})

    app = IdempotencyMiddleware(half, world.engine)

    assert problem(await ask(app)) == (500, "not_done", None)
    assert (await world.ledger(), await world.keys()) == ([], [])


async def test_a_refusal_has_no_effect_and_is_stored(world: World) -> None:
    """What was committed inside included: a caller takes a 4xx for "nothing was done"."""
    app = world.serve(refusing(402))

    replies = [await ask(app) for _ in range(2)]

    assert [(reply.status_code, reply.json()) for reply in replies] == [(402, "refused")] * 2
    assert (await world.ledger(), await world.keys()) == ([], ["k-1"])
    assert len(world.calls) == 1
    assert verdict(replies[1]) == Verdict(permanent=True)


@pytest.mark.parametrize("status", [401, 403, 408, 409, 425, 429])
async def test_a_refusal_that_may_change_is_never_stored(world: World, status: int) -> None:
    app = world.serve(refusing(status))

    replies = [await ask(app) for _ in range(2)]

    assert [reply.status_code for reply in replies] == [status] * 2
    assert (await world.ledger(), await world.keys()) == ([], [])
    assert len(world.calls) == 2


async def test_refusals_are_not_stored_if_that_is_not_wanted(world: World) -> None:
    app = world.serve(refusing(402), store_refusals=False)

    assert [(await ask(app)).status_code for _ in range(2)] == [402, 402]
    assert (await world.ledger(), await world.keys(), len(world.calls)) == ([], [], 2)


async def test_a_refused_undo_is_asked_again(world: World) -> None:
    """An operator mends the cause and retries, with the same key."""
    app = world.serve(refusing(422))
    key = f"{SAGA}/charge/compensate"

    assert [(await ask(app, key)).status_code for _ in range(2)] == [422, 422]
    assert (await world.ledger(), await world.keys(), len(world.calls)) == ([], [], 2)


async def test_a_refusal_after_a_failed_statement_is_stored(world: World) -> None:
    """The transaction is aborted by then, and of no use for storing anything."""

    async def clumsy(scope: Scope, _body: bytes) -> Reply:
        try:
            await current().session.execute(text("SELECT 1/0"))
        except Exception:  # noqa: BLE001 - as applications do
            return told(400, "divided by zero")
        raise AssertionError

    app = world.serve(clumsy)

    assert [(await ask(app)).status_code for _ in range(2)] == [400, 400]
    assert (await world.keys(), len(world.calls)) == (["k-1"], 1)


async def test_a_refusal_that_another_request_overtakes_is_asked_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between rolling the effect back and storing the refusal, the key is free."""
    without_locks(monkeypatch)
    original = KeyTransaction._store
    overtaken: list[int] = []

    async def overtake(self: KeyTransaction, *arguments: Any) -> bool:
        if not overtaken:
            overtaken.append(0)
            overtaken.append((await ask(world.serve())).status_code)
        return await original(self, *arguments)

    monkeypatch.setattr(KeyTransaction, "_store", overtake)

    refused = await ask(world.serve(refusing(402)))

    assert overtaken == [0, 201]
    assert problem(refused) == (409, "still_running", "1")
    assert await world.ledger() == ["charge"]


def _doing_and_undoing(world: World, **options: Any) -> Any:
    async def handle(scope: Scope, _body: bytes) -> Reply:
        participation = current()
        async with barrier(participation.session, participation.key) as gate:
            if gate.act:
                await write(participation.session, gate.branch.operation)
        return told(200, gate.turn)

    return world.serve(handle, **options)


async def test_what_comes_after_its_undo_is_gone(world: World) -> None:
    app = _doing_and_undoing(world)
    key = f"{SAGA}/charge"

    undone = await ask(app, f"{key}/compensate")
    late = [await ask(app, key) for _ in range(2)]

    assert undone.json() == "nothing"
    assert [problem(reply) for reply in late] == [(410, "too_late", None)] * 2
    # Neither "wait" nor "maybe": it was not done and never will be.
    assert verdict(late[0]) == Verdict(permanent=True)
    assert await world.ledger() == []


async def test_a_do_that_comes_again_after_its_undo_has_no_effect(world: World) -> None:
    """It gets its old reply; and if that was forgotten, the barrier still knows."""
    app, key = _doing_and_undoing(world), f"{SAGA}/charge"
    done, undone = await ask(app, key), await ask(app, f"{key}/compensate")

    again = await ask(app, key)
    async with world.engine.begin() as connection:
        await forget(connection, key)
    forgotten = await ask(app, key)

    assert (done.json(), undone.json()) == ("first", "first")
    assert (again.content, again.headers["idempotent-replayed"]) == (done.content, "true")
    assert problem(forgotten) == (410, "too_late", None)
    assert await world.ledger() == ["do", "undo"]


async def test_an_undo_waits_for_the_request_that_it_undoes(world: World) -> None:
    held, key = Held(), f"{SAGA}/charge"

    async def slow(scope: Scope, body: bytes) -> Reply:
        async with barrier(current().session, current().key):
            return await held(scope, body)

    doing = asyncio.create_task(ask(world.serve(slow), key))
    await held.arrived.acquire()
    undoing = asyncio.create_task(ask(_doing_and_undoing(world), f"{key}/compensate"))
    await until_blocked(world.sql, "participant_barriers")
    held.go_on.set()

    assert (await doing).status_code == 201
    assert (await undoing).json() == "first"
    assert await world.ledger() == ["charge", "undo"]


async def test_a_key_that_the_barrier_does_not_understand_is_a_bad_request(world: World) -> None:
    assert problem(await ask(_doing_and_undoing(world), "order-1")) == (400, "bad_key", None)

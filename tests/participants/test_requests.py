"""Which requests are taken? Keys, bodies, and what passes by."""

import json
from typing import Any

import pytest

from eventsaga.errors import TransactionMisusedError
from eventsaga.participant import (
    IdempotencyMiddleware,
    NoParticipationError,
    ReplyTooLargeError,
    current,
)
from eventsaga.participant.asgi import Message, Receive, Reply, Scope, Send
from tests.participants.answers import problem
from tests.participants.world import (
    World,
    ask,
    charge,
    scope_of,
    serving,
    told,
    whole,
    write,
)


@pytest.mark.parametrize(
    "key",
    [
        b"",
        b"   ",
        b'""',
        b"k" * 256,
        b"nul\x00",
        b"tab\tinside",
        b"del\x7f",
        "schlüssel".encode(),
        b"latin\xe9",
        b'"open',
        b'"two" words',
        b'"a";b=1',
        b'"bad\\escape"',
        b'"ends\\',
    ],
)
async def test_a_bad_key_is_refused_before_anything_is_done(world: World, key: bytes) -> None:
    app = world.serve()
    replies: list[Message] = []

    async def send(message: Message) -> None:
        replies.append(message)

    await app(scope_of(headers=[(b"idempotency-key", key)]), whole(), send)

    assert replies[0]["status"] == 400
    assert json.loads(replies[1]["body"])["code"] == "bad_key"
    assert (world.calls, await world.keys()) == ([], [])


async def test_two_keys_are_one_too_many(world: World) -> None:
    reply = await ask(world.serve(), headers={"idempotency-key": "another"})

    assert problem(reply) == (400, "bad_key", None)
    assert world.calls == []


async def test_a_key_of_255_characters_is_taken(world: World) -> None:
    app = world.serve()

    assert [(await ask(app, "k" * 255)).json()["id"] for _ in range(2)] == [1, 1]


async def test_a_missing_key_is_refused_if_it_is_required(world: World) -> None:
    reply = await ask(world.serve(), None)

    assert problem(reply) == (400, "bad_key", None)
    assert world.calls == []


async def test_a_missing_key_passes_if_it_is_not_required_and_there_is_no_session(
    world: World,
) -> None:
    async def plain(scope: Scope, _body: bytes) -> Reply:
        with pytest.raises(NoParticipationError, match="through IdempotencyMiddleware"):
            current()
        return told(200, "passed")

    reply = await ask(world.serve(plain, required=False), None)

    assert reply.json() == "passed"


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_safe_requests_pass_with_and_without_a_key(world: World, method: str) -> None:
    async def read(_scope: Scope, _body: bytes) -> Reply:
        return told(200)

    app = world.serve(read)

    for key in (None, "k-1", "k-1"):
        assert (await ask(app, key, method=method)).status_code == 200
    assert (await world.keys(), len(world.calls)) == ([], 3)


async def test_what_the_application_exempts_passes(world: World) -> None:
    async def login(_scope: Scope, _body: bytes) -> Reply:
        return told(200)

    def applies(scope: Scope) -> bool:
        return bool(scope["path"] != "/login")

    app = world.serve(login, applies=applies)

    assert (await ask(app, None, path="/login")).status_code == 200
    assert (await ask(app, None, path="/charges")).status_code == 400


@pytest.mark.parametrize("announced", [True, False])
async def test_a_request_that_is_too_large_is_refused(
    world: World,
    announced: bool,  # noqa: FBT001
) -> None:
    app = world.serve(max_request=10)
    given = iter([b"12345", b"67890", b"1"])
    sent: list[Message] = []

    async def receive() -> Message:
        assert not announced, "the body need not be read"
        return {"type": "http.request", "body": next(given), "more_body": True}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = scope_of()
    if announced:
        scope["headers"].append((b"content-length", b"11"))
    await app(scope, receive, send)

    assert sent[0]["status"] == 413
    assert (world.calls, await world.keys()) == ([], [])


async def test_a_body_in_pieces_is_read_once_and_given_to_the_application(world: World) -> None:
    pieces = [b"ab", b"", b"cd"]
    messages = [
        {"type": "http.request", "body": piece, "more_body": i < 2}
        for i, piece in enumerate(pieces)
    ]
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend([await receive(), await receive()])
        await told(200).send(send)

    async def receive() -> Message:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(_message: Message) -> None:
        return None

    await IdempotencyMiddleware(app, world.engine)(scope_of(), receive, send)

    assert seen == [
        {"type": "http.request", "body": b"abcd", "more_body": False},
        {"type": "http.disconnect"},
    ]


async def test_a_client_that_goes_away_while_it_sends_is_forgotten(world: World) -> None:
    app = world.serve()

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(_message: Message) -> None:
        raise AssertionError("nobody is there")

    await app(scope_of(), receive, send)

    assert (world.calls, await world.keys()) == ([], [])


async def test_a_reply_that_is_too_large_rolls_back(world: World) -> None:
    async def talkative(scope: Scope, _body: bytes) -> Reply:
        await write(current().session)
        return told(201, "x" * 100)

    app = world.serve(talkative, max_reply=100)

    assert problem(await ask(app)) == (500, "not_done", None)
    with pytest.raises(ReplyTooLargeError, match="larger than 100 bytes"):
        await ask(app, raises=True)
    assert (await world.ledger(), await world.keys()) == ([], [])


async def test_the_session_may_commit_and_roll_back_units_of_its_own(world: World) -> None:
    async def units(scope: Scope, _body: bytes) -> Reply:
        session = current().session
        assert (current().key, current().caller) == ("k-1", "")
        await write(session, "kept")
        await session.commit()
        await write(session, "dropped")
        await session.rollback()
        await write(session, "kept too")
        assert await world.ledger() == [], "nobody else sees it yet"
        return told(201)

    await ask(world.serve(units), raises=True)

    assert await world.ledger() == ["kept", "kept too"]
    with pytest.raises(NoParticipationError):
        current()


async def test_the_transaction_cannot_be_committed_by_the_application(world: World) -> None:
    async def greedy(scope: Scope, _body: bytes) -> Reply:
        session = current().session
        await write(session)
        connection = await session.connection()
        await connection.commit()
        return told(201)

    with pytest.raises(TransactionMisusedError):
        await ask(world.serve(greedy), raises=True)
    assert (await world.ledger(), await world.keys()) == ([], [])


async def test_a_transaction_that_the_application_rolled_back_is_not_committed(
    world: World,
) -> None:
    async def hasty(scope: Scope, _body: bytes) -> Reply:
        session = current().session
        await (await session.connection()).rollback()
        return told(201)

    with pytest.raises(TransactionMisusedError):
        await ask(world.serve(hasty), raises=True)
    assert await world.keys() == []


async def test_an_engine_in_autocommit_is_refused_before_anything_is_done(world: World) -> None:
    engine = world.engine.execution_options(isolation_level="AUTOCOMMIT")

    with pytest.raises(TransactionMisusedError, match="autocommit"):
        await ask(world.serve(database=engine), raises=True)
    assert world.calls == []


async def test_a_missing_table_is_an_error_and_not_a_reason_to_wait(world: World) -> None:
    with pytest.raises(Exception, match="does not exist"):
        await ask(world.serve(schema="nowhere"), raises=True)
    assert world.calls == []


async def test_lifespan_and_websockets_pass_and_an_own_engine_is_disposed_of(
    world: World,
) -> None:
    seen: list[str] = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append(scope["type"])

    middleware = IdempotencyMiddleware(app, world.url)
    async with middleware.engine.connect():
        pass
    pool = middleware.engine.pool

    async def nothing(_message: Message) -> None:
        return None

    await middleware({"type": "websocket", "headers": []}, whole(), nothing)
    assert middleware.engine.pool is pool
    await middleware({"type": "lifespan"}, whole(), nothing)

    assert seen == ["websocket", "lifespan"]
    assert middleware.engine.pool is not pool


async def test_a_url_of_the_old_spelling_is_taken(world: World) -> None:
    url = world.url.replace("postgresql://", "postgres://")
    app = IdempotencyMiddleware(serving(charge), url)

    assert (await ask(app)).status_code == 201
    await app.engine.dispose()


async def test_the_state_of_the_server_is_not_touched_and_shortcuts_are_hidden(
    world: World,
) -> None:
    shared = {"pool": object()}
    seen: dict[str, Any] = {}

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        seen.update(scope)
        await told(200).send(send)

    async def send(_message: Message) -> None:
        return None

    extensions: dict[str, Any] = {
        "tls": {},
        "http.response.pathsend": {},
        "http.response.trailers": {},
    }
    scope = scope_of(state=shared, extensions=extensions)
    await IdempotencyMiddleware(app, world.engine)(scope, whole(), send)

    assert set(shared) == {"pool"}
    assert seen["state"]["pool"] is shared["pool"]
    assert set(seen["extensions"]) == {"tls"}


async def test_two_middlewares_around_each_other_are_one(world: World) -> None:
    """As with a mounted application that brings its own."""
    app = IdempotencyMiddleware(world.serve(), world.engine)

    assert [(await ask(app)).json() for _ in range(2)] == [{"id": 1}] * 2

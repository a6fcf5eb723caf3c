"""Is it applied once, whatever breaks on the way?"""

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from eventsaga.participant import IdempotencyMiddleware, current
from eventsaga.participant.asgi import Message, Receive, Reply, Scope, Send
from eventsaga.store.postgres.connect import sqlalchemy_url
from tests.participants.answers import Held, problem, refusing, verdict
from tests.participants.world import (
    World,
    ask,
    charge,
    scope_of,
    told,
    whole,
    write,
)
from tests.proxy import Loss, Proxy
from tests.store.barriers import PATIENCE, until

_ROOT = Path(__file__).resolve().parents[2]


async def _run_and_die(world: World, moment: str) -> None:
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.participants.dying", world.url, moment, cwd=_ROOT
    )
    assert await asyncio.wait_for(program.wait(), PATIENCE) == -signal.SIGKILL


async def test_a_process_that_is_killed_before_the_commit_has_done_nothing(world: World) -> None:
    await _run_and_die(world, "written")
    # The server notices that its client is dead, and then the key is free.
    await until(world.sql, "SELECT NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory')")

    reply = await ask(world.serve())

    assert reply.status_code == 201
    assert "idempotent-replayed" not in reply.headers
    assert await world.ledger() == ["charge"]


async def test_a_process_that_is_killed_after_the_commit_has_done_it(world: World) -> None:
    await _run_and_die(world, "committed")

    reply = await ask(world.serve())

    assert (reply.json(), reply.headers["idempotent-replayed"]) == ("from the dead", "true")
    assert (await world.ledger(), world.calls) == (["charge"], [])


@pytest.mark.parametrize(("loss", "effects"), [(Loss.ANSWER, 1), (Loss.REQUEST, 0)])
async def test_a_commit_that_is_not_answered_is_in_doubt_until_the_client_comes_again(
    world: World, loss: Loss, effects: int
) -> None:
    async with Proxy(world.url) as proxy:
        app = world.serve(database=proxy.url)
        proxy.arm(loss, "COMMIT")

        unknown = await ask(app)
        ledger = await world.ledger()
        again = await ask(app)
        await app.engine.dispose()

    assert problem(unknown) == (503, "outcome_unknown", None)
    # With a time to wait it would be taken for "not done", and never be compensated.
    assert verdict(unknown).in_doubt
    assert len(ledger) == effects
    assert again.status_code == 201
    assert await world.ledger() == ["charge"]


async def test_a_commit_that_is_never_answered_is_given_up(world: World) -> None:
    async with Proxy(world.url) as proxy:
        app = world.serve(database=proxy.url, timeout=0.5)
        await ask(app, "warm")
        proxy.arm(Loss.SILENCE, "COMMIT")

        unknown = await ask(app)

        await app.engine.dispose()
    assert problem(unknown) == (503, "outcome_unknown", None)
    assert await world.ledger() == ["charge", "charge"]


@pytest.mark.parametrize(
    "statement", ["pg_try_advisory_xact_lock", "FROM participant_keys", "INTO participant_keys"]
)
async def test_a_connection_that_is_cut_before_the_commit_has_done_nothing(
    world: World, statement: str
) -> None:
    async with Proxy(world.url) as proxy:
        app = world.serve(database=proxy.url)
        proxy.arm(Loss.ANSWER, statement)

        not_done = await ask(app)
        ledger = await world.ledger()
        again = await ask(app)
        await app.engine.dispose()

    assert problem(not_done) == (503, "not_done", "1")
    assert not verdict(not_done).in_doubt
    assert ledger == []
    assert again.status_code == 201


async def test_without_a_database_nothing_is_done(world: World) -> None:
    async with Proxy(world.url) as proxy:
        app = world.serve(database=proxy.url)
        await proxy.cut()

        assert problem(await ask(app)) == (503, "not_done", "1")
        await app.engine.dispose()
    assert world.calls == []


async def test_a_pool_without_a_free_connection_is_waited_for_in_vain(world: World) -> None:
    engine = create_async_engine(sqlalchemy_url(world.url), pool_size=1, max_overflow=0)
    app = world.serve(database=engine, timeout=0.2, retry_after=3)

    async with engine.connect():
        reply = await ask(app)
    assert problem(reply) == (503, "not_done", "3")
    assert (await ask(app)).status_code == 201
    await engine.dispose()


@pytest.mark.parametrize(
    "failure",
    [
        "SELECT pg_terminate_backend(pg_backend_pid())",
        "DO $$ BEGIN RAISE EXCEPTION 'deadlock' USING ERRCODE = '40P01'; END $$",
        "DO $$ BEGIN RAISE EXCEPTION 'serialization' USING ERRCODE = '40001'; END $$",
    ],
)
async def test_what_the_database_breaks_off_may_come_again(world: World, failure: str) -> None:
    async def unlucky(scope: Scope, _body: bytes) -> Reply:
        session = current().session
        await write(session)
        if len(world.calls) == 1:
            await session.execute(text(failure))
        return told(201)

    app = world.serve(unlucky)

    assert problem(await ask(app, raises=True)) == (503, "not_done", "1")
    assert await world.ledger() == []
    assert (await ask(app)).status_code == 201
    assert await world.ledger() == ["charge"]


async def test_what_the_driver_says_without_sqlalchemy_is_understood(world: World) -> None:
    async def bare(_scope: Scope, _body: bytes) -> Reply:
        connection = await current().session.connection()
        driver: Any = (await connection.get_raw_connection()).driver_connection
        await driver.execute("INSERT INTO ledger (what) VALUES ('charge')")
        if len(world.calls) == 1:
            await driver.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        return told(201)

    app = world.serve(bare)

    assert problem(await ask(app, raises=True)) == (503, "not_done", "1")
    assert (await ask(app)).status_code == 201
    assert await world.ledger() == ["charge"]


async def test_a_commit_that_the_database_refuses_is_the_applications_bug(world: World) -> None:
    await world.sql.execute(
        "CREATE TABLE parents (id int PRIMARY KEY);"
        "CREATE TABLE children (parent int REFERENCES parents DEFERRABLE INITIALLY DEFERRED)"
    )

    async def orphan(scope: Scope, _body: bytes) -> Reply:
        session = current().session
        await write(session)
        await session.execute(text("INSERT INTO children VALUES (1)"))
        return told(201)

    app = world.serve(orphan)

    assert problem(await ask(app)) == (500, "not_done", None)
    with pytest.raises(Exception, match="foreign key"):
        await ask(app, raises=True)
    assert (await world.ledger(), await world.keys()) == ([], [])


async def test_a_request_that_is_cancelled_frees_its_key_at_once(world: World) -> None:
    held = Held()
    asking = asyncio.create_task(ask(world.serve(held)))
    await held.arrived.acquire()

    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await until(world.sql, "SELECT NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory')")

    assert await world.ledger() == []
    assert (await ask(world.serve())).status_code == 201


async def test_a_client_that_is_gone_when_the_reply_comes_gets_it_next_time(world: World) -> None:
    async def send(_message: Message) -> None:
        raise BrokenPipeError

    app = world.serve()
    await app(scope_of(), whole(), send)

    assert await world.ledger() == ["charge"]
    reply = await ask(app)
    assert (reply.json(), reply.headers["idempotent-replayed"]) == ({"id": 1}, "true")


@pytest.mark.parametrize("status", [201, 402])
async def test_an_application_that_hides_a_lost_connection_is_not_believed(
    world: World, status: int
) -> None:
    """What it wrote is gone; SQLAlchemy would connect again for the next statement."""

    async def stubborn(scope: Scope, _body: bytes) -> Reply:
        session = current().session
        await write(session)
        with pytest.raises(DBAPIError):
            await session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        await session.rollback()
        return told(status)

    reply = await ask(world.serve(stubborn))

    assert reply.status_code == (500 if status == 201 else 402)
    assert await world.ledger() == []
    assert await world.keys() == ([] if status == 201 else ["k-1"])


@pytest.mark.parametrize("statement", ["INTO participant_keys", "COMMIT"])
async def test_a_refusal_that_could_not_be_stored_is_not_told(world: World, statement: str) -> None:
    """Else a request that was held up on its way might not find it."""
    async with Proxy(world.url) as proxy:
        app = world.serve(refusing(402), database=proxy.url)
        proxy.arm(Loss.ANSWER, statement)

        not_done = await ask(app)
        again = await ask(app)
        await app.engine.dispose()

    assert problem(not_done) == (503, "not_done", "1")
    assert (again.status_code, await world.ledger()) == (402, [])


@pytest.mark.parametrize("status", [201, 402])
async def test_a_commit_that_may_succeed_next_time_is_asked_again(
    world: World, status: int
) -> None:
    await world.sql.execute("""
        CREATE FUNCTION unlucky() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'serialization' USING ERRCODE = '40001'; END $$;
        CREATE CONSTRAINT TRIGGER unlucky AFTER INSERT ON participant_keys
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION unlucky()
    """)
    app = world.serve(refusing(402) if status == 402 else charge)

    not_done = await ask(app, raises=True)
    await world.sql.execute("DROP TRIGGER unlucky ON participant_keys")

    assert problem(not_done) == (503, "not_done", "1")
    assert (await world.ledger(), await world.keys()) == ([], [])
    assert (await ask(app)).status_code == status


async def test_a_refusal_that_cannot_be_stored_at_all_is_an_error(world: World) -> None:
    await world.sql.execute("ALTER TABLE participant_keys ADD CHECK (status <> 402)")

    with pytest.raises(Exception, match="check constraint"):
        await ask(world.serve(refusing(402)), raises=True)
    assert (await world.ledger(), await world.keys()) == ([], [])


async def test_what_an_application_sends_after_a_failed_commit_is_not_believed(
    world: World,
) -> None:
    """Whatever swallowed the error: the effect is gone, and a second reply cannot bring it."""
    await world.sql.execute("ALTER TABLE participant_keys ADD CHECK (status <> 201)")

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        await write(current().session)
        with pytest.raises(DBAPIError):
            await told(201).send(send)
        await told(200).send(send)

    reply = await ask(IdempotencyMiddleware(app, world.engine))

    assert problem(reply) == (500, "not_done", None)
    assert (await world.ledger(), await world.keys()) == ([], [])

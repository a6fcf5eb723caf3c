"""Does the barrier let each thing happen once, and none too late? Both ways, on two connections."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from eventsaga.core.definition import StepName
from eventsaga.core.draft import idempotency_key
from eventsaga.core.events import Operation as SagaOperation
from eventsaga.core.state import State
from eventsaga.participant import BadKeyError, Branch, TooLateError, Turn, barrier, create_tables
from eventsaga.participant.branch import Operation, is_undo
from tests.participants.world import SAGA, World, write
from tests.store.barriers import until_blocked

DO = f"{SAGA}/charge"
UNDO = f"{DO}/compensate"


@pytest.fixture
async def session(world: World) -> AsyncIterator[AsyncSession]:
    async with AsyncSession(world.engine) as opened:
        yield opened


@asynccontextmanager
async def committing(world: World) -> AsyncGenerator[AsyncSession]:
    """Open a session of its own connection; commit at the end."""
    async with AsyncSession(world.engine) as opened, opened.begin():
        yield opened


async def passed(world: World, key: str) -> Turn | type[TooLateError]:
    """Do or undo in a transaction of its own, and return what was found."""
    try:
        async with committing(world) as opened, barrier(opened, key) as gate:
            if gate.act:
                await write(opened, gate.branch.operation)
            return gate.turn
    except TooLateError:
        return TooLateError


async def test_what_is_done_is_undone_and_both_once(world: World) -> None:
    found = [await passed(world, key) for key in (DO, DO, UNDO, UNDO)]

    assert found == [Turn.FIRST, Turn.REPEATED, Turn.FIRST, Turn.REPEATED]
    assert await world.ledger() == ["do", "undo"]


async def test_what_is_undone_before_it_was_done_is_not_done_any_more(world: World) -> None:
    found = [await passed(world, key) for key in (UNDO, DO, UNDO, DO)]

    assert found == [Turn.NOTHING, TooLateError, Turn.REPEATED, TooLateError]
    assert await world.ledger() == []


async def test_what_was_done_and_undone_is_not_done_again(world: World) -> None:
    found = [await passed(world, key) for key in (DO, UNDO, DO)]

    assert found == [Turn.FIRST, Turn.FIRST, TooLateError]


async def test_steps_and_sagas_do_not_disturb_each_other(world: World) -> None:
    await passed(world, UNDO)

    others = [await passed(world, key) for key in (f"{SAGA}/ship", f"{uuid4()}/charge")]

    assert others == [Turn.FIRST, Turn.FIRST]


async def test_each_request_of_a_step_is_done_once_and_the_first_undo_refuses_the_rest(
    world: World,
) -> None:
    found = [await passed(world, key) for key in (DO, f"{DO}#2", f"{DO}#2", f"{UNDO}#2", UNDO)]

    assert found == [Turn.FIRST, Turn.FIRST, Turn.REPEATED, Turn.FIRST, Turn.FIRST]
    assert await passed(world, f"{DO}#3") is TooLateError


async def _second_waits(
    world: World, first: str, second: str, ending: str
) -> tuple[Turn, Turn | type[TooLateError]]:
    """Let *second* come while *first* holds the row; PostgreSQL says that it waits."""
    async with AsyncSession(world.engine) as holder:
        async with barrier(holder, first) as gate:
            if gate.act:
                await write(holder, gate.branch.operation)
        waiting = asyncio.create_task(passed(world, second))
        await until_blocked(world.sql, "participant_barriers")
        await (holder.commit() if ending == "commit" else holder.rollback())
    return gate.turn, await waiting


ENDINGS = ("commit", "rollback")
# What the second one finds, if the first one commits and if it rolls back.
INTERLEAVINGS: dict[tuple[str, str], tuple[list[Any], list[Any]]] = {
    (DO, UNDO): ([Turn.FIRST, ["do", "undo"]], [Turn.NOTHING, []]),
    (UNDO, DO): ([TooLateError, []], [Turn.FIRST, ["do"]]),
    (DO, DO): ([Turn.REPEATED, ["do"]], [Turn.FIRST, ["do"]]),
    (UNDO, UNDO): ([Turn.REPEATED, []], [Turn.NOTHING, []]),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("order", INTERLEAVINGS)
async def test_two_that_come_at_once_are_put_in_order(
    world: World, order: tuple[str, str], ending: str
) -> None:
    _, second = await _second_waits(world, *order, ending)

    assert [second, await world.ledger()] == INTERLEAVINGS[order][ENDINGS.index(ending)]


@pytest.mark.parametrize("ending", ENDINGS)
async def test_an_undo_waits_for_a_repeated_do_as_well(world: World, ending: str) -> None:
    """The row is there already: a different path of ON CONFLICT."""
    await passed(world, DO)

    first, second = await _second_waits(world, DO, UNDO, ending)

    assert (first, second) == (Turn.REPEATED, Turn.FIRST)
    assert await world.ledger() == ["do", "undo"]


async def test_many_dos_and_undos_at_once_leave_one_do_and_one_undo_or_none(world: World) -> None:
    found = await asyncio.gather(*(passed(world, key) for key in [DO, UNDO] * 20))

    acted = await world.ledger()
    assert acted in ([], ["do", "undo"])
    assert found.count(Turn.FIRST) == len(acted)
    assert found.count(Turn.NOTHING) == (0 if acted else 1)


async def test_an_exception_in_the_block_takes_the_record_back_with_the_effect(
    session: AsyncSession, world: World
) -> None:
    """Also if it is caught, and the transaction is committed."""
    await write(session, "before")

    async def fail() -> None:
        async with barrier(session, DO):
            await write(session, "broken")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    await session.commit()

    assert await world.ledger() == ["before"]
    assert await passed(world, DO) is Turn.FIRST


async def test_a_refused_do_leaves_the_transaction_usable(
    session: AsyncSession, world: World
) -> None:
    await passed(world, UNDO)

    with pytest.raises(TooLateError) as refused:
        async with barrier(session, DO):
            raise AssertionError("it must not be done")
    await write(session, "refusal")
    await session.commit()

    assert (refused.value.group, refused.value.step) == (SAGA, "charge")
    assert await world.ledger() == ["refusal"]


async def test_a_barrier_by_names_is_the_barrier_by_key(session: AsyncSession) -> None:
    async with barrier(session, DO) as by_key:
        pass
    async with barrier(session, group=SAGA, step="charge", operation="undo") as by_names:
        pass

    assert (by_key.act, by_names.act) == (True, True)
    with pytest.raises(TooLateError):
        async with barrier(session, group=SAGA, step="charge", operation="do", part=2):
            pass


async def test_a_barrier_works_on_a_connection_too(world: World) -> None:
    async with world.engine.begin() as connection, barrier(connection, DO) as gate:
        assert gate.act

    assert await passed(world, DO) is Turn.REPEATED


async def test_a_barrier_in_another_schema(world: World) -> None:
    await create_tables(world.engine, schema="elsewhere")

    async with committing(world) as opened, barrier(opened, DO, schema="elsewhere") as gate:
        assert gate.act

    assert await world.sql.fetchval("SELECT done FROM elsewhere.participant_barriers") == [1]
    assert await passed(world, DO) is Turn.FIRST


async def test_whoever_waited_under_serializable_is_told_to_come_again(world: World) -> None:
    strict = world.engine.execution_options(isolation_level="SERIALIZABLE")
    async with AsyncSession(world.engine) as holder:
        async with barrier(holder, UNDO):
            pass

        async def late() -> None:
            async with AsyncSession(strict) as opened, opened.begin():
                # The snapshot is older than the undo.
                await opened.execute(text("SELECT 1"))
                async with barrier(opened, DO):
                    raise AssertionError("it must not be done")

        waiting = asyncio.create_task(late())
        await until_blocked(world.sql, "participant_barriers")
        await holder.commit()
    with pytest.raises(Exception, match="could not serialize"):
        await waiting


@pytest.mark.parametrize("step", ["charge", "compensate", "items[3]", "a.b-c"])
@pytest.mark.parametrize("part", [1, 2, 17])
def test_the_keys_that_eventsaga_makes_are_understood(step: StepName, part: int) -> None:
    state = State.__new__(State)
    object.__setattr__(state, "saga_id", SAGA)
    directions: dict[Operation, SagaOperation] = {
        "do": SagaOperation.EXECUTE,
        "undo": SagaOperation.COMPENSATE,
    }

    for operation, derived in directions.items():
        key = idempotency_key(state, step, derived) + ("" if part == 1 else f"#{part}")
        assert Branch.of_key(key) == Branch(SAGA, step, operation, part)
        assert is_undo(key) == (operation == "undo")


@pytest.mark.parametrize(
    "key",
    [
        "",
        "order-1",
        "order-1/compensate",
        f"{SAGA}",
        f"{SAGA}/",
        f"{SAGA}/charge/refund",
        f"{SAGA}/charge#0",
        f"{SAGA}/charge\n",
        f"{SAGA}/charge/compensate/compensate",
    ],
)
async def test_a_key_that_eventsaga_did_not_make_is_refused(
    session: AsyncSession, key: str
) -> None:
    """Taken for a do, an undo would do it a second time."""
    with pytest.raises(BadKeyError, match="group, step and operation"):
        async with barrier(session, key):
            pass
    assert not is_undo(key)


async def test_a_barrier_wants_a_key_or_names_and_not_both(session: AsyncSession) -> None:
    wrong: list[dict[str, Any]] = [
        {},
        {"key": DO, "group": SAGA},
        {"group": SAGA, "step": "charge"},
    ]
    for arguments in wrong:
        with pytest.raises(TypeError):
            async with barrier(session, **arguments):
                pass

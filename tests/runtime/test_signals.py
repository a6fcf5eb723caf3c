"""Is a signal heard once, whoever says it, whenever it comes, and whoever dies meanwhile?"""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any, Literal
from uuid import uuid4

import pytest
from pydantic import BaseModel

from eventsaga import (
    IllegalCommandError,
    Orchestrator,
    Parallel,
    PayloadError,
    Saga,
    SagaHandle,
    SagaNotFoundError,
    SagaState,
    Status,
    Step,
    WaitForSignal,
)
from eventsaga.identity import new_id
from tests.runtime.sagas import QUICK, Order, events_of, orchestrating, run_sql, types, until

pytestmark = pytest.mark.usefixtures("sound")

IN_TABLE = replace(QUICK, release_after=timedelta(seconds=0.02))

AWAITED = "SELECT count(*) FROM eventsaga.events WHERE type = 'SignalAwaited'"
RECEIVED = "SELECT count(*) FROM eventsaga.events WHERE type = 'SignalReceived'"
OPEN = "SELECT count(*) FROM eventsaga.inbox WHERE answered_at IS NULL"
EXPIRE = "UPDATE eventsaga.workers SET lease_until = now() - interval '1 s'"
NOBODYS = "SELECT count(*) FROM eventsaga.sagas WHERE owner IS NULL"
OVERDUE = (
    "SELECT bool_and(clock_timestamp() > (data->>'timeout_at')::timestamptz)"
    " FROM eventsaga.events WHERE type = 'SignalAwaited'"
)


class Approval(BaseModel):
    """What a manager says."""

    note: str
    amount: float = 0.0


class _Shop:
    """A saga that asks a manager between two steps."""

    def __init__(self, **options: Any) -> None:
        self.done: list[str] = []
        self.begun = asyncio.Event()
        self.let_go = asyncio.Event()
        self.let_go.set()
        self.steps: list[Any] = [
            self.step("before"),
            WaitForSignal("approval", Approval, **options),
            self.step("after"),
        ]
        self.saga = Saga("order", context=Order, steps=self.steps)

    def step(self, name: str) -> Step:
        async def act(order: Order) -> None:
            self.begun.set()
            await self.let_go.wait()
            self.done.append(f"{name} {order.note}")

        async def undo(_order: Order) -> None:
            self.done.append(f"undo {name}")

        return Step(name, act, compensate=undo)


async def _ended(handle: SagaHandle) -> SagaState[Any]:
    return await handle.result(timeout=10)


YES = {"note": "go ahead", "amount": 3.5}


# -- heard ----------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [QUICK, IN_TABLE], ids=["in-memory", "in-table"])
@pytest.mark.parametrize("payload", [YES, Approval.model_validate(YES)], ids=["dict", "model"])
async def test_the_saga_goes_on_with_what_it_was_told(
    database: str, settings: Any, payload: Any
) -> None:
    shop = _Shop()
    async with orchestrating(database, shop.saga, settings=settings) as orchestrator:
        handle = await orchestrator.start("order", Order())
        await until(database, AWAITED)
        if settings is IN_TABLE:
            await until(database, NOBODYS)
        await orchestrator.signal(handle.id, "approval", payload, actor="grace")
        state = await _ended(handle)
        (received,) = events_of(await handle.history(), "SignalReceived")

    assert (state.status, state.context.note, state.context.amount) == (
        Status.COMPLETED,
        "go ahead",
        3.5,
    )
    assert (received.actor, received.payload) == ("grace", YES)
    assert shop.done == ["before None", "after go ahead"]


async def test_a_signal_from_a_process_without_the_code_is_checked_by_the_worker(
    database: str,
) -> None:
    shop = _Shop()
    async with (
        orchestrating(database, shop.saga) as orchestrator,
        orchestrating(database, worker=False) as stranger,
    ):
        handle = await orchestrator.start("order", Order())
        await until(database, AWAITED)
        await stranger.signal(handle.id, "approval", {"amount": "much"})
        refused = await until(database, "SELECT refused FROM eventsaga.inbox")
        await stranger.signal(handle.id, "approval", YES)
        state = await _ended(handle)

    assert "payload.note" in refused
    assert (state.status, state.context.note) == (Status.COMPLETED, "go ahead")


async def test_a_signal_that_comes_before_the_wait_is_kept(database: str) -> None:
    shop = _Shop()
    shop.let_go.clear()
    async with orchestrating(database, shop.saga) as orchestrator:
        handle = await orchestrator.start("order", Order())
        await shop.begun.wait()
        await orchestrator.signal(handle.id, "approval", YES)
        await until(database, RECEIVED)
        shop.let_go.set()
        state = await _ended(handle)

    assert (state.status, shop.done) == (Status.COMPLETED, ["before None", "after go ahead"])


async def test_a_signal_to_a_saga_that_nobody_has_begun_is_kept(database: str) -> None:
    shop = _Shop()
    async with orchestrating(database, shop.saga, worker=False) as client:
        handle = await client.start("order", Order())
        await client.signal(handle.id, "approval", YES)
        async with orchestrating(database, shop.saga):
            state = await _ended(handle)

    assert (state.status, state.context.note) == (Status.COMPLETED, "go ahead")


# -- once -----------------------------------------------------------------------------------


def _twice(shop: _Shop) -> Saga[Order]:
    again = WaitForSignal("second", Approval, signal="approval", into="data")
    return Saga("order", context=Order, steps=[*shop.steps, again])


@pytest.mark.parametrize("id_", ["mail-17", uuid4()], ids=["text", "uuid"])
async def test_the_same_id_is_taken_once_also_by_another_wait_and_after_a_sweep(
    database: str, id_: Any
) -> None:
    shop = _Shop()
    async with orchestrating(database, _twice(shop)) as orchestrator:
        handle = await orchestrator.start("order", Order())
        await until(database, AWAITED)
        for sender in ("first", "copy"):
            await orchestrator.signal(handle.id, "approval", {"note": sender}, id=id_)
        await until(database, f"SELECT ({AWAITED}) = 2")
        await run_sql(database, "DELETE FROM eventsaga.inbox WHERE answered_at IS NOT NULL")
        await orchestrator.signal(handle.id, "approval", {"note": "late copy"}, id=id_)
        await until(database, f"SELECT ({OPEN}) = 0")
        assert (await handle.state()).status is Status.RUNNING
        await orchestrator.signal(handle.id, "approval", {"note": "another"})
        state = await _ended(handle)

    assert (state.context.note, state.context.data["note"]) == ("first", "another")


async def test_many_senders_of_one_id_are_one(database: str) -> None:
    shop = _Shop()
    async with orchestrating(database, shop.saga) as orchestrator:
        handle = await orchestrator.start("order", Order())
        await asyncio.gather(
            *(
                orchestrator.signal(handle.id, "approval", {"note": f"{number}"}, id="only")
                for number in range(20)
            ),
            return_exceptions=True,
        )
        state = await _ended(handle)
        received = events_of(await handle.history(), "SignalReceived")

    assert (state.status, len(received)) == (Status.COMPLETED, 1)


# -- refused --------------------------------------------------------------------------------


async def test_a_signal_that_makes_no_sense_is_refused_where_it_is_said(database: str) -> None:
    shop = _Shop()
    async with orchestrating(database, shop.saga) as orchestrator:
        handle = await orchestrator.start("order", Order())
        with pytest.raises(IllegalCommandError, match="approval"):
            await orchestrator.signal(handle.id, "approved", YES)
        with pytest.raises(PayloadError, match=r"payload\.note"):
            await orchestrator.signal(handle.id, "approval", {"amount": 1})
        with pytest.raises(SagaNotFoundError):
            await orchestrator.signal(new_id(), "approval", YES)
        await orchestrator.signal(handle.id, "approval", YES)
        await _ended(handle)
        with pytest.raises(IllegalCommandError, match="COMPLETED"):
            await orchestrator.signal(handle.id, "approval", YES)
    assert await until(database, f"SELECT ({RECEIVED}) = 1")


async def test_a_signal_within_a_transaction_that_is_undone_was_never_said(database: str) -> None:
    shop = _Shop()
    async with orchestrating(database, shop.saga) as orchestrator:
        handle = await orchestrator.start("order", Order())
        async with orchestrator.store.connection() as connection:
            transaction = connection.transaction()
            await transaction.start()
            await orchestrator.signal(
                handle.id, "approval", {"note": "undone"}, connection=connection
            )
            await transaction.rollback()
            async with connection.transaction():
                await orchestrator.signal(handle.id, "approval", YES, connection=connection)
        state = await _ended(handle)

    assert state.context.note == "go ahead"


# -- too late -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("on_timeout", "status", "done"),
    [
        ("compensate", Status.COMPENSATED, ["before None", "undo before"]),
        ("continue", Status.COMPLETED, ["before None", "after silence"]),
        ("park", Status.PARKED, ["before None"]),
    ],
)
@pytest.mark.parametrize("settings", [QUICK, IN_TABLE], ids=["in-memory", "in-table"])
async def test_who_is_not_told_in_time_does_what_was_written(
    database: str,
    settings: Any,
    on_timeout: Literal["compensate", "continue", "park"],
    status: Status,
    done: list[str],
) -> None:
    default = {"note": "silence"} if on_timeout == "continue" else None
    shop = _Shop(timeout=0.2, on_timeout=on_timeout, default=default)
    async with orchestrating(database, shop.saga, settings=settings) as orchestrator:
        handle = await orchestrator.start("order", Order())
        state = await _ended(handle)
        early = await until(
            database,
            "SELECT count(*) = 0 FROM eventsaga.events w JOIN eventsaga.events f USING (saga_id)"
            " WHERE w.type = 'SignalAwaited' AND f.type = 'TimerFired'"
            " AND f.recorded_at < (w.data->>'timeout_at')::timestamptz",
        )

    assert early
    assert (state.status, shop.done) == (status, done)


async def test_a_parked_wait_takes_what_came_late_when_it_is_retried(database: str) -> None:
    shop = _Shop(timeout=0.05, on_timeout="park")
    async with orchestrating(database, shop.saga) as orchestrator:
        handle = await orchestrator.start("order", Order())
        assert (await _ended(handle)).status is Status.PARKED
        await orchestrator.signal(handle.id, "approval", YES)
        await until(database, RECEIVED)
        assert await orchestrator.retry(handle.id, actor="ann", reason="it came")
        state = await _ended(handle)

    assert (state.status, state.context.note) == (Status.COMPLETED, "go ahead")


async def test_a_signal_that_was_durable_in_time_counts_though_nobody_was_there(
    database: str,
) -> None:
    """It lies in the inbox, and the time is over, when a worker comes."""
    shop = _Shop(timeout=0.3)
    async with orchestrating(database, shop.saga, settings=IN_TABLE) as orchestrator:
        handle = await orchestrator.start("order", Order())
        await until(database, AWAITED)
        await until(database, NOBODYS)
    async with orchestrating(database, shop.saga, worker=False) as client:
        await client.signal(handle.id, "approval", YES)
        await until(database, OVERDUE)
        async with orchestrating(database, shop.saga) as orchestrator:
            state = await orchestrator.wait(handle.id, timeout=10)

    assert (state.status, state.context.note) == (Status.COMPLETED, "go ahead")


async def test_a_signal_that_lies_in_the_inbox_comes_before_the_timer_of_its_owner(
    database: str,
) -> None:
    """The owner holds the saga, and has not looked at its mail when the time is over."""
    deaf = replace(QUICK, poll=timedelta(seconds=30))
    shop = _Shop(timeout=1.0)
    async with Orchestrator(database, sagas=[shop.saga], settings=deaf) as orchestrator:
        handle = await orchestrator.start("order", Order())
        await until(database, AWAITED)
        async with orchestrating(database, worker=False) as client:
            await client.signal(handle.id, "approval", YES)
        state = await _ended(handle)

    assert (state.status, state.context.note) == (Status.COMPLETED, "go ahead")


# -- whoever dies ---------------------------------------------------------------------------


async def test_what_one_owner_was_told_is_known_to_the_next(database: str) -> None:
    shop = _Shop()
    shop.let_go.clear()
    first = Orchestrator(database, sagas=[shop.saga], settings=QUICK)
    async with first, orchestrating(database, shop.saga) as other:
        handle = await first.start("order", Order())
        await shop.begun.wait()
        await other.signal(handle.id, "approval", YES)
        await until(database, RECEIVED)
        await run_sql(database, EXPIRE)
        shop.let_go.set()
        state = await other.wait(handle.id, timeout=15)
        events = await types(handle)

    assert (state.status, events.count("SignalReceived")) == (Status.COMPLETED, 1)


async def test_two_branches_wait_for_two_signals_in_any_order(database: str) -> None:
    left = WaitForSignal("left", into="note", model=None)
    right = WaitForSignal("right", into="data")
    saga = Saga("both", context=Order, steps=[Parallel("both", [left, right])])
    async with orchestrating(database, saga, settings=IN_TABLE) as orchestrator:
        handle = await orchestrator.start("both", Order())
        await until(database, f"SELECT ({AWAITED}) = 2")
        await orchestrator.signal(handle.id, "right", {"x": 1})
        await until(database, RECEIVED)
        with pytest.raises(IllegalCommandError, match="left, right"):
            await orchestrator.signal(handle.id, "middle")
        assert (await handle.state()).status is Status.RUNNING
        assert await handle.cancel("enough")
        state = await _ended(handle)

    assert state.status is Status.COMPENSATED

"""Is there no way back after the pivot, and always one before it?"""

import asyncio
from typing import Any

import pytest

from eventsaga import IllegalCommandError, PermanentError, Retry, Saga, SagaHandle, Status, Step
from tests.runtime.sagas import (
    ONCE,
    SOON,
    Order,
    events_of,
    nothing,
    orchestrating,
    run_sql,
    types,
    until,
)

pytestmark = pytest.mark.usefixtures("sound")

SLOW_RETRY = Retry(max_attempts=5, delay=3600, max_delay=3600)
ASLEEP = "SELECT count(*) FROM eventsaga.sagas WHERE owner IS NULL AND wake_at > now()"


class _Shop:
    """Steps that can be held or fail, and what was undone."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.let_go = asyncio.Event()
        self.fails = 0
        self.ran: list[str] = []
        self.undone: list[str] = []

    async def hold(self, _order: Order) -> None:
        self.begun.set()
        await self.let_go.wait()

    async def fail(self, _order: Order) -> None:
        self.ran.append("fail")
        if self.fails:
            self.fails -= 1
            raise ValueError("the shop is closed")

    def undo(self, name: str) -> Any:
        async def undo(_order: Order) -> None:
            self.undone.append(name)

        return undo

    def saga(self, *, first: Any = nothing, pivot: Any = nothing, tail: Any = nothing) -> Saga[Any]:
        return Saga(
            "shop",
            context=Order,
            steps=[
                Step("reserve", first, compensate=self.undo("reserve"), retry=ONCE),
                Step("pay", pivot, pivot=True, retry=SOON, timeout=5),
                Step("ship", tail, compensate=self.undo("ship"), retry=SOON),
            ],
        )


async def _refused(handle: SagaHandle) -> IllegalCommandError:
    with pytest.raises(IllegalCommandError) as refused:
        await handle.cancel("changed my mind")
    return refused.value


async def test_a_cancel_before_the_pivot_compensates(database: str) -> None:
    shop = _Shop()
    async with orchestrating(database, shop.saga(first=shop.hold)) as orchestrator:
        handle = await orchestrator.start("shop", Order())
        await shop.begun.wait()
        assert await handle.cancel("changed my mind", actor="ann")
        shop.let_go.set()
        state = await handle.result(timeout=10)
        (asked,) = events_of(await handle.history(), "SagaCancelRequested")
        names = await types(handle)

    assert (state.status, shop.undone) == (Status.COMPENSATED, ["reserve"])
    assert (asked.reason, asked.actor) == ("changed my mind", "ann")
    assert names.count("StepStarted") == 1


async def test_a_cancel_while_the_pivot_is_under_way_is_refused(database: str) -> None:
    shop = _Shop()
    async with orchestrating(database, shop.saga(pivot=shop.hold)) as orchestrator:
        handle = await orchestrator.start("shop", Order())
        await shop.begun.wait()
        refused = await _refused(handle)
        shop.let_go.set()
        state = await handle.result(timeout=10)
        names = await types(handle)

    assert "its pivot 'pay' is under way or in doubt" in str(refused)
    assert refused.legal == ()
    assert (state.status, shop.undone) == (Status.COMPLETED, [])
    assert "SagaCancelRequested" not in names


async def test_a_cancel_that_finds_the_pivot_under_way_is_refused_by_the_owner(
    database: str,
) -> None:
    """Left in the inbox by somebody who did not look first."""
    shop = _Shop()
    async with orchestrating(database, shop.saga(pivot=shop.hold)) as orchestrator:
        handle = await orchestrator.start("shop", Order())
        await shop.begun.wait()
        await run_sql(
            database,
            "INSERT INTO eventsaga.inbox (saga_id, id, kind, data, actor)"  # noqa: S608
            f" VALUES ('{handle.id}', gen_random_uuid(), 'cancel', '{{}}', 'psql')",
        )
        refused = await until(database, "SELECT refused FROM eventsaga.inbox")
        shop.let_go.set()
        state = await handle.result(timeout=10)

    assert refused.startswith("cannot cancel: its pivot 'pay' is under way or in doubt")
    assert state.status is Status.COMPLETED


async def test_a_cancel_after_the_pivot_is_refused(database: str) -> None:
    shop = _Shop()
    async with orchestrating(database, shop.saga(tail=shop.hold)) as orchestrator:
        handle = await orchestrator.start("shop", Order())
        await shop.begun.wait()
        refused = await _refused(handle)
        explained = await orchestrator.explain(handle.id)
        shop.let_go.set()
        state = await handle.result(timeout=10)

    assert "it has passed its pivot 'pay', there is no way back" in str(refused)
    assert "it has passed its pivot pay: it can only go forward" in explained.why
    assert (state.status, shop.undone) == (Status.COMPLETED, [])


async def test_a_pivot_that_fails_for_good_leaves_the_way_back_open(database: str) -> None:
    shop = _Shop()

    async def decline(_order: Order) -> None:
        raise PermanentError("declined")

    async with orchestrating(database, shop.saga(pivot=decline)) as orchestrator:
        state = await (await orchestrator.start("shop", Order())).result(timeout=10)

    assert (state.status, shop.undone) == (Status.COMPENSATED, ["reserve"])


async def test_a_cancel_between_two_attempts_of_a_failed_pivot_compensates(database: str) -> None:
    """A definite failure leaves no doubt, so its wait for another attempt is no shield."""
    shop = _Shop()
    shop.fails = 1
    saga = Saga(
        "shop",
        context=Order,
        steps=[
            Step("reserve", nothing, compensate=shop.undo("reserve")),
            Step("pay", shop.fail, pivot=True, retry=SLOW_RETRY),
        ],
    )
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("shop", Order())
        await until(database, ASLEEP)
        assert await handle.cancel("changed my mind")
        state = await handle.result(timeout=10)

    assert (state.status, shop.undone) == (Status.COMPENSATED, ["reserve"])


async def test_a_pivot_in_doubt_that_waits_to_be_sent_again_holds_off_a_cancel(
    database: str,
) -> None:
    async def unsure(_order: Order) -> None:
        raise TimeoutError("no answer")

    saga = Saga(
        "shop",
        context=Order,
        steps=[Step("pay", unsure, pivot=True, retry=SLOW_RETRY)],
        deadline=60,
    )
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("shop", Order())
        await until(database, ASLEEP)
        refused = await _refused(handle)

    assert "its pivot 'pay' is under way or in doubt" in str(refused)


@pytest.mark.parametrize(
    ("resolution", "status"),
    [("succeeded", Status.COMPLETED), ("failed", Status.COMPENSATED)],
)
async def test_a_pivot_that_stays_in_doubt_waits_for_a_person(
    database: str, resolution: Any, status: Status
) -> None:
    """Neither forward nor back: only the other side knows."""
    shop = _Shop()

    async def unsure(_order: Order) -> None:
        raise TimeoutError("no answer")

    async with orchestrating(database, shop.saga(pivot=unsure)) as orchestrator:
        handle = await orchestrator.start("shop", Order())
        parked = await handle.result(timeout=10)
        refused = await _refused(handle)
        assert await orchestrator.resolve(
            handle.id, "pay", resolution, reason="asked the bank", actor="ann"
        )
        state = await handle.result(timeout=10)

    assert (parked.status, parked.in_doubt_steps) == (Status.PARKED, ("pay",))
    assert refused.legal == (
        "retry",
        "retry pay",
        "resolve pay succeeded",
        "resolve pay failed",
        "abandon",
    )
    assert state.status is status
    assert shop.undone == ([] if status is Status.COMPLETED else ["reserve"])


def _with_deadline(shop: _Shop, **held: Any) -> Saga[Any]:
    saga = shop.saga(**held)
    return Saga(
        "shop",
        context=Order,
        steps=[
            Step("reserve", held.get("first", nothing), compensate=shop.undo("reserve")),
            Step("pay", held.get("pivot", nothing), pivot=True),
            Step("ship", held.get("tail", nothing), compensate=shop.undo("ship")),
        ],
        deadline=0.5,
        version=saga.definition.version,
    )


_PAST_DEADLINE = (
    "SELECT count(*) FROM eventsaga.events WHERE type = 'SagaStarted'"
    " AND now() > (data->>'deadline_at')::timestamptz + interval '0.3 s'"
)


async def test_a_deadline_before_the_pivot_compensates(database: str) -> None:
    shop = _Shop()
    async with orchestrating(database, _with_deadline(shop, first=shop.hold)) as orchestrator:
        handle = await orchestrator.start("shop", Order())
        await until(
            database, "SELECT count(*) FROM eventsaga.events WHERE type = 'SagaDeadlineExceeded'"
        )
        shop.let_go.set()
        state = await handle.result(timeout=10)

    assert (state.status, shop.undone) == (Status.COMPENSATED, ["reserve"])


@pytest.mark.parametrize("held", ["pivot", "tail"])
async def test_a_deadline_that_meets_the_pivot_or_its_tail_turns_nothing_back(
    database: str, held: str
) -> None:
    shop = _Shop()
    async with orchestrating(database, _with_deadline(shop, **{held: shop.hold})) as orchestrator:
        handle = await orchestrator.start("shop", Order())
        await shop.begun.wait()
        await until(database, _PAST_DEADLINE)
        shop.let_go.set()
        state = await handle.result(timeout=10)
        names = await types(handle)

    assert (state.status, shop.undone) == (Status.COMPLETED, [])
    assert "SagaDeadlineExceeded" not in names


async def test_a_deadline_is_met_as_soon_as_the_pivot_has_failed(database: str) -> None:
    shop = _Shop()

    async def held_then_fails(order: Order) -> None:
        await shop.hold(order)
        raise ValueError("later")

    async with orchestrating(database, _with_deadline(shop, pivot=held_then_fails)) as orchestrator:
        handle = await orchestrator.start("shop", Order())
        await shop.begun.wait()
        await until(database, _PAST_DEADLINE)
        shop.let_go.set()
        state = await handle.result(timeout=10)
        names = await types(handle)

    assert (state.status, shop.undone) == (Status.COMPENSATED, ["reserve"])
    assert "SagaDeadlineExceeded" in names


async def test_a_tail_that_fails_is_parked_and_completes_by_retry(database: str) -> None:
    shop = _Shop()
    shop.fails = 3
    async with orchestrating(database, shop.saga(tail=shop.fail)) as orchestrator:
        handle = await orchestrator.start("shop", Order())
        parked = await handle.result(timeout=10)
        (event,) = events_of(await handle.history(), "SagaParked")
        legal = (await orchestrator.explain(handle.id)).legal
        refused = await _refused(handle)
        assert await orchestrator.retry(handle.id, reason="it is open again", actor="ann")
        state = await handle.result(timeout=10)
        names = await types(handle)

    assert parked.status is Status.PARKED
    assert parked.error is not None
    assert "the shop is closed" in parked.error.message
    assert (event.steps, event.reason) == (("ship",), "retries_exhausted")
    assert "there is no way back" in event.remedy
    assert legal == ("retry", "retry ship", "resolve ship succeeded", "skip ship", "abandon")
    assert refused.legal == legal
    assert (state.status, shop.ran, shop.undone) == (Status.COMPLETED, ["fail"] * 4, [])
    assert "CompensationStarted" not in names


async def test_a_tail_that_is_declined_is_parked_too(database: str) -> None:
    shop = _Shop()

    async def decline(_order: Order) -> None:
        raise PermanentError("no such address")

    async with orchestrating(database, shop.saga(tail=decline)) as orchestrator:
        handle = await orchestrator.start("shop", Order())
        state = await handle.result(timeout=10)

    assert (state.status, shop.undone) == (Status.PARKED, [])


async def test_undo_is_refused_after_the_pivot_and_done_without_one(database: str) -> None:
    shop = _Shop()
    plain = Saga(
        "plain",
        context=Order,
        steps=[Step("reserve", nothing, compensate=shop.undo("reserve")), Step("ship", nothing)],
    )
    async with orchestrating(database, shop.saga(), plain) as orchestrator:
        pivotal = await orchestrator.start("shop", Order())
        undoable = await orchestrator.start("plain", Order())
        await pivotal.result(timeout=10)
        await undoable.result(timeout=10)
        with pytest.raises(IllegalCommandError, match="it has passed its pivot 'pay'") as refused:
            await orchestrator.undo(pivotal.id, reason="returned", actor="ann")
        assert await orchestrator.undo(undoable.id, reason="returned", actor="ann")
        state = await undoable.result(timeout=10)
        kept = await pivotal.state()
        (asked,) = events_of(await undoable.history(), "UndoRequested")

    assert refused.value.legal == ()
    assert kept.status is Status.COMPLETED
    assert (state.status, shop.undone) == (Status.COMPENSATED, ["reserve"])
    assert (asked.actor, asked.reason) == ("ann", "returned")

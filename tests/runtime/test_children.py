"""Is a child started once, waited for without holding anything, and undone with its parent?"""

import asyncio
import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from eventsaga import (
    ChildSaga,
    IllegalCommandError,
    Orchestrator,
    Parallel,
    PermanentError,
    Saga,
    Sleep,
    Status,
    Step,
    StepContext,
    WaitForSignal,
)
from eventsaga.core.draft import child_id
from eventsaga.identity import new_id
from eventsaga.runtime.worker import Worker
from eventsaga.store.ports import Message
from eventsaga.store.postgres.store import PostgresStore
from tests.acceptance.cli.console import Console
from tests.runtime.sagas import (
    ONCE,
    Order,
    events_of,
    nothing,
    orchestrating,
    run_sql,
    types,
    until,
)

pytestmark = pytest.mark.usefixtures("sound")

WHO: dict[str, Any] = {"actor": "ann", "reason": "called the shop"}
DECLINED = PermanentError("declined")
EXPIRE = "UPDATE eventsaga.workers SET lease_until = now() - interval '1 s'"
ALONE = "SELECT owner IS NULL AND wake_at > now() + '1 h' FROM eventsaga.sagas WHERE saga_id = $1"
STATUS = "SELECT status = $2 FROM eventsaga.sagas WHERE saga_id = $1"
HAS_EVENT = "SELECT count(*) FROM eventsaga.events WHERE saga_id = $1 AND type = $2"
ANY_EVENT = "SELECT count(*) FROM eventsaga.events WHERE type = $1"


class Payment(BaseModel):
    """Context of a child."""

    amount: float
    receipt: str | None = None
    fee: Any = None


def _payment(order: Order) -> Payment:
    return Payment(amount=order.amount or 0)


class _Shop:
    """Steps of parents and children that can be held or fail, and what they did.

    Attributes:
        done: Effects and compensations, in the order in which they ended.
        ran: How often each was begun.
        begun: Set when a step runs, by its name.
        let_go: To be set for a step that is held, by its name.
        mended: Steps that fail no longer.
    """

    def __init__(self) -> None:
        self.done: list[str] = []
        self.ran: Counter[str] = Counter()
        self.begun: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.let_go: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.mended: set[str] = set()

    def act(
        self,
        name: str,
        result: dict[str, Any] | None = None,
        *,
        held: bool = False,
        error: Exception | None = None,
    ) -> Callable[..., Any]:
        async def act(_context: BaseModel) -> dict[str, Any] | None:
            self.ran[name] += 1
            self.begun[name].set()
            if held:
                await self.let_go[name].wait()
            if error is not None and name not in self.mended:
                raise error
            self.done.append(name)
            return result

        return act

    def step(
        self,
        name: str,
        result: dict[str, Any] | None = None,
        *,
        held: bool = False,
        error: Exception | None = None,
        **options: Any,
    ) -> Step:
        usual: dict[str, Any] = {"compensate": self.act(f"undo {name}"), "retry": ONCE}
        return Step(name, self.act(name, result, held=held, error=error), **(usual | options))

    def pay(self, *steps: Any, name: str = "pay", **options: Any) -> ChildSaga:
        """Return a child that is a step called *name*."""
        usual: dict[str, Any] = {"into": "data"}
        return ChildSaga(name, _child(*steps), _payment, **(usual | options))


def _child(*steps: Any) -> Saga[Payment]:
    return Saga("payment", context=Payment, steps=steps)


def _parent(*steps: Any, **options: Any) -> Saga[Order]:
    return Saga("parent", context=Order, steps=steps, **options)


async def _the_child(orchestrator: Orchestrator, parent: UUID) -> UUID:
    (child,) = await orchestrator.store.children(parent)
    return child.saga_id


# -- forward --------------------------------------------------------------------------------


async def test_a_child_is_a_saga_of_its_own_and_gives_its_context(database: str) -> None:
    shop = _Shop()
    saga = _parent(
        shop.step("a"), shop.pay(shop.step("charge", {"receipt": "r-1"})), shop.step("b")
    )
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("parent", Order(amount=5), correlation_id="c-1")
        state = await handle.result(timeout=10)
        (started,) = events_of(await handle.history(), "ChildStarted")
        (ended,) = events_of(await handle.history(), "ChildEnded")
        child = await orchestrator.get(started.child_id)
        (begun,) = events_of(await orchestrator.history(child.saga_id), "SagaStarted")

    assert (state.status, shop.done) == (Status.COMPLETED, ["a", "charge", "b"])
    assert state.completed_steps == ("a", "pay", "b")
    assert state.context.data == {"amount": 5.0, "receipt": "r-1", "fee": None}
    assert (started.saga_name, started.version, started.context["amount"]) == ("payment", 1, 5.0)
    assert (ended.child_id, ended.status) == (child.saga_id, "COMPLETED")
    assert (child.status, child.context) == (Status.COMPLETED, Payment(amount=5, receipt="r-1"))
    assert (begun.parent_id, begun.parent_step) == (handle.id, "pay")
    assert (child.correlation_id, begun.context["amount"]) == ("c-1", 5.0)


async def test_the_id_of_a_child_follows_from_its_parent_and_its_step(database: str) -> None:
    payment = _child(Step("x", nothing))
    twice = _parent(ChildSaga("pay", payment, _payment), ChildSaga("tip", payment, _payment))
    ids: set[UUID] = set()
    async with orchestrating(database, twice) as orchestrator:
        for handle in [await orchestrator.start("parent", Order()) for _ in range(2)]:
            await handle.result(timeout=10)
            children = await orchestrator.store.children(handle.id)
            assert {child.parent_step: child.saga_id for child in children} == {
                "pay": child_id(handle.id, "pay", 1),
                "tip": child_id(handle.id, "tip", 1),
            }
            ids.update(child.saga_id for child in children)

    assert len(ids) == 4


@pytest.mark.parametrize(
    ("name", "into", "expected"),
    [("data", None, 7.0), ("pay", "data", 7.0), ("pay", None, None)],
    ids=["its-name", "into", "nowhere"],
)
async def test_where_the_context_of_a_child_goes(
    database: str, name: str, into: str | None, expected: float | None
) -> None:
    shop = _Shop()
    saga = _parent(shop.pay(shop.step("charge"), name=name, into=into))
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("parent", Order(amount=7))
        state = await handle.result(timeout=10)

    assert state.status is Status.COMPLETED
    assert (state.context.data and state.context.data["amount"]) == expected


async def test_a_parent_is_in_nobodys_memory_while_its_child_waits(database: str) -> None:
    shop = _Shop()
    saga = _parent(shop.pay(shop.step("x"), WaitForSignal("ok", into="fee")), shop.step("last"))
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("parent", Order())
        await until(database, ANY_EVENT, "SignalAwaited")
        child = await _the_child(orchestrator, handle.id)
        await until(database, ALONE, handle.id)
        await until(database, ALONE, child)
        explained = await orchestrator.explain(handle.id)
        waits = await handle.state()
    async with orchestrating(database, saga) as other:
        await other.signal(child, "ok", {"percent": 2})
        state = await other.wait(handle.id, timeout=10)

    assert explained.why == ("pay is a child saga that has not ended (attempt 1)",)
    assert (waits.status, waits.current_steps) == (Status.RUNNING, ("pay",))
    assert (state.status, shop.done) == (Status.COMPLETED, ["x", "last"])
    assert state.context.data["fee"] == {"percent": 2}


async def test_a_child_that_sleeps_wakes_by_itself_and_its_parent_goes_on(database: str) -> None:
    shop = _Shop()
    saga = _parent(shop.pay(Sleep("nap", 0.3), shop.step("x")), shop.step("last"))
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("parent", Order())
        await until(database, ALONE, handle.id)
        state = await handle.result(timeout=10)

    assert (state.status, shop.done) == (Status.COMPLETED, ["x", "last"])


@pytest.mark.parametrize("exists", [False, True])
async def test_a_child_is_started_once_though_the_parents_worker_dies_over_it(
    database: str,
    monkeypatch: pytest.MonkeyPatch,
    exists: bool,  # noqa: FBT001
) -> None:
    """Between its intent and its start, or between its start and knowing of it."""
    shop, reached = _Shop(), asyncio.Event()
    start = Worker.start_child

    async def dies(self: Worker, *arguments: Any) -> None:
        if exists:
            await start(self, *arguments)
        reached.set()
        await asyncio.Event().wait()

    saga = _parent(shop.pay(shop.step("charge", held=True)), shop.step("last"))
    async with orchestrating(database, saga) as dead:
        monkeypatch.setattr(Worker, "start_child", dies)
        handle = await dead.start("parent", Order())
        await reached.wait()
        assert len(await dead.store.children(handle.id)) == exists
        if exists:
            await shop.begun["charge"].wait()
        await dead.vanish()
    monkeypatch.undo()
    await run_sql(database, EXPIRE)
    shop.let_go["charge"].set()
    async with orchestrating(database, saga) as orchestrator:
        state = await orchestrator.wait(handle.id, timeout=10)
        history = await orchestrator.history(handle.id)
        child = await _the_child(orchestrator, handle.id)
        names = Counter(stored.type for stored in await orchestrator.history(child))

    assert (state.status, shop.done) == (Status.COMPLETED, ["charge", "last"])
    assert len(events_of(history, "ChildStarted")) == 1
    assert (names["SagaStarted"], names["StepSucceeded"]) == (1, 1)


async def test_a_child_that_ends_while_nobody_runs_its_parent_is_not_forgotten(
    database: str,
) -> None:
    """Its end is left in the inbox, in the transaction in which it ends."""
    shop = _Shop()
    pay = shop.pay(WaitForSignal("ok", into="fee"))
    saga = _parent(pay, shop.step("last"))
    async with orchestrating(database, saga) as first:
        handle = await first.start("parent", Order())
        await until(database, ANY_EVENT, "SignalAwaited")
        child = await _the_child(first, handle.id)
    async with orchestrating(database, pay.saga) as only_children:
        await only_children.signal(child, "ok")
        ended = await only_children.wait(child, timeout=10)
        parent = await only_children.store.get(handle.id)
        told = await until(
            database, "SELECT actor FROM eventsaga.inbox WHERE saga_id = $1", handle.id
        )
    async with orchestrating(database, saga) as second:
        state = await second.wait(handle.id, timeout=10)

    assert (ended.status, told) == (Status.COMPLETED, f"saga {child}")
    assert parent is not None
    assert parent.status is Status.RUNNING
    assert (state.status, shop.done) == (Status.COMPLETED, ["last"])


async def test_a_parent_is_not_taken_again_while_it_is_being_given_up(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the release takes it from whoever has it by then, and nobody ever looks at it."""
    shop = _Shop()
    leaving, leave, left, looked = (asyncio.Event() for _ in range(4))
    give_up, load_owned = PostgresStore.give_up, PostgresStore.load_owned

    async def late(self: PostgresStore, *arguments: Any) -> None:
        leaving.set()
        await leave.wait()
        await give_up(self, *arguments)
        left.set()

    async def look(self: PostgresStore, *arguments: Any) -> Any:
        found = await load_owned(self, *arguments)
        if leaving.is_set():
            looked.set()
        return found

    monkeypatch.setattr(PostgresStore, "give_up", late)
    monkeypatch.setattr(PostgresStore, "load_owned", look)
    saga = _parent(shop.pay(shop.step("charge")), shop.step("last", held=True))
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("parent", Order())
        await leaving.wait()
        await until(database, STATUS, child_id(handle.id, "pay", 1), "COMPLETED")
        assert orchestrator._worker is not None
        orchestrator._worker._claim_in_doubt = True
        await looked.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.3):
                await shop.begun["last"].wait()
        leave.set()
        await left.wait()
        shop.let_go["last"].set()
        state = await handle.result(timeout=2)

    assert (state.status, shop.done) == (Status.COMPLETED, ["charge", "last"])


# -- lineage --------------------------------------------------------------------------------


async def test_parents_and_children_are_linked_in_the_table_and_shown(
    database: str,
) -> None:
    shop, console = _Shop(), Console(database)
    saga = _parent(shop.pay(shop.step("charge")))
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("parent", Order())
        await handle.result(timeout=10)
        row = await orchestrator.store.get(child_id(handle.id, "pay", 1))

    assert row is not None
    assert (row.parent_id, row.parent_step) == (handle.id, "pay")
    link = "SELECT parent_id IS NULL AND parent_step IS NULL FROM eventsaga.sagas WHERE saga_id=$1"
    assert await until(database, link, handle.id)
    # In a thread, because the command has an event loop of its own.
    shown = await asyncio.to_thread(console.json, "show", str(handle.id))
    kid = await asyncio.to_thread(console.json, "show", str(row.saga_id))
    assert shown["parent"] is None
    assert shown["children"] == [
        {"saga_id": str(row.saga_id), "step": "pay", "name": "payment", "status": "COMPLETED"}
    ]
    assert kid["parent"] == {"saga_id": str(handle.id), "step": "pay"}
    assert kid["children"] == []


# -- a child that does not complete ---------------------------------------------------------


async def test_a_child_that_was_compensated_fails_its_step_and_turns_the_parent_back(
    database: str,
) -> None:
    shop = _Shop()
    pay = shop.pay(shop.step("hold"), shop.step("charge", error=DECLINED))
    saga = _parent(shop.step("a"), pay, shop.step("never"))
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("parent", Order())
        state = await handle.result(timeout=10)
        history = await handle.history()
        child = await orchestrator.get(await _the_child(orchestrator, handle.id))

    (ended,) = events_of(history, "ChildEnded")
    (failed,) = events_of(history, "StepFailed")
    assert (ended.status, ended.message) == ("COMPENSATED", "declined")
    assert (failed.step, failed.error_type) == ("pay", "ChildFailed")
    assert (state.status, child.status) == (Status.COMPENSATED, Status.COMPENSATED)
    assert state.error is not None
    assert (state.error.step_name, state.error.message) == (
        "pay",
        "child saga is COMPENSATED: declined",
    )
    assert shop.done == ["a", "hold", "undo hold", "undo a"]
    # It has undone itself, and is not asked to do so again.
    assert [event.step for event in events_of(history, "StepCompensationStarted")] == ["a"]


def _parked_child(shop: _Shop) -> ChildSaga:
    unsure = shop.step("charge", error=TimeoutError("no answer"), on_doubt="park")
    return shop.pay(shop.step("hold"), unsure)


async def test_a_parent_waits_for_a_parked_child_until_a_person_helped_it(database: str) -> None:
    shop = _Shop()
    saga = _parent(shop.step("a"), _parked_child(shop), shop.step("last"))
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("parent", Order())
        await until(database, ANY_EVENT, "SagaParked")
        child = await _the_child(orchestrator, handle.id)
        await until(database, ALONE, handle.id)
        waits, explained = await handle.state(), await orchestrator.explain(handle.id)
        assert await orchestrator.resolve(
            child, "charge", "succeeded", result={"receipt": "r-9"}, **WHO
        )
        state = await handle.result(timeout=10)

    assert (waits.status, waits.current_steps) == (Status.RUNNING, ("pay",))
    assert explained.why == ("pay is a child saga that has not ended (attempt 1)",)
    assert (state.status, shop.done) == (Status.COMPLETED, ["a", "hold", "last"])
    assert state.context.data["receipt"] == "r-9"


async def test_a_child_that_was_given_up_fails_its_step_and_is_not_taken_for_undone(
    database: str,
) -> None:
    shop = _Shop()
    saga = _parent(shop.step("a"), _parked_child(shop), shop.step("never"))
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("parent", Order())
        await until(database, ANY_EVENT, "SagaParked")
        child = await _the_child(orchestrator, handle.id)
        assert await orchestrator.abandon(child, **WHO)
        parked = await handle.result(timeout=10)
        assert await orchestrator.resolve(handle.id, "pay", "compensated", **WHO)
        state = await handle.result(timeout=10)
        (ended,) = events_of(await handle.history(), "ChildEnded")
        left = events_of(await orchestrator.history(child), "SagaFailed")

    assert [event.uncompensated for event in left] == [("hold", "charge")]
    assert (parked.status, parked.in_doubt_steps) == (Status.PARKED, ("pay",))
    assert (ended.status, state.status) == ("FAILED", Status.COMPENSATED)
    assert state.error is not None
    assert state.error.message.startswith("child saga is FAILED")
    assert shop.done == ["a", "hold", "undo a"]


async def test_a_child_that_fails_after_the_pivot_parks_and_another_one_is_started(
    database: str,
) -> None:
    """Whether there is to be one was asked before the first, and is not asked again."""
    shop, answers = _Shop(), [False, True]

    def is_wanted(_order: Order) -> bool:
        return answers.pop()

    pay = shop.pay(shop.step("charge", error=DECLINED), when=is_wanted)
    saga = _parent(shop.step("sold", pivot=True, compensate=None), pay)
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("parent", Order())
        parked = await handle.result(timeout=10)
        shop.mended.add("charge")
        assert await orchestrator.retry(handle.id, **WHO)
        state = await handle.result(timeout=10)
        children = await orchestrator.store.children(handle.id)

    assert (parked.status, state.status) == (Status.PARKED, Status.COMPLETED)
    assert {child.saga_id: child.status for child in children} == {
        child_id(handle.id, "pay", 1): Status.COMPENSATED,
        child_id(handle.id, "pay", 2): Status.COMPLETED,
    }


def _raises(_order: Order) -> Payment:
    raise KeyError("no amount")


_NO_INPUT: dict[str, tuple[Callable[[Order], Any], str]] = {
    "raises": (_raises, "KeyError"),
    "wrong-type": (lambda _: {"amount": "much"}, "PayloadError"),
    "missing": (lambda _: {}, "PayloadError"),
    "other-model": (lambda order: order, "PayloadError"),
    "none": (lambda _: None, "PayloadError"),
}


@pytest.mark.parametrize(("context", "error_type"), _NO_INPUT.values(), ids=_NO_INPUT.keys())
async def test_a_child_without_an_input_fails_its_step_before_it_was_begun(
    database: str, context: Any, error_type: str
) -> None:
    shop = _Shop()
    saga = _parent(shop.step("a"), ChildSaga("pay", _child(shop.step("x")), context))
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("parent", Order())
        state = await handle.result(timeout=10)
        (failed,) = events_of(await handle.history(), "StepFailed")
        assert not await orchestrator.store.children(handle.id)

    assert (failed.step, failed.attempt, failed.error_type) == ("pay", 0, error_type)
    assert (state.status, shop.done) == (Status.COMPENSATED, ["a", "undo a"])


async def test_a_context_that_does_not_fit_the_parents_field_turns_the_parent_back(
    database: str,
) -> None:
    shop = _Shop()
    saga = _parent(shop.step("a"), shop.pay(shop.step("charge"), into="note"))
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("parent", Order())
        state = await handle.result(timeout=10)

    assert state.status is Status.COMPENSATED
    assert shop.done == ["a", "charge", "undo charge", "undo a"]


# -- undo -----------------------------------------------------------------------------------


async def test_a_completed_child_is_undone_in_its_turn(database: str) -> None:
    shop = _Shop()
    saga = _parent(
        shop.step("a"),
        shop.pay(shop.step("hold"), shop.step("charge")),
        shop.step("b"),
        shop.step("bad", error=DECLINED),
    )
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("parent", Order())
        state = await handle.result(timeout=10)
        history = await handle.history()
        child = await orchestrator.get(await _the_child(orchestrator, handle.id))
        events = await orchestrator.history(child.saga_id)

    assert shop.done == [
        *("a", "hold", "charge", "b"),
        *("undo b", "undo charge", "undo hold", "undo a"),
    ]
    assert (state.status, child.status) == (Status.COMPENSATED, Status.COMPENSATED)
    assert state.compensated_steps == ("a", "pay", "b")
    (asked,) = events_of(events, "UndoRequested")
    assert (asked.actor, asked.reason) == (f"saga {handle.id}", "its parent goes back: declined")
    ends = [event.status for event in events_of(history, "ChildEnded")]
    undos = [
        (event.step, event.child_id) for event in events_of(history, "StepCompensationStarted")
    ]
    assert ends == ["COMPLETED", "COMPENSATED"]
    assert undos == [("b", None), ("pay", child.saga_id), ("a", None)]


async def test_a_completed_parent_is_undone_with_its_child(database: str) -> None:
    shop = _Shop()
    saga = _parent(shop.step("a"), shop.pay(shop.step("charge")))
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("parent", Order())
        await handle.result(timeout=10)
        assert await orchestrator.undo(handle.id, **WHO)
        state = await handle.result(timeout=10)
        child = await orchestrator.get(await _the_child(orchestrator, handle.id))

    assert (state.status, child.status) == (Status.COMPENSATED, Status.COMPENSATED)
    assert shop.done == ["a", "charge", "undo charge", "undo a"]


async def test_a_child_that_a_person_undid_needs_no_further_undo(database: str) -> None:
    """By a row of his own, past the client. The parent asks, is told so, and goes on."""
    shop = _Shop()
    saga = _parent(shop.step("a"), shop.pay(shop.step("charge")), shop.step("b", held=True))
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("parent", Order())
        await shop.begun["b"].wait()
        child = await _the_child(orchestrator, handle.id)
        message = Message(
            saga_id=child, message_id=new_id(), kind="undo", data={"reason": "r"}, actor="ann"
        )
        assert await orchestrator.store.post(message)
        await until(database, STATUS, child, "COMPENSATED")
        assert await handle.cancel("changed my mind")
        shop.let_go["b"].set()
        state = await handle.result(timeout=10)

    assert (state.status, state.compensated_steps) == (Status.COMPENSATED, ("a", "pay", "b"))
    assert shop.done == ["a", "charge", "undo charge", "b", "undo b", "undo a"]


async def test_a_parent_waits_while_the_undo_of_its_child_is_parked(database: str) -> None:
    shop = _Shop()
    stuck = shop.act("undo charge", error=PermanentError("the bank is closed"))
    saga = _parent(
        shop.step("a"),
        shop.pay(shop.step("charge", compensate=stuck, compensate_retry=ONCE)),
        shop.step("bad", error=DECLINED),
    )
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("parent", Order())
        child = child_id(handle.id, "pay", 1)
        await until(database, STATUS, child, "PARKED")
        await until(database, ALONE, handle.id)
        waits, explained = await handle.state(), await orchestrator.explain(handle.id)
        shop.mended.add("undo charge")
        assert await orchestrator.retry(child, **WHO)
        state = await handle.result(timeout=10)

    assert (waits.status, waits.current_steps) == (Status.COMPENSATING, ("pay",))
    assert explained.why[-1] == "pay is a child saga that is being undone (attempt 1)"
    assert (state.status, shop.done) == (
        Status.COMPENSATED,
        ["a", "charge", "undo charge", "undo a"],
    )


async def test_that_a_child_had_completed_is_no_answer_to_its_undo(database: str) -> None:
    """Old news, which may be told again."""
    shop = _Shop()
    pay = shop.pay(shop.step("charge", compensate=shop.act("undo charge", held=True)))
    saga = _parent(shop.step("a"), pay, shop.step("bad", error=DECLINED))
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("parent", Order())
        await shop.begun["undo charge"].wait()
        child = await _the_child(orchestrator, handle.id)
        told = f'{{"step": "pay", "child_id": "{child}", "status": "COMPLETED"}}'
        await run_sql(
            database,
            "INSERT INTO eventsaga.inbox (saga_id, id, kind, data, actor)"  # noqa: S608
            f" VALUES ('{handle.id}', gen_random_uuid(), 'child', '{told}', 'saga {child}')",
        )
        await until(database, "SELECT count(*) = 0 FROM eventsaga.inbox WHERE answered_at IS NULL")
        waits = await handle.state()
        shop.let_go["undo charge"].set()
        state = await handle.result(timeout=10)

    assert (waits.status, waits.current_steps) == (Status.COMPENSATING, ("pay",))
    assert (state.status, shop.done) == (
        Status.COMPENSATED,
        ["a", "charge", "undo charge", "undo a"],
    )


async def test_a_child_that_cannot_be_undone_parks_its_parent_when_the_rest_is_undone(
    database: str,
) -> None:
    shop = _Shop()
    stuck = shop.act("undo charge", error=PermanentError("the bank is closed"))
    saga = _parent(
        shop.step("a"),
        shop.pay(shop.step("charge", compensate=stuck, compensate_retry=ONCE)),
        shop.step("bad", error=DECLINED),
    )
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("parent", Order())
        child = child_id(handle.id, "pay", 1)
        await until(database, STATUS, child, "PARKED")
        assert await orchestrator.abandon(child, **WHO)
        parked = await handle.result(timeout=10)
        (failed,) = events_of(await handle.history(), "StepCompensationFailed")
        explained = await orchestrator.explain(handle.id)
        with pytest.raises(IllegalCommandError, match="the saga is FAILED"):
            await orchestrator.undo(child, **WHO)
        assert await orchestrator.resolve(handle.id, "pay", "compensated", **WHO)
        state = await handle.result(timeout=10)

    assert (failed.step, failed.error_type) == ("pay", "ChildNotUndone")
    assert parked.status is Status.PARKED
    assert "compensation gave up on pay" in explained.why[-1]
    assert (state.status, shop.done) == (Status.COMPENSATED, ["a", "charge", "undo a"])


async def test_a_parent_that_dies_while_its_child_is_undone_asks_once(database: str) -> None:
    shop = _Shop()
    held = shop.act("undo charge", held=True)
    saga = _parent(
        shop.step("a"),
        shop.pay(shop.step("charge", compensate=held)),
        shop.step("bad", error=DECLINED),
    )
    async with orchestrating(database, saga) as dead:
        handle = await dead.start("parent", Order())
        await shop.begun["undo charge"].wait()
        await dead.vanish()
    await run_sql(database, EXPIRE)
    shop.let_go["undo charge"].set()
    async with orchestrating(database, saga) as orchestrator:
        state = await orchestrator.wait(handle.id, timeout=10)
        child = await _the_child(orchestrator, handle.id)
        asked = events_of(await orchestrator.history(child), "UndoRequested")

    assert (state.status, len(asked)) == (Status.COMPENSATED, 1)
    assert shop.done == ["a", "charge", "undo charge", "undo a"]


# -- cancel ---------------------------------------------------------------------------------


async def test_a_cancel_reaches_a_child_that_is_running(database: str) -> None:
    shop = _Shop()
    pay = shop.pay(shop.step("hold"), shop.step("charge", held=True), shop.step("never"))
    async with orchestrating(database, _parent(shop.step("a"), pay)) as orchestrator:
        handle = await orchestrator.start("parent", Order())
        await shop.begun["charge"].wait()
        assert await handle.cancel("changed my mind", actor="ann")
        child = await _the_child(orchestrator, handle.id)
        await until(database, HAS_EVENT, child, "SagaCancelRequested")
        between = await handle.state()
        shop.let_go["charge"].set()
        state = await handle.result(timeout=10)
        (asked,) = events_of(await orchestrator.history(child), "SagaCancelRequested")
        names = await types(handle)
        (ended,) = events_of(await handle.history(), "ChildEnded")

    assert between.status is Status.RUNNING
    assert (asked.actor, asked.reason) == (
        f"saga {handle.id}",
        "its parent goes back: changed my mind",
    )
    assert (state.status, ended.status) == (Status.COMPENSATED, "COMPENSATED")
    assert shop.done == ["a", "hold", "charge", "undo charge", "undo hold", "undo a"]
    assert names.index("ChildEnded") < names.index("StepCompensationStarted")


@pytest.mark.parametrize("why", ["cancel", "deadline"])
async def test_a_child_that_only_waits_is_turned_back_with_its_parent(
    database: str, why: str
) -> None:
    shop = _Shop()
    pay = shop.pay(shop.step("hold"), Sleep("night", 36_000), shop.step("never"))
    saga = _parent(shop.step("a"), pay, deadline=0.5 if why == "deadline" else None)
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("parent", Order())
        if why == "cancel":
            await until(database, ALONE, child_id(handle.id, "pay", 1))
            await until(database, ALONE, handle.id)
            assert await handle.cancel("changed my mind")
        state = await handle.result(timeout=10)
        child = await orchestrator.get(await _the_child(orchestrator, handle.id))

    assert (state.status, child.status) == (Status.COMPENSATED, Status.COMPENSATED)
    assert shop.done == ["a", "hold", "undo hold", "undo a"]


async def test_a_cancel_reaches_a_child_that_does_not_exist_yet(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, reached, go_on = _Shop(), asyncio.Event(), asyncio.Event()
    start = Worker.start_child

    async def late(self: Worker, *arguments: Any) -> None:
        reached.set()
        await go_on.wait()
        await start(self, *arguments)

    monkeypatch.setattr(Worker, "start_child", late)
    pay = shop.pay(WaitForSignal("never"), shop.step("charge"))
    async with orchestrating(database, _parent(shop.step("a"), pay)) as orchestrator:
        handle = await orchestrator.start("parent", Order())
        await reached.wait()
        assert await handle.cancel("changed my mind")
        await until(database, HAS_EVENT, handle.id, "SagaCancelRequested")
        go_on.set()
        state = await handle.result(timeout=10)
        child = await orchestrator.get(await _the_child(orchestrator, handle.id))

    assert (state.status, child.status) == (Status.COMPENSATED, Status.COMPENSATED)
    assert shop.done == ["a", "undo a"]


async def test_a_child_that_completes_in_spite_of_a_cancel_is_undone(database: str) -> None:
    """It takes the parent's cancel only when it has ended, and then it is too late."""
    shop = _Shop()
    pay = shop.pay(shop.step("charge", held=True))
    async with orchestrating(database, _parent(shop.step("a"), pay)) as orchestrator:
        handle = await orchestrator.start("parent", Order())
        await shop.begun["charge"].wait()
        child = await _the_child(orchestrator, handle.id)
        await _turn_back_unheard(database, handle.id, child)
        shop.let_go["charge"].set()
        state = await handle.result(timeout=10)
        events = [stored.type for stored in await orchestrator.history(child)]

    assert state.status is Status.COMPENSATED
    assert events.count("SagaCompleted") == 1
    assert "UndoRequested" in events
    assert shop.done == ["a", "charge", "undo charge", "undo a"]


async def _turn_back_unheard(database: str, parent: UUID, child: UUID) -> None:
    """Cancel *parent*, and see to it that its *child* does not learn of it."""
    deaf = (
        "CREATE FUNCTION public.lost() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$BEGIN IF NEW.saga_id = '{child}' AND NEW.kind = 'cancel' THEN RETURN NULL; END IF;"
        " RETURN NEW; END$$"
    )
    await run_sql(
        database,
        deaf,
        "CREATE TRIGGER lost BEFORE INSERT ON eventsaga.inbox"
        " FOR EACH ROW EXECUTE FUNCTION public.lost()",
        "INSERT INTO eventsaga.inbox (saga_id, id, kind, data, actor)"  # noqa: S608
        f" VALUES ('{parent}', gen_random_uuid(), 'cancel', '{{}}', 'psql')",
    )
    await until(database, HAS_EVENT, parent, "SagaCancelRequested")


# -- families -------------------------------------------------------------------------------


def _family(shop: _Shop, *after: Any, held: bool = False) -> Saga[Order]:
    grandchild = Saga("bank", context=Payment, steps=[shop.step("book", {"fee": 3}, held=held)])
    booking = ChildSaga("fee", grandchild, lambda payment: payment)
    return _parent(shop.step("a"), shop.pay(shop.step("hold"), booking), *after)


async def test_grandchildren_give_their_context_and_know_where_they_come_from(
    database: str,
) -> None:
    shop = _Shop()
    async with orchestrating(database, _family(shop)) as orchestrator:
        handle = await orchestrator.start("parent", Order(amount=5))
        state = await handle.result(timeout=10)
        (child,) = await orchestrator.store.children(handle.id)
        (grandchild,) = await orchestrator.store.children(child.saga_id)

    assert (state.status, shop.done) == (Status.COMPLETED, ["a", "hold", "book"])
    assert state.context.data["fee"] == {"amount": 5.0, "receipt": None, "fee": 3}
    assert grandchild.saga_id == child_id(child_id(handle.id, "pay", 1), "fee", 1)
    assert (grandchild.name, grandchild.parent_step) == ("bank", "fee")
    assert grandchild.correlation_id == str(handle.id)


async def test_grandchildren_are_undone_in_their_turn(database: str) -> None:
    shop = _Shop()
    saga = _family(shop, shop.step("bad", error=DECLINED))
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("parent", Order())
        state = await handle.result(timeout=10)
        rows = await until(database, "SELECT array_agg(DISTINCT status::text) FROM eventsaga.sagas")

    assert (state.status, rows) == (Status.COMPENSATED, ["COMPENSATED"])
    assert shop.done == ["a", "hold", "book", "undo book", "undo hold", "undo a"]


async def test_a_cancel_reaches_a_grandchild(database: str) -> None:
    shop = _Shop()
    async with orchestrating(database, _family(shop, held=True)) as orchestrator:
        handle = await orchestrator.start("parent", Order())
        await shop.begun["book"].wait()
        assert await handle.cancel("changed my mind")
        grandchild = child_id(child_id(handle.id, "pay", 1), "fee", 1)
        await until(database, HAS_EVENT, grandchild, "SagaCancelRequested")
        shop.let_go["book"].set()
        state = await handle.result(timeout=10)

    assert state.status is Status.COMPENSATED
    assert shop.done == ["a", "hold", "book", "undo book", "undo hold", "undo a"]


# -- in groups ------------------------------------------------------------------------------


async def test_children_run_in_branches_at_the_same_time(database: str) -> None:
    meeting = asyncio.Barrier(2)

    async def meet(_payment: Payment, step: StepContext) -> dict[str, str]:
        async with asyncio.timeout(5):
            await meeting.wait()
        return {"receipt": str(step.saga_id)}

    payment = _child(Step("charge", meet, retry=ONCE))
    pay, tip = ChildSaga("data", payment, _payment), ChildSaga("tip", payment, _payment)
    saga = _parent(Parallel("both", [[Step("a", nothing), pay], tip]))
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("parent", Order())
        state = await handle.result(timeout=10)

    assert state.status is Status.COMPLETED
    assert state.context.data["receipt"] == str(child_id(handle.id, "data", 1))


async def test_a_failed_branch_turns_the_child_beside_it_back_and_waits_for_it(
    database: str,
) -> None:
    shop = _Shop()
    pay = shop.pay(shop.step("hold"), shop.step("charge", held=True), shop.step("never"))
    group = Parallel("both", [pay, shop.step("bad", held=True, error=DECLINED)])
    async with orchestrating(database, _parent(shop.step("a"), group)) as orchestrator:
        handle = await orchestrator.start("parent", Order())
        await shop.begun["charge"].wait()
        shop.let_go["bad"].set()
        child = await _the_child(orchestrator, handle.id)
        await until(database, HAS_EVENT, child, "SagaCancelRequested")
        shop.let_go["charge"].set()
        state = await handle.result(timeout=10)
        names = await types(handle)

    assert state.error is not None
    assert (state.status, state.error.step_name) == (Status.COMPENSATED, "bad")
    assert shop.done == ["a", "hold", "charge", "undo charge", "undo hold", "undo a"]
    assert names.index("ChildEnded") < names.index("StepCompensationStarted")


async def test_children_in_branches_are_undone_at_the_same_time(database: str) -> None:
    meeting = asyncio.Barrier(2)
    undone: list[UUID] = []

    async def undo(_payment: Payment, step: StepContext) -> None:
        async with asyncio.timeout(5):
            await meeting.wait()
        undone.append(step.saga_id)

    shop = _Shop()
    payment = _child(Step("charge", nothing, compensate=undo, compensate_retry=ONCE))
    group = Parallel("both", [ChildSaga(name, payment, _payment) for name in ("pay", "tip")])
    saga = _parent(shop.step("a"), group, shop.step("bad", error=DECLINED))
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("parent", Order())
        state = await handle.result(timeout=10)

    assert (state.status, shop.done) == (Status.COMPENSATED, ["a", "undo a"])
    assert set(undone) == {child_id(handle.id, name, 1) for name in ("pay", "tip")}


async def test_a_child_is_not_undone_without_its_parent(database: str) -> None:
    shop = _Shop()
    saga = _parent(shop.pay(shop.step("charge")))
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("parent", Order())
        await handle.result(timeout=10)
        child = await _the_child(orchestrator, handle.id)
        with pytest.raises(IllegalCommandError, match=rf"child of saga {handle.id}.*COMPLETED"):
            await orchestrator.undo(child, **WHO)
        assert "undo" not in (await orchestrator.explain(child)).legal
        assert "undo" in (await orchestrator.explain(handle.id)).legal
        await orchestrator.undo(handle.id, **WHO)
        await until(database, STATUS, child, "COMPENSATED")

    assert shop.done == ["charge", "undo charge"]


async def test_a_child_of_an_abandoned_parent_is_undone_by_itself(database: str) -> None:
    shop = _Shop()
    unsure = shop.step("unsure", error=TimeoutError("no answer"), on_doubt="park")
    saga = _parent(shop.pay(shop.step("charge")), unsure)
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("parent", Order())
        await handle.result(timeout=10)
        child = await _the_child(orchestrator, handle.id)
        await orchestrator.abandon(handle.id, **WHO)
        await until(database, STATUS, handle.id, "FAILED")
        assert "undo" in (await orchestrator.explain(child)).legal
        await orchestrator.undo(child, **WHO)
        await until(database, STATUS, child, "COMPENSATED")

    assert shop.done == ["charge", "undo charge"]

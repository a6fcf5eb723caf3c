"""Is each item done once, however many there are and whoever goes on, and undone if one fails?"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel

from eventsaga import (
    ForEach,
    Orchestrator,
    Parallel,
    PermanentError,
    Saga,
    SagaHandle,
    Status,
    Step,
    StepContext,
)
from tests.runtime.sagas import (
    ONCE,
    SOON,
    Order,
    events_of,
    orchestrating,
    run_sql,
    types,
    until,
)

pytestmark = pytest.mark.usefixtures("sound")

EXPIRE = "UPDATE eventsaga.workers SET lease_until = now() - interval '1 s'"
ENDED = "SELECT count(*) FROM eventsaga.events WHERE type = 'StepSucceeded' HAVING count(*) = $1"
FAILED = "SELECT count(*) FROM eventsaga.events WHERE type = 'StepFailed'"


class _Depot:
    """Packs items, which can be held or refused, and remembers what it did.

    Attributes:
        stock: What is to be packed.
        held: Items that are not packed before *let_go*.
        bad: Items that cannot be packed.
        ran: How often each step was run.
        keys: Under which keys, by step.
        packed: Items in the order in which they were done.
        undone: Likewise.
        begun: Set when an item is begun, by the item.
        asked: How often the items were asked for.
    """

    def __init__(self, *stock: Any) -> None:
        self.stock: list[Any] = list(stock)
        self.held: set[Any] = set()
        self.bad: set[Any] = set()
        self.ran: Counter[str] = Counter()
        self.keys: defaultdict[str, set[str]] = defaultdict(set)
        self.packed: list[Any] = []
        self.undone: list[Any] = []
        self.begun: defaultdict[Any, asyncio.Event] = defaultdict(asyncio.Event)
        self.let_go = asyncio.Event()
        self.asked = 0

    def items(self, _order: Order) -> list[Any]:
        self.asked += 1
        return list(self.stock)

    async def pack(self, _order: Order, step: StepContext) -> None:
        self.ran[step.step] += 1
        self.keys[step.step].add(step.idempotency_key)
        self.begun[step.item].set()
        if step.item in self.held:
            await self.let_go.wait()
        if step.item in self.bad:
            raise PermanentError(f"{step.item} is broken")
        self.packed.append(step.item)

    async def unpack(self, _order: Order, step: StepContext) -> None:
        self.undone.append(step.item)

    def step(self, **options: Any) -> Step:
        usual: dict[str, Any] = {"compensate": self.unpack, "retry": ONCE}
        return Step("one", self.pack, **(usual | options))

    def saga(self, *others: Any, most: int = 10, **options: Any) -> Saga[Order]:
        group = ForEach("pack", self.items, self.step(**options), max_concurrency=most)
        return _saga(group, *others)


def _saga(*steps: Any) -> Saga[Order]:
    return Saga("packs", context=Order, steps=steps)


async def _declined(_order: Order) -> None:
    raise PermanentError("declined")


async def _ended(orchestrator: Orchestrator) -> tuple[SagaHandle, Any]:
    handle = await orchestrator.start("packs", Order())
    return handle, await handle.result(timeout=20)


# -- items ----------------------------------------------------------------------------------


class _Parcel(BaseModel):
    sku: str
    price: Decimal


async def test_items_are_recorded_and_each_is_a_step_of_its_own(database: str) -> None:
    seen: list[tuple[Any, ...]] = []

    async def pack(order: Order, step: StepContext) -> dict[str, Any]:
        seen.append((step.step, step.index, step.item, step.idempotency_key))
        return {"at": step.index, "sku": step.item["sku"]}

    def items(_order: Order) -> Iterator[_Parcel]:
        yield _Parcel(sku="tea", price=Decimal("1.50"))
        yield _Parcel(sku="cup", price=Decimal("4.00"))

    saga = _saga(ForEach("pack", items, Step("one", pack), into="data"))
    async with orchestrating(database, saga) as orchestrator:
        handle, state = await _ended(orchestrator)
        (started,) = events_of(await handle.history(), "ForEachStarted")

    tea, cup = {"sku": "tea", "price": "1.50"}, {"sku": "cup", "price": "4.00"}
    assert started.items == (tea, cup)
    assert sorted(seen) == [
        ("pack[0]", 0, tea, f"{handle.id}/pack[0]"),
        ("pack[1]", 1, cup, f"{handle.id}/pack[1]"),
    ]
    assert state.completed_steps == ("pack", "pack[0]", "pack[1]")
    assert state.context.data == [{"at": 0, "sku": "tea"}, {"at": 1, "sku": "cup"}]


@pytest.mark.parametrize("count", [0, 1, 300])
async def test_there_may_be_any_number_of_items(database: str, count: int) -> None:
    async def pack(_order: Order, step: StepContext) -> dict[str, Any]:
        return {"item": step.item}

    stock = [f"i{number}" for number in range(count)]
    saga = _saga(ForEach("pack", lambda _: stock, Step("one", pack), into="data"))
    async with orchestrating(database, saga) as orchestrator:
        handle, state = await _ended(orchestrator)
        names = Counter(await types(handle))

    assert state.status is Status.COMPLETED
    assert state.context.data == [{"item": item} for item in stock]
    assert (names["StepStarted"], names["StepSucceeded"]) == (count, count + 1)


async def test_a_group_without_items_lets_the_next_step_go(database: str) -> None:
    depot = _Depot()
    last: list[str] = []

    async def note(_order: Order) -> None:
        last.append("last")

    async with orchestrating(database, depot.saga(Step("last", note))) as orchestrator:
        _, state = await _ended(orchestrator)

    assert (state.status, depot.packed, last) == (Status.COMPLETED, [], ["last"])


async def test_results_stand_in_the_order_of_the_items_whoever_ends_first(database: str) -> None:
    ends = [asyncio.Event() for _ in range(4)]
    order_of_ends: list[int] = []

    async def pack(_order: Order, step: StepContext) -> dict[str, Any] | None:
        assert step.index is not None
        if step.index + 1 < len(ends):
            await ends[step.index + 1].wait()
        order_of_ends.append(step.index)
        ends[step.index].set()
        return None if step.index == 2 else {"item": step.item}

    saga = _saga(ForEach("pack", lambda _: "abcd", Step("one", pack), into="data"))
    async with orchestrating(database, saga) as orchestrator:
        _, state = await _ended(orchestrator)

    assert order_of_ends == [3, 2, 1, 0]
    assert state.context.data == [{"item": "a"}, {"item": "b"}, None, {"item": "d"}]


async def test_without_a_field_of_their_own_results_are_merged(database: str) -> None:
    async def pack(_order: Order, step: StepContext) -> dict[str, Any]:
        return {step.item: 1}

    saga = _saga(ForEach("pack", lambda _: ["amount", "data"], Step("one", pack)))
    async with orchestrating(database, saga) as orchestrator:
        _, state = await _ended(orchestrator)

    assert (state.context.amount, state.context.data) == (1.0, 1)


async def test_items_that_contradict_each_other_turn_the_saga_back_by_name(database: str) -> None:
    depot = _Depot("x", "y")

    async def pack(order: Order, step: StepContext) -> dict[str, Any]:
        await depot.pack(order, step)
        return {"note": step.item}

    group = ForEach("pack", depot.items, Step("one", pack, compensate=depot.unpack), 1)
    async with orchestrating(database, _saga(group)) as orchestrator:
        _, state = await _ended(orchestrator)

    assert state.error is not None
    assert state.error.message == "'pack[1]' and 'pack[0]' returned different values for note"
    assert (state.status, depot.undone) == (Status.COMPENSATED, ["y", "x"])


# -- how many at once -----------------------------------------------------------------------


async def test_the_bound_of_items_is_reached_and_never_exceeded(database: str) -> None:
    """Items, and then their compensations, meet three at a time, or nobody gets on."""
    meeting, under_way = asyncio.Barrier(3), set[int]()
    seen: dict[str, list[int]] = {"pack": [], "unpack": []}

    def meets(what: str) -> Callable[..., Any]:
        async def act(_order: Order, step: StepContext) -> None:
            assert step.index is not None
            under_way.add(step.index)
            seen[what].append(len(under_way))
            async with asyncio.timeout(5):
                await meeting.wait()
            under_way.discard(step.index)

        return act

    step = Step("one", meets("pack"), compensate=meets("unpack"), retry=ONCE, compensate_retry=ONCE)
    group = ForEach("pack", lambda _: range(9), step, max_concurrency=3)
    async with orchestrating(database, _saga(group, Step("bad", _declined))) as orchestrator:
        _, state = await _ended(orchestrator)

    assert state.status is Status.COMPENSATED
    assert {what: (len(sizes), max(sizes)) for what, sizes in seen.items()} == {
        "pack": (9, 3),
        "unpack": (9, 3),
    }


async def test_one_at_a_time_they_come_in_order_and_go_back_in_reverse(database: str) -> None:
    depot = _Depot(*"abcd")
    async with orchestrating(database, depot.saga(Step("bad", _declined), most=1)) as orchestrator:
        _, state = await _ended(orchestrator)

    assert (state.status, depot.packed) == (Status.COMPENSATED, list("abcd"))
    assert depot.undone == list("dcba")


# -- one fails ------------------------------------------------------------------------------


async def test_a_failed_item_compensates_those_that_ran_and_no_others(database: str) -> None:
    depot = _Depot("a", "bad", "slow", "d", "e", "f")
    depot.bad, depot.held = {"bad"}, {"slow"}
    async with orchestrating(database, depot.saga(most=3)) as orchestrator:
        handle = await orchestrator.start("packs", Order())
        await until(database, FAILED)
        depot.let_go.set()
        state = await handle.result(timeout=10)
        history = await handle.history()
        names = [stored.type for stored in history]

    assert state.error is not None
    assert (state.error.step_name, state.error.message) == ("pack[1]", "bad is broken")
    assert state.status is Status.COMPENSATED
    assert {"a", "slow"} <= set(depot.packed) == set(depot.undone)
    # The end of "a" may have let the next one in, before "bad" failed.
    assert set(depot.packed) <= {"a", "slow", "d"}
    assert sorted(depot.packed) == sorted(depot.undone)
    last = max(at for at, name in enumerate(names) if name in {"StepSucceeded", "StepFailed"})
    assert last < names.index("StepCompensationStarted")


async def test_an_item_is_tried_again_by_the_policy_under_its_own_key(database: str) -> None:
    tries: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)

    async def pack(_order: Order, step: StepContext) -> None:
        tries[step.step].append((step.attempt, step.idempotency_key))
        if step.item == "shy" and step.attempt < 3:
            raise ValueError("not yet")

    saga = _saga(ForEach("pack", lambda _: ["a", "shy"], Step("one", pack, retry=SOON)))
    async with orchestrating(database, saga) as orchestrator:
        handle, state = await _ended(orchestrator)

    assert state.status is Status.COMPLETED
    assert tries == {
        "pack[0]": [(1, f"{handle.id}/pack[0]")],
        "pack[1]": [(attempt, f"{handle.id}/pack[1]") for attempt in (1, 2, 3)],
    }


async def test_an_item_in_doubt_is_compensated_too(database: str) -> None:
    outcomes: dict[str, str] = {}

    async def pack(_order: Order, step: StepContext) -> None:
        if step.item == "lost":
            await asyncio.Event().wait()

    async def unpack(_order: Order, step: StepContext) -> None:
        outcomes[step.item] = step.outcome

    step = Step("one", pack, compensate=unpack, retry=ONCE, timeout=0.1)
    saga = _saga(ForEach("pack", lambda _: ["a", "lost"], step))
    async with orchestrating(database, saga) as orchestrator:
        _, state = await _ended(orchestrator)

    assert state.status is Status.COMPENSATED
    assert outcomes == {"a": "succeeded", "lost": "unknown"}


async def test_items_beside_a_branch_that_fails_settle_and_go_back(database: str) -> None:
    depot = _Depot("a", "b", "c")
    depot.held = {"a", "b"}
    group = ForEach("pack", depot.items, depot.step(), max_concurrency=2)
    saga = _saga(Parallel("both", [group, Step("bad", _declined, retry=ONCE)]))
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("packs", Order())
        await until(database, FAILED)
        depot.let_go.set()
        state = await handle.result(timeout=10)

    assert (state.status, sorted(depot.packed)) == (Status.COMPENSATED, ["a", "b"])
    assert sorted(depot.undone) == ["a", "b"]


# -- items for whom there is nothing to do --------------------------------------------------


async def test_a_predicate_may_ask_about_the_item(database: str) -> None:
    depot = _Depot(1, 2, 3, 4)

    async def pack(order: Order, step: StepContext) -> dict[str, Any]:
        await depot.pack(order, step)
        return {"item": step.item}

    def is_even(_order: Order, item: int) -> bool:
        return item % 2 == 0

    step = Step("one", pack, compensate=depot.unpack, when=is_even)
    saga = _saga(ForEach("pack", depot.items, step, 1, into="data"), Step("bad", _declined))
    async with orchestrating(database, saga) as orchestrator:
        handle, state = await _ended(orchestrator)
        history = await handle.history()

    assert [event.step for event in events_of(history, "StepSkipped")] == ["pack[0]", "pack[2]"]
    assert state.context.data == [None, {"item": 2}, None, {"item": 4}]
    assert (depot.packed, depot.undone) == ([2, 4], [4, 2])


async def test_a_predicate_that_raises_for_an_item_turns_the_saga_back(database: str) -> None:
    depot = _Depot(1, 0, 2)

    def fits(_order: Order, item: int) -> bool:
        return 1 / item < 2

    async with orchestrating(database, depot.saga(most=1, when=fits)) as orchestrator:
        handle, state = await _ended(orchestrator)
        (failed,) = events_of(await handle.history(), "StepFailed")

    assert (failed.step, failed.attempt, failed.error_type) == ("pack[1]", 0, "ZeroDivisionError")
    assert (state.status, depot.packed, depot.undone) == (Status.COMPENSATED, [1], [1])


# -- another worker goes on -----------------------------------------------------------------


async def test_what_a_dead_worker_left_goes_on_with_the_items_that_were_recorded(
    database: str,
) -> None:
    depot = _Depot("a", "b", "c", "d", "e")
    depot.held = {"c", "d"}
    saga = depot.saga(most=2)
    async with orchestrating(database, saga) as dead:
        handle = await dead.start("packs", Order())
        await depot.begun["c"].wait()
        await depot.begun["d"].wait()
        await until(database, ENDED, 2)
        await dead.vanish()
    depot.stock = ["x", "y"]
    await run_sql(database, EXPIRE)
    depot.let_go.set()
    async with orchestrating(database, saga) as orchestrator:
        state = await orchestrator.wait(handle.id, timeout=10)
        history = await orchestrator.history(handle.id)

    assert (state.status, depot.asked) == (Status.COMPLETED, 1)
    assert [event.items for event in events_of(history, "ForEachStarted")] == [tuple("abcde")]
    assert sorted(depot.packed) == list("abcde")
    assert depot.ran == {"pack[0]": 1, "pack[1]": 1, "pack[2]": 2, "pack[3]": 2, "pack[4]": 1}
    assert all(len(keys) == 1 for keys in depot.keys.values())


async def test_a_worker_that_stops_lets_items_end_and_another_does_the_rest(database: str) -> None:
    """No item runs twice, and the one who stops begins no further one."""
    depot = _Depot(*range(12))
    depot.held = {4, 5, 6}
    saga = depot.saga(most=3)
    async with orchestrating(database, saga) as first:
        handle = await first.start("packs", Order())
        for item in (4, 5, 6):
            await depot.begun[item].wait()
        draining = asyncio.create_task(first.drain())
        await until(database, "SELECT count(*) FROM eventsaga.workers")
        assert first._worker is not None
        assert first._worker.draining
        depot.let_go.set()
        await draining
        assert sorted(depot.packed) == list(range(7))
        depot.stock = []
    async with orchestrating(database, saga) as second:
        state = await second.wait(handle.id, timeout=10)
        history = await second.history(handle.id)

    assert state.status is Status.COMPLETED
    assert sorted(depot.packed) == list(range(12))
    assert set(depot.ran.values()) == {1}
    assert "SagaRecovered" not in {stored.type for stored in history}


async def test_a_way_back_that_was_cut_short_goes_on_where_it_stood(database: str) -> None:
    depot = _Depot(*"abcd")
    ran: Counter[str] = Counter()
    begun, let_go = asyncio.Event(), asyncio.Event()

    async def unpack(order: Order, step: StepContext) -> None:
        ran[step.item] += 1
        if step.item == "b":
            begun.set()
            await let_go.wait()
        await depot.unpack(order, step)

    saga = depot.saga(Step("bad", _declined), most=1, compensate=unpack)
    async with orchestrating(database, saga) as dead:
        handle = await dead.start("packs", Order())
        await begun.wait()
        await dead.vanish()
    await run_sql(database, EXPIRE)
    let_go.set()
    async with orchestrating(database, saga) as orchestrator:
        state = await orchestrator.wait(handle.id, timeout=10)

    assert (state.status, depot.undone) == (Status.COMPENSATED, list("dcba"))
    assert ran == {"d": 1, "c": 1, "b": 2, "a": 1}


# -- items that there are not ---------------------------------------------------------------


def _broken(_order: Order) -> list[Any]:
    raise KeyError("no stock")


def _breaks_off(_order: Order) -> Iterator[int]:
    yield 1
    raise ConnectionError("the stock was closed")


_NO_ITEMS: dict[str, tuple[Callable[[Order], Any], str, str]] = {
    "raises": (_broken, "KeyError", "no stock"),
    "breaks-off": (_breaks_off, "ConnectionError", "the stock was closed"),
    "none": (lambda _: None, "TypeError", "'NoneType' object is not iterable"),
    "number": (lambda _: 3, "TypeError", "'int' object is not iterable"),
    "object": (lambda _: [1, object()], "PayloadError", "the items of pack.items[1]"),
    "nan": (lambda _: [float("nan")], "PayloadError", "the items of pack.items[0]"),
    "nul": (lambda _: ["a\0b"], "PayloadError", "the items of pack.items[0]"),
    "too-large": (lambda _: ["x" * 600_000] * 2, "PayloadError", "exceed the limit"),
}


@pytest.mark.parametrize(
    ("items", "error_type", "message"), _NO_ITEMS.values(), ids=_NO_ITEMS.keys()
)
async def test_items_that_cannot_be_had_fail_the_group_before_it_was_begun(
    database: str, items: Any, error_type: str, message: str
) -> None:
    depot = _Depot()
    first = Step("first", depot.pack, compensate=depot.unpack)
    saga = _saga(first, ForEach("pack", items, depot.step()))
    async with orchestrating(database, saga) as orchestrator:
        handle, state = await _ended(orchestrator)
        (failed,) = events_of(await handle.history(), "StepFailed")

    assert (failed.step, failed.attempt, failed.error_type) == ("pack", 0, error_type)
    assert message in failed.message
    assert state.error is not None
    assert (state.status, state.error.step_name) == (Status.COMPENSATED, "pack")
    assert (depot.ran, depot.undone) == ({"first": 1}, [None])


async def test_items_that_cannot_be_had_after_the_pivot_park_and_are_asked_for_again(
    database: str,
) -> None:
    depot = _Depot("a", object())

    async def pay(_order: Order) -> None: ...

    group = ForEach("pack", depot.items, Step("one", depot.pack))
    async with orchestrating(database, _saga(Step("pay", pay, pivot=True), group)) as orchestrator:
        handle, parked = await _ended(orchestrator)
        depot.stock = ["a", "b"]
        assert await orchestrator.retry(handle.id, reason="stock mended", actor="ann")
        state = await handle.result(timeout=10)

    assert parked.status is Status.PARKED
    assert (state.status, sorted(depot.packed)) == (Status.COMPLETED, ["a", "b"])


# -- results that do not fit ----------------------------------------------------------------


@pytest.mark.parametrize(
    "result", [3, {"at": object()}, {"at": "a\0b"}], ids=["number", "object", "zero-byte"]
)
async def test_a_result_that_cannot_be_recorded_fails_its_item_which_is_undone(
    database: str, result: Any
) -> None:
    depot = _Depot("a")

    async def pack(order: Order, step: StepContext) -> Any:
        await depot.pack(order, step)
        return result

    step = Step("one", pack, compensate=depot.unpack)
    async with orchestrating(
        database, _saga(ForEach("pack", depot.items, step, into="data"))
    ) as orchestrator:
        _, state = await _ended(orchestrator)

    assert state.error is not None
    assert state.error.step_name == "pack[0]"
    assert (state.status, depot.packed, depot.undone) == (Status.COMPENSATED, ["a"], ["a"])


async def test_a_list_of_results_that_does_not_fit_its_field_turns_the_saga_back(
    database: str,
) -> None:
    depot = _Depot("a", "b")

    async def pack(order: Order, step: StepContext) -> dict[str, Any]:
        await depot.pack(order, step)
        return {"item": step.item}

    step = Step("one", pack, compensate=depot.unpack)
    saga = _saga(ForEach("pack", depot.items, step, into="amount"))
    async with orchestrating(database, saga) as orchestrator:
        _, state = await _ended(orchestrator)

    assert state.status is Status.COMPENSATED
    assert sorted(depot.undone) == ["a", "b"]


async def test_a_list_of_results_that_is_too_large_turns_the_saga_back(database: str) -> None:
    depot = _Depot("a", "b")

    async def pack(order: Order, step: StepContext) -> dict[str, Any]:
        await depot.pack(order, step)
        return {"label": step.item * 600_000}

    step = Step("one", pack, compensate=depot.unpack)
    saga = _saga(ForEach("pack", depot.items, step, into="data"))
    async with orchestrating(database, saga) as orchestrator:
        _, state = await _ended(orchestrator)

    assert state.status is Status.COMPENSATED
    assert sorted(depot.undone) == ["a", "b"]

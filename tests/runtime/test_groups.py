"""Do branches run, settle and go back together, and is a predicate asked once and obeyed?"""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest

from eventsaga import (
    ChildSaga,
    ForEach,
    Parallel,
    PermanentError,
    Retry,
    Saga,
    Sleep,
    Status,
    Step,
    StepContext,
    WaitForSignal,
)
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

DECLINED = PermanentError("declined")
NEXT_HOUR = Retry(max_attempts=5, delay=3600, max_delay=3600)
EXPIRE = "UPDATE eventsaga.workers SET lease_until = now() - interval '1 s'"


def _event(kind: str) -> str:
    return f"SELECT count(*) FROM eventsaga.events WHERE type = '{kind}'"  # noqa: S608


class _Shop:
    """Steps that can be held or fail, and what they did.

    Attributes:
        done: Effects and compensations, in the order in which they ended.
        begun: Set when a step runs, by its name.
        let_go: To be set for a step that is held, by its name.
        outcomes: What compensations were told.
    """

    def __init__(self) -> None:
        self.done: list[str] = []
        self.begun: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.let_go: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.outcomes: dict[str, str] = {}

    def step(
        self,
        name: str,
        result: dict[str, Any] | None = None,
        *,
        held: bool = False,
        error: Exception | None = None,
        **options: Any,
    ) -> Step:
        async def execute(_order: Order) -> dict[str, Any] | None:
            self.begun[name].set()
            if held:
                await self.let_go[name].wait()
            if error is not None:
                raise error
            self.done.append(name)
            return result

        async def undo(_order: Order, step: StepContext) -> None:
            self.outcomes[name] = step.outcome
            self.done.append(f"undo {name}")

        usual: dict[str, Any] = {"compensate": undo, "retry": ONCE}
        return Step(name, execute, **(usual | options))

    def came_before(self, *names: str) -> bool:
        """Whether these were done in this order, others between them or not."""
        places = [self.done.index(name) for name in names]
        return places == sorted(places)


def _saga(*steps: Any) -> Saga[Order]:
    return Saga("grouped", context=Order, steps=steps)


# -- forward --------------------------------------------------------------------------------


async def test_groups_nest_with_sequences_and_waits_inside(database: str) -> None:
    shop = _Shop()
    inner = Parallel("inner", [shop.step("c"), [shop.step("d"), WaitForSignal("ok", into="data")]])
    saga = _saga(
        shop.step("first"),
        Parallel("outer", [shop.step("a"), [shop.step("b"), Sleep("nap", 0.02), inner]]),
        shop.step("last"),
    )
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("grouped", Order())
        await until(database, _event("SignalAwaited"))
        await until(database, "SELECT current_steps = '{ok}' FROM eventsaga.sagas")
        before = list(shop.done)
        await handle.signal("ok", {"by": "ann"})
        state = await handle.result(timeout=10)

    assert (before[0], sorted(before[1:])) == ("first", ["a", "b", "c", "d"])
    assert shop.came_before("b", "c")
    assert shop.came_before("b", "d")
    assert (shop.done[-1], state.status) == ("last", Status.COMPLETED)
    assert state.context.data == {"by": "ann"}
    assert set(state.completed_steps) == {"first", "a", "b", "nap", "c", "d", "ok", "last"}


async def test_no_branch_waits_for_another(database: str) -> None:
    shop = _Shop()
    saga = _saga(Parallel("both", [shop.step("slow", held=True), [shop.step("a"), shop.step("b")]]))
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("grouped", Order())
        await until(database, _event("StepSucceeded") + " HAVING count(*) = 2")
        shop.let_go["slow"].set()
        state = await handle.result(timeout=10)

    assert (state.status, shop.done) == (Status.COMPLETED, ["a", "b", "slow"])


@pytest.mark.parametrize("length", [1, 2])
async def test_the_bound_of_a_group_is_reached_and_never_exceeded(
    database: str, length: int
) -> None:
    """Branches meet three at a time, or nobody gets on; a branch counts until its last step."""
    meeting, under_way, seen = asyncio.Barrier(3), set[int](), list[int]()

    def branch(number: int) -> list[Step]:
        async def enter(_order: Order) -> None:
            under_way.add(number)
            seen.append(len(under_way))

        async def leave(order: Order) -> None:
            await enter(order)
            async with asyncio.timeout(5):
                await meeting.wait()
            under_way.discard(number)

        functions = [enter] * (length - 1) + [leave]
        return [Step(f"s{number}.{at}", run, retry=ONCE) for at, run in enumerate(functions)]

    saga = _saga(Parallel("many", [branch(number) for number in range(6)], max_concurrency=3))
    async with orchestrating(database, saga) as orchestrator:
        state = await (await orchestrator.start("grouped", Order())).result(timeout=10)

    assert (state.status, max(seen)) == (Status.COMPLETED, 3)
    assert len(state.completed_steps) == 6 * length


async def test_a_group_whose_worker_died_goes_on_where_it_stood(database: str) -> None:
    shop = _Shop()
    saga = _saga(
        Parallel("both", [shop.step("a"), [shop.step("b", held=True), shop.step("c")]]),
        shop.step("last"),
    )
    async with orchestrating(database, saga) as dead:
        handle = await dead.start("grouped", Order())
        await until(database, _event("StepSucceeded"))
        await shop.begun["b"].wait()
        await dead.vanish()
    await run_sql(database, EXPIRE)
    shop.let_go["b"].set()
    async with orchestrating(database, saga) as orchestrator:
        state = await orchestrator.wait(handle.id, timeout=10)

    assert (state.status, shop.done) == (Status.COMPLETED, ["a", "b", "c", "last"])


# -- back -----------------------------------------------------------------------------------


async def test_all_siblings_settle_before_anything_is_compensated(database: str) -> None:
    shop = _Shop()
    group = Parallel(
        "three",
        [
            shop.step("bad", held=True, error=DECLINED),
            [shop.step("quick"), shop.step("slow", held=True), shop.step("never")],
            Parallel("inner", [shop.step("deep", held=True), shop.step("other")]),
        ],
    )
    async with orchestrating(database, _saga(shop.step("first"), group)) as orchestrator:
        handle = await orchestrator.start("grouped", Order())
        await shop.begun["slow"].wait()
        shop.let_go["bad"].set()
        await until(database, _event("StepFailed"))
        shop.let_go["deep"].set()
        await until(
            database,
            _event("StepSucceeded") + " AND data->>'step' IN ('deep', 'other') HAVING count(*) = 2",
        )
        shop.let_go["slow"].set()
        state = await handle.result(timeout=10)
        names = await types(handle)

    back = names.index("StepCompensationStarted")
    last = max(at for at, name in enumerate(names) if name in {"StepSucceeded", "StepFailed"})
    assert names.index("StepFailed") < last < names.index("CompensationStarted") < back
    assert state.status is Status.COMPENSATED
    assert state.error is not None
    assert (state.error.step_name, state.error.message) == ("bad", "declined")
    assert "never" not in shop.begun
    undone = {"undo first", "undo quick", "undo slow", "undo deep", "undo other"}
    assert {name for name in shop.done if name.startswith("undo")} == undone
    assert shop.came_before("undo slow", "undo quick", "undo first")
    assert shop.done[-1] == "undo first"


async def test_branches_are_undone_at_the_same_time_each_in_reverse(database: str) -> None:
    """The undo of each branch waits for those of the others, or does not end."""
    shop, meeting = _Shop(), asyncio.Barrier(3)

    def meets(name: str) -> Callable[..., Any]:
        async def undo(_order: Order) -> None:
            await meeting.wait()
            shop.done.append(f"undo {name}")

        return undo

    def pair(name: str) -> list[Step]:
        last = shop.step(f"{name}2", compensate=meets(f"{name}2"), timeout=3, compensate_retry=ONCE)
        return [shop.step(f"{name}1"), last]

    group = Parallel("outer", [pair("a"), Parallel("inner", [pair("b"), pair("c")])])
    saga = _saga(shop.step("first"), group, shop.step("bad", error=DECLINED))
    async with orchestrating(database, saga) as orchestrator:
        state = await (await orchestrator.start("grouped", Order())).result(timeout=10)

    assert state.status is Status.COMPENSATED
    for name in "abc":
        assert shop.came_before(f"undo {name}2", f"undo {name}1", "undo first")
    assert len(shop.done) == 14


@pytest.mark.parametrize("first", ["bad", "unsure"])
async def test_a_sibling_in_doubt_is_compensated_too(database: str, first: str) -> None:
    """Whether its attempt has timed out already, or does so while the saga wants to go back."""
    shop = _Shop()
    second = "unsure" if first == "bad" else "bad"
    steps = {
        "bad": shop.step("bad", held=True, error=DECLINED),
        "unsure": shop.step("unsure", held=True, timeout=0.2, retry=NEXT_HOUR),
    }
    group = Parallel("both", [shop.step("good"), steps[first], steps[second]])
    async with orchestrating(database, _saga(group)) as orchestrator:
        handle = await orchestrator.start("grouped", Order())
        if first == "unsure":
            await until(database, _event("StepInDoubt"))
        shop.let_go["bad"].set()
        state = await handle.result(timeout=10)
        history = await handle.history()

    (doubt,) = events_of(history, "StepInDoubt")
    (failed,) = events_of(history, "StepFailed")
    assert (doubt.at < failed.at) == (first == "unsure")
    assert (state.status, state.in_doubt_steps) == (Status.COMPENSATED, ())
    assert shop.outcomes == {"good": "succeeded", "unsure": "unknown"}


async def test_nobody_waits_for_a_sibling_that_only_waits(database: str) -> None:
    shop = _Shop()
    group = Parallel(
        "all",
        [
            [shop.step("a"), Sleep("night", 3600), shop.step("morning")],
            [shop.step("b"), WaitForSignal("ok")],
            shop.step("again", error=ValueError("not now"), retry=NEXT_HOUR),
            [Sleep("nap", 0.02), shop.step("bad", held=True, error=DECLINED)],
        ],
    )
    async with orchestrating(database, _saga(group)) as orchestrator:
        handle = await orchestrator.start("grouped", Order())
        await until(database, _event("SignalAwaited"))
        await until(database, _event("StepSucceeded") + " AND data->>'step' = 'a'")
        shop.let_go["bad"].set()
        state = await handle.result(timeout=10)

    assert state.status is Status.COMPENSATED
    assert sorted(shop.done) == ["a", "b", "undo a", "undo b"]


async def test_a_failed_branch_lets_no_other_in(database: str) -> None:
    shop = _Shop()
    branches = [shop.step("a"), shop.step("bad", error=DECLINED), shop.step("c"), shop.step("d")]
    saga = _saga(Parallel("one_by_one", branches, max_concurrency=1))
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("grouped", Order())
        state = await handle.result(timeout=10)
        started = events_of(await handle.history(), "StepStarted")

    assert (state.status, shop.done) == (Status.COMPENSATED, ["a", "undo a"])
    assert [event.step for event in started] == ["a", "bad"]


async def test_a_cancel_lets_running_branches_settle(database: str) -> None:
    shop = _Shop()
    branches = [[shop.step(f"{name}1", held=True), shop.step(f"{name}2")] for name in "ab"]
    async with orchestrating(database, _saga(Parallel("both", branches))) as orchestrator:
        handle = await orchestrator.start("grouped", Order())
        await shop.begun["a1"].wait()
        await shop.begun["b1"].wait()
        assert await handle.cancel("changed my mind")
        shop.let_go["a1"].set()
        await until(database, _event("StepSucceeded"))
        shop.let_go["b1"].set()
        state = await handle.result(timeout=10)

    assert (state.status, shop.done[:2]) == (Status.COMPENSATED, ["a1", "b1"])
    assert sorted(shop.done[2:]) == ["undo a1", "undo b1"]


# -- contradictions -------------------------------------------------------------------------


async def test_branches_that_contradict_each_other_turn_the_saga_back_by_name(
    database: str,
) -> None:
    shop = _Shop()
    group = Parallel(
        "three",
        [
            shop.step("a", {"note": "x", "amount": 1.0}),
            [Sleep("nap", 0), shop.step("b", {"note": "y", "amount": 1.0}, held=True)],
            shop.step("slow", held=True),
        ],
    )
    saga = _saga(shop.step("first"), group, shop.step("never"))
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("grouped", Order())
        await until(database, _event("StepSucceeded") + " AND data->>'step' = 'a'")
        shop.let_go["b"].set()
        await until(database, _event("StepSucceeded") + " AND data->>'step' = 'b'")
        shop.let_go["slow"].set()
        state = await handle.result(timeout=10)
        (turned,) = events_of(await handle.history(), "CompensationStarted")

    message = "'b' and 'a' returned different values for note"
    assert (turned.reason, turned.because_of, turned.message) == ("conflict", "b", message)
    assert state.error is not None
    assert (state.status, state.error.message) == (Status.COMPENSATED, message)
    assert state.context.note == "x"
    assert sorted(shop.done[-4:-1]) == ["undo a", "undo b", "undo slow"]
    assert shop.done[-1] == "undo first"


async def test_branches_that_agree_and_steps_in_sequence_do_not_contradict(database: str) -> None:
    shop = _Shop()
    group = Parallel(
        "both",
        [
            [shop.step("a", {"note": "draft"}), shop.step("b", {"note": "final"})],
            shop.step("c", {"amount": 1.0}),
            [Sleep("nap", 0.02), shop.step("d", {"amount": 1.0})],
        ],
    )
    saga = _saga(shop.step("first", {"note": "none", "amount": 0.0}), group)
    async with orchestrating(database, saga) as orchestrator:
        state = await (await orchestrator.start("grouped", Order())).result(timeout=10)

    assert state.status is Status.COMPLETED
    assert (state.context.note, state.context.amount) == ("final", 1.0)


# -- when -----------------------------------------------------------------------------------


class _Asked:
    """A predicate whose answer can be changed, and how often it was asked."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.times = 0

    def __call__(self, _order: Order) -> bool:
        self.times += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer  # type: ignore[no-any-return]


async def test_a_skip_is_recorded_and_stands_whatever_would_be_said_later(database: str) -> None:
    shop, asked = _Shop(), _Asked(answer=False)
    saga = _saga(
        shop.step("first"),
        shop.step("gift", when=asked),
        shop.step("held", held=True),
        shop.step("last"),
    )
    async with orchestrating(database, saga) as dead:
        handle = await dead.start("grouped", Order())
        await shop.begun["held"].wait()
        await dead.vanish()
    asked.answer = True
    await run_sql(database, EXPIRE)
    shop.let_go["held"].set()
    async with orchestrating(database, saga) as orchestrator:
        state = await orchestrator.wait(handle.id, timeout=10)
        history = await orchestrator.history(handle.id)

    (skipped,) = events_of(history, "StepSkipped")
    assert (skipped.step, skipped.reason, skipped.actor) == ("gift", None, None)
    assert (state.status, shop.done) == (Status.COMPLETED, ["first", "held", "last"])
    assert "gift" not in state.completed_steps
    assert asked.times == 1


async def test_a_step_that_was_begun_is_not_skipped_whatever_would_be_said_later(
    database: str,
) -> None:
    shop, asked = _Shop(), _Asked(answer=True)
    saga = _saga(shop.step("first"), shop.step("gift", when=asked, held=True))
    async with orchestrating(database, saga) as dead:
        handle = await dead.start("grouped", Order())
        await shop.begun["gift"].wait()
        await dead.vanish()
    asked.answer = False
    await run_sql(database, EXPIRE)
    shop.let_go["gift"].set()
    async with orchestrating(database, saga) as orchestrator:
        state = await orchestrator.wait(handle.id, timeout=10)
        history = await orchestrator.history(handle.id)

    assert (state.status, shop.done) == (Status.COMPLETED, ["first", "gift"])
    assert not events_of(history, "StepSkipped")
    assert asked.times == 1


async def test_a_predicate_is_not_asked_again_for_another_attempt(database: str) -> None:
    asked, tries = _Asked(answer=True), list[int]()

    async def fails_twice(_order: Order, step: StepContext) -> None:
        tries.append(step.attempt)
        asked.answer = False
        if step.attempt < 3:
            raise ValueError("not yet")

    saga = _saga(Step("only", fails_twice, when=asked, retry=SOON))
    async with orchestrating(database, saga) as orchestrator:
        state = await (await orchestrator.start("grouped", Order())).result(timeout=10)

    assert (state.status, tries, asked.times) == (Status.COMPLETED, [1, 2, 3], 1)


@pytest.mark.parametrize(("amount", "ran"), [(5.0, True), (1.0, False)])
async def test_a_predicate_sees_what_came_before(database: str, amount: float, ran: bool) -> None:  # noqa: FBT001
    shop = _Shop()

    def is_dear(order: Order) -> bool:
        return order.amount is not None and order.amount > 2

    saga = _saga(shop.step("price", {"amount": amount}), shop.step("insure", when=is_dear))
    async with orchestrating(database, saga) as orchestrator:
        state = await (await orchestrator.start("grouped", Order())).result(timeout=10)

    assert ("insure" in state.completed_steps, "insure" in shop.done) == (ran, ran)


async def test_what_was_skipped_is_not_compensated_and_holds_up_nobody(database: str) -> None:
    shop = _Shop()
    no = _Asked(answer=False)
    saga = _saga(
        shop.step("a"),
        shop.step("b", when=no),
        Parallel("both", [shop.step("c", when=no), [shop.step("d", when=no), shop.step("e")]]),
        shop.step("f", when=no),
        shop.step("bad", error=DECLINED),
    )
    async with orchestrating(database, saga) as orchestrator:
        state = await (await orchestrator.start("grouped", Order())).result(timeout=10)

    assert (state.status, shop.done) == (Status.COMPENSATED, ["a", "e", "undo e", "undo a"])
    assert state.compensated_steps == ("a", "e")


def _never(_order: Order) -> Any:
    raise AssertionError("nobody may ask")


_NO = _Asked(answer=False)
_CHILD = Saga("kid", context=Order, steps=[Step("kids", nothing)])


@pytest.mark.parametrize(
    "node",
    [
        Step("maybe", _never, when=_NO),
        ForEach("maybe", _never, Step("item", nothing), when=_NO),
        Sleep("maybe", 3600, when=_NO),
        Sleep("maybe", _never, when=_NO),
        WaitForSignal("maybe", when=_NO),
        ChildSaga("maybe", _CHILD, _never, when=_NO),
    ],
    ids=["step", "group", "sleep", "computed-sleep", "signal", "child"],
)
async def test_every_kind_of_node_can_be_skipped(database: str, node: Any) -> None:
    async with orchestrating(database, _saga(node, Step("last", nothing))) as orchestrator:
        handle = await orchestrator.start("grouped", Order())
        state = await handle.result(timeout=10)
        names = await types(handle)
        children = await orchestrator.store.children(handle.id)

    assert (state.status, state.completed_steps) == (Status.COMPLETED, ("last",))
    assert names == ["SagaStarted", "StepSkipped", "StepStarted", "StepSucceeded", "SagaCompleted"]
    assert not children


async def test_a_saga_of_skipped_steps_is_completed(database: str) -> None:
    shop = _Shop()
    no = _Asked(answer=False)
    saga = _saga(Parallel("both", [shop.step("a", when=no), shop.step("b", when=no)]))
    async with orchestrating(database, saga) as orchestrator:
        state = await (await orchestrator.start("grouped", Order())).result(timeout=10)

    assert (state.status, state.completed_steps, shop.done) == (Status.COMPLETED, (), [])


async def test_a_predicate_that_raises_fails_its_step_before_it_was_begun(database: str) -> None:
    shop = _Shop()
    gift = shop.step("gift", when=_Asked(ValueError("no such customer")))
    async with orchestrating(database, _saga(shop.step("other"), gift)) as orchestrator:
        handle = await orchestrator.start("grouped", Order())
        state = await handle.result(timeout=10)
        (failed,) = events_of(await handle.history(), "StepFailed")

    assert (failed.step, failed.attempt, failed.error_type) == ("gift", 0, "ValueError")
    assert state.error is not None
    assert (state.error.step_name, state.error.message) == ("gift", "no such customer")
    assert (state.status, shop.done) == (Status.COMPENSATED, ["other", "undo other"])


async def test_a_saga_whose_first_predicate_raises_says_so_in_its_row(database: str) -> None:
    """It has ended before it was written."""
    shop = _Shop()
    gift = shop.step("gift", when=_Asked(ValueError("no such customer")))
    async with orchestrating(database, _saga(gift)) as orchestrator:
        handle = await orchestrator.start("grouped", Order())
        state = await handle.result(timeout=10)
        row = await orchestrator.store.get(handle.id)

    assert state.error is not None
    assert (state.status, state.error.message) == (Status.COMPENSATED, "no such customer")
    assert row is not None
    assert row.error is not None
    assert row.error["message"] == "no such customer"


async def test_a_predicate_that_raises_after_the_pivot_parks_and_is_asked_again(
    database: str,
) -> None:
    shop, asked = _Shop(), _Asked(ValueError("no such customer"))
    saga = _saga(shop.step("pay", pivot=True, compensate=None), shop.step("gift", when=asked))
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("grouped", Order())
        parked = await handle.result(timeout=10)
        asked.answer = True
        assert await orchestrator.retry(handle.id, reason="customer restored", actor="ann")
        state = await handle.result(timeout=10)

    assert parked.status is Status.PARKED
    assert parked.error is not None
    assert "no such customer" in parked.error.message
    assert (state.status, shop.done) == (Status.COMPLETED, ["pay", "gift"])


class _Undecided:
    """A value that is neither true nor false, like an array of several numbers."""

    def __bool__(self) -> bool:
        raise ValueError("the truth of an array is ambiguous")


async def test_a_predicate_whose_answer_is_neither_yes_nor_no_fails_its_step(
    database: str,
) -> None:
    shop = _Shop()
    saga = _saga(shop.step("first"), shop.step("gift", when=_Asked(_Undecided())))
    async with orchestrating(database, saga) as orchestrator:
        state = await (await orchestrator.start("grouped", Order())).result(timeout=1)

    assert (state.status, shop.done) == (Status.COMPENSATED, ["first", "undo first"])

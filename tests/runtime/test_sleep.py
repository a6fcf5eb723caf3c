"""Does a sleep outlive its worker, cost nothing meanwhile, and never end early?"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import pytest

from eventsaga import (
    Parallel,
    PermanentError,
    Saga,
    SagaHandle,
    SagaState,
    Settings,
    Sleep,
    Status,
    Step,
    failpoints,
)
from eventsaga.runtime import clock
from tests.runtime.sagas import (
    ONCE,
    QUICK,
    Order,
    events_of,
    nothing,
    orchestrating,
    run_sql,
    types,
    until,
)

pytestmark = pytest.mark.usefixtures("sound")

IN_TABLE = replace(QUICK, release_after=timedelta(seconds=0.02))
LONG = 3600

ASLEEP = "SELECT count(*) FROM eventsaga.sagas WHERE owner IS NULL AND wake_at > now()"
IN_MEMORY = (
    "SELECT count(*) FROM eventsaga.sagas JOIN eventsaga.events USING (saga_id)"
    " WHERE owner IS NOT NULL AND type = 'TimerStarted'"
)
OVERDUE = (
    "SELECT bool_and(clock_timestamp() > (data->>'fire_at')::timestamptz)"
    " FROM eventsaga.events WHERE type = 'TimerStarted'"
)
WAKE_AT = "SELECT wake_at FROM eventsaga.sagas WHERE owner IS NULL AND wake_at > now()"
FIRED = "SELECT count(*) FROM eventsaga.events WHERE type = 'TimerFired'"
LEAST_LATE = """
SELECT min(f.recorded_at - (s.data->>'fire_at')::timestamptz)
  FROM eventsaga.events s
  JOIN eventsaga.events f ON f.saga_id = s.saga_id AND f.data->>'step' = s.data->>'step'
 WHERE s.type = 'TimerStarted' AND f.type = 'TimerFired'
"""
EXPIRE = "UPDATE eventsaga.workers SET lease_until = now() - interval '1 s'"


class _Shop:
    """Steps that note their calls, one of which can be held."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.begun = asyncio.Event()
        self.let_go = asyncio.Event()

    async def hold(self, _order: Order) -> None:
        self.begun.set()
        await self.let_go.wait()
        self.done.append("held")

    def act(self, name: str) -> Callable[..., Any]:
        async def act(_order: Order) -> None:
            self.done.append(name)

        return act

    def step(self, name: str) -> Step:
        return Step(name, self.act(name), compensate=self.act(f"undo {name}"))

    def saga(self, duration: Any, **options: Any) -> Saga[Order]:
        """Return a saga that sleeps between two steps."""
        steps: list[Any] = [self.step("before"), Sleep("night", duration), self.step("after")]
        return Saga("sleeper", context=Order, steps=steps, **options)


async def _started(handle: SagaHandle, step: str = "night") -> Any:
    """Return the event that began the sleep *step*."""
    history = await handle.history()
    (started,) = [it for it in events_of(history, "TimerStarted") if it.step == step]
    return started


async def _ended(handle: SagaHandle) -> SagaState[Any]:
    return await handle.result(timeout=10)


# -- asleep ---------------------------------------------------------------------------------


async def test_who_sleeps_is_nobodys_and_is_due_when_its_time_is_over(database: str) -> None:
    shop = _Shop()
    async with orchestrating(database, shop.saga(LONG)) as orchestrator:
        handle = await orchestrator.start("sleeper", Order())
        wake_at = await until(database, WAKE_AT)
        started = await _started(handle)
        state = await handle.state()

    assert wake_at == started.fire_at == started.at + timedelta(seconds=LONG)
    assert (state.status, state.current_steps) == (Status.RUNNING, ("night",))
    assert shop.done == ["before"]


async def test_who_falls_asleep_together_leaves_together(database: str) -> None:
    """A statement each would keep the connections from everybody else."""
    left: list[str] = []
    saga = Saga("sleeper", context=Order, steps=[Sleep("night", LONG)])
    with failpoints.calling("before_give_up", lambda _place, text: left.append(text)):
        async with orchestrating(database, saga, settings=IN_TABLE) as orchestrator:
            await orchestrator.start_many("sleeper", [Order()] * 400)
            await until(database, f"SELECT ({ASLEEP}) = 400")

    assert len(left) < 100


async def test_who_sleeps_takes_no_room_of_its_worker(database: str) -> None:
    """One place, ten sleepers: whoever comes next is run all the same."""
    shop = _Shop()
    awake = Saga("awake", context=Order, steps=[shop.step("only")])
    narrow = replace(QUICK, max_concurrency=1)
    async with orchestrating(database, shop.saga(LONG), awake, settings=narrow) as orchestrator:
        for _ in range(10):
            await orchestrator.start("sleeper", Order())
        await until(database, ASLEEP.replace("count(*)", "count(*) = 10"))
        state = await _ended(await orchestrator.start("awake", Order()))

        assert state.status is Status.COMPLETED
        assert orchestrator._worker is not None
        assert not orchestrator._worker._runs


@pytest.mark.parametrize("settings", [QUICK, IN_TABLE], ids=["in_memory", "in_table"])
async def test_the_saga_goes_on_when_the_sleep_is_over(database: str, settings: Settings) -> None:
    shop = _Shop()
    async with orchestrating(database, shop.saga(0.3), settings=settings) as orchestrator:
        handle = await orchestrator.start("sleeper", Order())
        state = await _ended(handle)
        names = await types(handle)

    assert (state.status, shop.done) == (Status.COMPLETED, ["before", "after"])
    assert state.completed_steps == ("before", "night", "after")
    assert names[3:7] == ["TimerStarted", "TimerFired", "StepSucceeded", "StepStarted"]


# -- never early ----------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [QUICK, IN_TABLE], ids=["in_memory", "in_table"])
async def test_no_sleep_is_over_early_by_the_databases_clock(
    database: str, settings: Settings
) -> None:
    saga = Saga("naps", context=Order, steps=[Sleep("nap", _amount)])
    async with orchestrating(database, saga, settings=settings) as orchestrator:
        handles = [
            await orchestrator.start("naps", Order(amount=0.05 + number / 100))
            for number in range(30)
        ]
        for handle in handles:
            await _ended(handle)

    assert await until(database, f"SELECT ({FIRED}) = 30")
    assert await until(database, LEAST_LATE) >= timedelta(0)


class _Ahead(datetime):
    """The clock of a machine that is a day ahead."""

    @classmethod
    def now(cls, tz: Any = None) -> Self:
        """Return an instant of tomorrow."""
        return super().now(tz) + timedelta(days=1)


async def test_a_worker_whose_own_clock_is_ahead_wakes_nobody_early(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "datetime", _Ahead)
    shop = _Shop()
    async with orchestrating(database, shop.saga(0.3), worker=False) as client:
        handle = await client.start("sleeper", Order())
        async with orchestrating(database, shop.saga(0.3), settings=IN_TABLE):
            await _ended(handle)
        started = await _started(handle)

    assert started.fire_at < datetime.now(UTC)
    assert await until(database, LEAST_LATE) >= timedelta(0)


# -- durable --------------------------------------------------------------------------------


async def test_a_sleep_outlives_the_orchestrator_that_began_it(database: str) -> None:
    shop = _Shop()
    saga = shop.saga(1)
    async with orchestrating(database, saga, settings=IN_TABLE) as first:
        handle = await first.start("sleeper", Order())
        await until(database, ASLEEP)
    assert shop.done == ["before"]
    async with orchestrating(database, saga) as second:
        state = await second.wait(handle.id, timeout=10)
        history = await second.history(handle.id)

    (started,) = [stored for stored in history if stored.type == "TimerStarted"]
    (fired,) = [stored for stored in history if stored.type == "TimerFired"]
    assert (state.status, shop.done) == (Status.COMPLETED, ["before", "after"])
    assert fired.worker_id != started.worker_id
    assert await until(database, LEAST_LATE) >= timedelta(0)


@pytest.mark.parametrize("dies", [False, True], ids=["stops", "dies"])
async def test_a_sleep_in_the_memory_of_a_worker_goes_on_elsewhere(
    database: str, *, dies: bool
) -> None:
    """With the end that it had, neither begun anew nor cut short."""
    shop = _Shop()
    saga = shop.saga(1)
    async with orchestrating(database, saga) as first:
        handle = await first.start("sleeper", Order())
        await until(database, IN_MEMORY)
        started = await _started(handle)
        if dies:
            await first.vanish()
            await run_sql(database, EXPIRE)
    async with orchestrating(database, saga) as second:
        state = await second.wait(handle.id, timeout=10)
        names = [stored.type for stored in await second.history(handle.id)]
        (again,) = events_of(await second.history(handle.id), "TimerStarted")

    assert (state.status, shop.done) == (Status.COMPLETED, ["before", "after"])
    assert again == started
    assert names.count("TimerFired") == 1
    assert await until(database, LEAST_LATE) >= timedelta(0)


async def test_a_sleep_that_ended_while_nobody_ran_is_over_at_once(database: str) -> None:
    shop = _Shop()
    saga = shop.saga(0.5)
    async with orchestrating(database, saga) as first:
        handle = await first.start("sleeper", Order())
        await until(database, IN_MEMORY)
    await until(database, OVERDUE)
    async with orchestrating(database, saga, worker=False) as client:
        assert (await client.get(handle.id)).status is Status.RUNNING
        async with orchestrating(database, saga):
            state = await client.wait(handle.id, timeout=10)

    assert (state.status, shop.done) == (Status.COMPLETED, ["before", "after"])


# -- how long -------------------------------------------------------------------------------


def _nothing(_order: Order) -> int:
    return 0


@pytest.mark.parametrize(
    "duration", [0, timedelta(0), _nothing], ids=["number", "timedelta", "function"]
)
async def test_a_sleep_of_no_time_costs_no_commit(database: str, duration: Any) -> None:
    async with orchestrating(database, _Shop().saga(duration)) as orchestrator:
        handle = await orchestrator.start("sleeper", Order())
        state = await _ended(handle)
        names = await types(handle)
    commits = await until(
        database,
        "SELECT count(DISTINCT txid::text) FROM eventsaga.events"
        " WHERE type IN ('TimerStarted', 'TimerFired')"
        " OR type = 'StepStarted' AND data->>'step' = 'after'",
    )

    assert state.status is Status.COMPLETED
    first = names.index("TimerStarted")
    assert names[first : first + 4] == [
        "TimerStarted",
        "TimerFired",
        "StepSucceeded",
        "StepStarted",
    ]
    assert commits == 1


def _amount(order: Order) -> float:
    assert order.amount is not None
    return order.amount


def _amount_of_minutes(order: Order) -> timedelta:
    return timedelta(minutes=_amount(order))


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [(_amount, 1800), (_amount_of_minutes, 1800 * 60)],
    ids=["seconds", "timedelta"],
)
async def test_a_sleep_may_last_as_long_as_the_context_says(
    database: str, asked: Callable[[Order], Any], seconds: float
) -> None:
    async def price(_order: Order) -> dict[str, float]:
        return {"amount": 1800}

    steps: list[Any] = [Step("price", price), Sleep("night", asked)]
    saga = Saga("sleeper", context=Order, steps=steps)
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("sleeper", Order(amount=1))
        wake_at = await until(database, WAKE_AT)
        started = await _started(handle)

    assert wake_at == started.fire_at == started.at + timedelta(seconds=seconds)


def _noted(order: Order) -> datetime:
    assert order.note is not None
    return datetime.fromisoformat(order.note)


async def test_a_sleep_may_last_until_an_instant(database: str) -> None:
    instant = datetime.now(UTC) + timedelta(days=1)
    saga = _Shop().saga(_noted)
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("sleeper", Order(note=instant.isoformat()))
        wake_at = await until(database, WAKE_AT)

        assert wake_at == (await _started(handle)).fire_at == instant


async def test_a_sleep_until_an_instant_that_is_past_is_over_at_once(database: str) -> None:
    past = Order(note="2001-01-01T00:00:00+00:00")
    async with orchestrating(database, _Shop().saga(_noted)) as orchestrator:
        state = await _ended(await orchestrator.start("sleeper", past))

    assert state.status is Status.COMPLETED


def _answering(answer: Any) -> Callable[[Order], Any]:
    def answering(_order: Order) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    return answering


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (LookupError("no calendar"), "no calendar"),
        (-1, "must not be negative"),
        ("long", "must be seconds or a timedelta"),
        (datetime(2030, 1, 1), "must have a timezone"),  # noqa: DTZ001
    ],
    ids=["raises", "negative", "text", "naive"],
)
async def test_a_sleep_of_no_known_length_turns_the_saga_back(
    database: str, answer: Any, told: str
) -> None:
    shop = _Shop()
    async with orchestrating(database, shop.saga(_answering(answer))) as orchestrator:
        state = await _ended(await orchestrator.start("sleeper", Order()))

    assert (state.status, shop.done) == (Status.COMPENSATED, ["before", "undo before"])
    assert state.error is not None
    assert state.error.step_name == "night"
    assert told in state.error.message


# -- beside others --------------------------------------------------------------------------


async def test_a_sleep_ends_while_a_sibling_works(database: str) -> None:
    shop = _Shop()
    branches: list[Any] = [[Sleep("nap", 0.2), shop.step("rested")], Step("work", shop.hold)]
    saga = Saga("sleeper", context=Order, steps=[Parallel("both", branches), shop.step("last")])
    async with orchestrating(database, saga, settings=IN_TABLE) as orchestrator:
        handle = await orchestrator.start("sleeper", Order())
        await shop.begun.wait()
        await until(database, FIRED)
        assert not shop.let_go.is_set()
        shop.let_go.set()
        state = await _ended(handle)

    assert state.status is Status.COMPLETED
    assert (sorted(shop.done[:-1]), shop.done[-1]) == (["held", "rested"], "last")
    assert await until(database, LEAST_LATE) >= timedelta(0)


async def test_a_saga_leaves_memory_when_the_last_sibling_of_a_sleep_is_done(
    database: str,
) -> None:
    shop = _Shop()
    saga = Saga(
        "sleeper",
        context=Order,
        steps=[Parallel("both", [Sleep("night", LONG), Step("work", shop.hold)])],
    )
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("sleeper", Order())
        await shop.begun.wait()
        held = await until(database, "SELECT count(*) FROM eventsaga.sagas WHERE owner IS NOT NULL")
        shop.let_go.set()
        wake_at = await until(database, WAKE_AT)
        state = await handle.state()

        assert (held, state.completed_steps) == (1, ("work",))
        assert wake_at == (await _started(handle)).fire_at


async def test_of_two_sleeps_the_earlier_wakes_the_saga_first(database: str) -> None:
    shop = _Shop()
    late: list[Any] = [Sleep("late", 1.2), shop.step("second")]
    early: list[Any] = [Sleep("early", 0.6), shop.step("first")]
    saga = Saga("sleeper", context=Order, steps=[Parallel("both", [late, early])])
    async with orchestrating(database, saga, settings=IN_TABLE) as orchestrator:
        handle = await orchestrator.start("sleeper", Order())
        first = await until(database, WAKE_AT)
        due = {name: (await _started(handle, name)).fire_at for name in ("early", "late")}
        second = await until(database, f"{WAKE_AT} AND wake_at <> $1", first)
        assert shop.done == ["first"]
        state = await _ended(handle)
        fired = [event.step for event in events_of(await handle.history(), "TimerFired")]

    assert (first, second) == (due["early"], due["late"])
    assert fired == ["early", "late"]
    assert (state.status, shop.done) == (Status.COMPLETED, ["first", "second"])
    assert await until(database, LEAST_LATE) >= timedelta(0)


async def test_a_failure_beside_a_sleep_does_not_wait_for_it(database: str) -> None:
    async def decline(_order: Order) -> None:
        raise PermanentError("declined")

    shop = _Shop()
    both = Parallel("both", [Sleep("night", LONG), Step("pay", decline, retry=ONCE)])
    saga = Saga("sleeper", context=Order, steps=[shop.step("before"), both])
    async with orchestrating(database, saga) as orchestrator:
        state = await _ended(await orchestrator.start("sleeper", Order()))

    assert (state.status, shop.done) == (Status.COMPENSATED, ["before", "undo before"])


# -- cut short ------------------------------------------------------------------------------


async def test_a_cancel_does_not_wait_for_the_end_of_a_sleep(database: str) -> None:
    shop = _Shop()
    async with orchestrating(database, shop.saga(LONG)) as orchestrator:
        handle = await orchestrator.start("sleeper", Order())
        await until(database, ASLEEP)
        assert await handle.cancel("changed my mind", actor="ann")
        state = await _ended(handle)
        names = await types(handle)
        row = await until(database, "SELECT owner IS NULL AND wake_at IS NULL FROM eventsaga.sagas")

    assert (state.status, shop.done) == (Status.COMPENSATED, ["before", "undo before"])
    assert "TimerFired" not in names
    assert row


async def test_a_cancel_of_a_sleeper_without_a_worker_is_taken_by_the_next(database: str) -> None:
    shop = _Shop()
    saga = shop.saga(LONG)
    async with orchestrating(database, saga) as first:
        handle = await first.start("sleeper", Order())
        await until(database, ASLEEP)
    async with orchestrating(database, worker=False) as stranger:
        assert not await stranger.cancel(handle.id, "changed my mind", timeout=0)
        async with orchestrating(database, saga):
            state = await stranger.wait(handle.id, timeout=10)

    assert (state.status, shop.done) == (Status.COMPENSATED, ["before", "undo before"])


@pytest.mark.parametrize("settings", [QUICK, IN_TABLE], ids=["in_memory", "in_table"])
async def test_a_deadline_does_not_wait_for_the_end_of_a_sleep(
    database: str, settings: Settings
) -> None:
    shop = _Shop()
    saga = shop.saga(LONG, deadline=0.4)
    async with orchestrating(database, saga, settings=settings) as orchestrator:
        handle = await orchestrator.start("sleeper", Order())
        state = await _ended(handle)
        history = await handle.history()

    (exceeded,) = events_of(history, "SagaDeadlineExceeded")
    (recorded_at,) = [it.recorded_at for it in history if it.type == "SagaDeadlineExceeded"]
    assert (state.status, shop.done) == (Status.COMPENSATED, ["before", "undo before"])
    assert recorded_at >= exceeded.deadline_at
    assert "TimerFired" not in [stored.type for stored in history]


async def test_who_sleeps_beyond_its_deadline_is_due_at_the_deadline(database: str) -> None:
    async with orchestrating(database, _Shop().saga(LONG, deadline=60)) as orchestrator:
        handle = await orchestrator.start("sleeper", Order())
        wake_at = await until(database, WAKE_AT)
        (started,) = events_of(await handle.history(), "SagaStarted")

        assert wake_at == started.deadline_at


async def test_after_the_pivot_a_deadline_lets_sleepers_sleep(database: str) -> None:
    steps: list[Any] = [
        Step("pay", nothing, pivot=True),
        Sleep("night", 0.4),
        Step("ship", nothing),
    ]
    saga = Saga("sleeper", context=Order, steps=steps, deadline=0.2)
    async with orchestrating(database, saga, settings=IN_TABLE) as orchestrator:
        handle = await orchestrator.start("sleeper", Order())
        state = await _ended(handle)
        names = await types(handle)

    assert state.status is Status.COMPLETED
    assert "SagaDeadlineExceeded" not in names

"""What becomes of a step's own rows, however its attempt ends? They share its fate."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

import asyncpg
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from eventsaga import (
    ForEach,
    Orchestrator,
    Parallel,
    PermanentError,
    Retry,
    Saga,
    SagaHandle,
    Settings,
    Status,
    Step,
    StepContext,
)
from tests.runtime.sagas import (
    ONCE,
    QUICK,
    SOON,
    Order,
    events_of,
    nothing,
    one_step,
    orchestrating,
    run_sql,
    types,
    until,
)
from tests.store.barriers import logged

pytestmark = [pytest.mark.usefixtures("sound"), pytest.mark.timeout(60)]

EXPIRE: Final = "UPDATE eventsaga.workers SET lease_until = now() - interval '1 s'"
# No transaction of a step is left open.
QUIET: Final = (
    "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = current_database()"
    " AND state LIKE 'idle in transaction%'"
)

Function = Callable[[Order, StepContext], Awaitable[Any]]


@pytest.fixture(autouse=True)
async def bookings(database: str) -> None:
    """The user's tables; nothing keeps a row from being written twice."""
    await run_sql(
        database,
        "CREATE TABLE bookings (step text NOT NULL, note text NOT NULL)",
        "CREATE TABLE stock (id int PRIMARY KEY, amount int NOT NULL)",
        "INSERT INTO stock VALUES (1, 100), (2, 100)",
    )


async def write(step: StepContext, note: str | None = None) -> None:
    """Write one row on the step's connection."""
    await step.connection.execute(
        text("INSERT INTO bookings VALUES (:step, :note)"),
        {"step": step.step, "note": f"attempt {step.attempt}" if note is None else note},
    )


async def rows(database: str) -> list[str]:
    connection = await asyncpg.connect(database)
    try:
        found = await connection.fetch("SELECT step || ': ' || note FROM bookings ORDER BY 1")
    finally:
        await connection.close()
    return [row[0] for row in found]


async def run(
    database: str, execute: Function, *, settings: Settings = QUICK, **options: Any
) -> tuple[Any, list[Any]]:
    """Return where a saga of one transactional step settled, and its history."""
    saga = one_step(execute, transactional=True, **({"retry": SOON} | options))
    async with orchestrating(database, saga, settings=settings) as orchestrator:
        handle = await orchestrator.start("one", Order())
        state = await handle.result(timeout=20)
        history = list(await handle.history())
        assert await until(database, QUIET)
    assert not events_of(history, "StepInDoubt")
    return state, history


# -- errors and timeouts --------------------------------------------------------------------


async def test_an_error_undoes_the_rows_and_is_recorded_as_a_failure(database: str) -> None:
    async def execute(_order: Order, step: StepContext) -> None:
        await write(step)
        raise PermanentError("sold out")

    state, history = await run(database, execute)

    assert (state.status, await rows(database)) == (Status.COMPENSATED, [])
    (failed,) = events_of(history, "StepFailed")
    assert (failed.error_type, failed.message) == ("PermanentError", "sold out")
    assert not failed.interrupted


async def test_the_next_attempt_has_a_transaction_of_its_own(database: str) -> None:
    async def execute(_order: Order, step: StepContext) -> dict[str, Any]:
        seen = await step.session.scalar(text("SELECT count(*) FROM bookings"))
        await write(step)
        if step.attempt < 3:
            raise ValueError("not yet")
        return {"data": seen}

    state, history = await run(database, execute)

    assert (state.status, state.context.data) == (Status.COMPLETED, 0)
    assert await rows(database) == ["only: attempt 3"]
    assert [event.error_type for event in events_of(history, "StepFailed")] == ["ValueError"] * 2


async def test_a_statement_that_the_database_refuses_spends_an_attempt(database: str) -> None:
    async def execute(_order: Order, step: StepContext) -> None:
        await write(step)
        await step.session.execute(text("INSERT INTO stock VALUES (1, 1)"))

    state, history = await run(database, execute)

    assert (state.status, await rows(database)) == (Status.COMPENSATED, [])
    failures = events_of(history, "StepFailed")
    assert [event.error_type for event in failures] == ["IntegrityError"] * 3
    assert not any(event.interrupted for event in failures)


async def test_a_constraint_that_is_checked_at_commit_fails_the_step(
    database: str,
) -> None:
    """The constraint is checked at COMMIT, after the function has returned."""
    await run_sql(
        database,
        "ALTER TABLE bookings ADD UNIQUE (note) DEFERRABLE INITIALLY DEFERRED",
        "INSERT INTO bookings VALUES ('other', 'taken')",
    )

    async def execute(_order: Order, step: StepContext) -> None:
        await write(step, "taken" if step.attempt == 1 else "free")

    state, history = await run(database, execute)

    assert state.status is Status.COMPLETED
    assert await rows(database) == ["only: free", "other: taken"]
    (failed,) = events_of(history, "StepFailed")
    assert (failed.error_type, failed.interrupted) == ("IntegrityError", None)


async def test_a_result_that_does_not_fit_undoes_the_rows(database: str) -> None:
    async def execute(_order: Order, step: StepContext) -> dict[str, Any]:
        await write(step)
        return {"amount": "much"}

    state, history = await run(database, execute, compensate=nothing)

    assert (state.status, await rows(database)) == (Status.COMPENSATED, [])
    assert len(events_of(history, "StepFailed")) == 1
    assert not events_of(history, "StepCompensationStarted")


async def test_a_timeout_undoes_the_rows_and_the_next_attempt_writes_them(database: str) -> None:
    async def execute(_order: Order, step: StepContext) -> None:
        await write(step)
        if step.attempt == 1:
            await asyncio.Event().wait()

    state, history = await run(database, execute, timeout=0.2)

    assert (state.status, await rows(database)) == (Status.COMPLETED, ["only: attempt 2"])
    (failed,) = events_of(history, "StepFailed")
    assert failed.error_type == "TimeoutError"


async def test_a_timeout_in_the_middle_of_a_statement_ends_that_statement(database: str) -> None:
    async def execute(_order: Order, step: StepContext) -> None:
        await write(step)
        if step.attempt == 1:
            await step.session.execute(text("SELECT pg_sleep(50)"))

    state, _ = await run(database, execute, timeout=0.2)

    assert (state.status, await rows(database)) == (Status.COMPLETED, ["only: attempt 2"])
    assert await until(
        database,
        "SELECT count(*) = 0 FROM pg_stat_activity"
        " WHERE query LIKE '%pg_sleep(50)' AND state = 'active' AND pid <> pg_backend_pid()",
    )


@pytest.mark.parametrize("operation", ["do", "undo"])
async def test_a_step_that_always_times_out_spends_its_attempts(
    database: str, operation: str
) -> None:
    async def stuck(_order: Order, step: StepContext) -> None:
        await write(step)
        await asyncio.Event().wait()

    twice = Retry(max_attempts=2, delay=0.01)
    first = (
        Step("a", stuck, retry=twice, timeout=0.05, transactional=True)
        if operation == "do"
        else Step(
            "a", nothing, compensate=stuck, compensate_retry=twice, timeout=0.05, transactional=True
        )
    )
    saga = Saga("slow", context=Order, steps=[first, Step("b", _declined)])
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("slow", Order())
        failures = await _failures(database, handle, 2)
        assert [failure.error_type for failure in failures] == ["TimeoutError"] * 2
        assert not any(failure.interrupted for failure in failures)
        state = await handle.result(timeout=10)

    assert state.status is (Status.COMPENSATED if operation == "do" else Status.PARKED)
    assert await rows(database) == []


async def _declined(_order: Order) -> None:
    raise PermanentError("declined")


async def _failures(database: str, handle: SagaHandle, count: int) -> list[Any]:
    """Return the first failures of step a, or of its compensation, as soon as there are so many."""
    await until(
        database,
        "SELECT count(*) >= $2 FROM eventsaga.events WHERE saga_id = $1 AND data->>'step' <> 'b'"
        " AND type IN ('StepFailed', 'StepCompensationFailed')",
        handle.id,
        count,
    )
    history = await handle.history()
    failed = events_of(history, "StepCompensationFailed") or events_of(history, "StepFailed")
    return failed[:count]


@pytest.mark.parametrize(
    "error",
    [FileNotFoundError("price list"), EOFError("short file"), OSError("disk")],
    ids=lambda error: type(error).__name__,
)
async def test_an_error_that_is_not_the_database_s_spends_an_attempt(
    database: str, error: Exception
) -> None:
    async def execute(_order: Order, step: StepContext) -> None:
        await write(step)
        raise error

    saga = one_step(execute, transactional=True, retry=SOON)
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("one", Order())
        failures = await _failures(database, handle, 3)
        assert not any(failure.interrupted for failure in failures)
        state = await handle.result(timeout=10)

    assert (state.status, await rows(database)) == (Status.COMPENSATED, [])


async def test_what_the_step_calls_permanent_is_not_tried_again_whatever_its_cause(
    database: str,
) -> None:
    async def execute(_order: Order, step: StepContext) -> None:
        await write(step)
        try:
            await step.connection.execute(text("SET LOCAL statement_timeout = 1"))
            await step.connection.execute(text("SELECT pg_sleep(50)"))
        except DBAPIError as error:
            raise PermanentError("too slow for us") from error

    saga = one_step(execute, transactional=True, retry=SOON)
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("one", Order())
        (failed,) = await _failures(database, handle, 1)
        assert not failed.interrupted
        state = await handle.result(timeout=10)
        names = await types(handle)

    assert (state.status, await rows(database)) == (Status.COMPENSATED, [])
    assert names.count("StepFailed") == 1


async def test_a_step_that_cancels_itself_is_no_doubt(database: str) -> None:
    async def execute(_order: Order, step: StepContext) -> None:
        await write(step)
        if step.attempt == 1:
            raise asyncio.CancelledError

    state, history = await run(database, execute)

    assert (state.status, await rows(database)) == (Status.COMPLETED, ["only: attempt 2"])
    assert len(events_of(history, "StepFailed")) == 1


async def test_rows_of_a_step_that_outlives_a_cancel_are_undone(database: str) -> None:
    """The request is recorded while the transaction is open, and the step ends after it."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def execute(_order: Order, step: StepContext) -> None:
        await write(step, "do")
        begun.set()
        await go_on.wait()

    async def undo(_order: Order, step: StepContext) -> None:
        await write(step, "undo")

    saga = one_step(execute, compensate=undo, transactional=True)
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("one", Order())
        await begun.wait()
        await handle.cancel("changed my mind")
        await until(
            database, "SELECT true FROM eventsaga.events WHERE type = 'SagaCancelRequested'"
        )
        go_on.set()
        state = await handle.result(timeout=10)
        names = await types(handle)

    assert (state.status, await rows(database)) == (Status.COMPENSATED, ["only: do", "only: undo"])
    assert names.index("SagaCancelRequested") < names.index("StepSucceeded")


# -- the connection -------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["in the middle", "before the end"])
async def test_a_killed_connection_is_no_doubt_and_costs_no_attempt(
    database: str, when: str
) -> None:
    async def execute(_order: Order, step: StepContext) -> None:
        await write(step)
        if step.attempt < 4:
            pid = await step.connection.scalar(text("SELECT pg_backend_pid()"))
            await until(database, "SELECT pg_terminate_backend($1)", pid)
            await until(
                database, "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", pid
            )
            if when == "in the middle":
                await write(step, "again")

    state, history = await run(database, execute, retry=ONCE)

    assert (state.status, await rows(database)) == (Status.COMPLETED, ["only: attempt 4"])
    failures = events_of(history, "StepFailed")
    assert [event.interrupted for event in failures] == [True] * 3


async def test_a_killed_connection_of_a_compensation_is_no_doubt(database: str) -> None:
    async def undo(_order: Order, step: StepContext) -> None:
        await write(step, f"undo {step.attempt}")
        if step.attempt == 1:
            pid = await step.connection.scalar(text("SELECT pg_backend_pid()"))
            await until(database, "SELECT pg_terminate_backend($1)", pid)

    async def execute(_order: Order, step: StepContext) -> None:
        await write(step, "do")

    first = Step("a", execute, compensate=undo, compensate_retry=ONCE, transactional=True)
    saga = Saga("back", context=Order, steps=[first, Step("b", _declined)])
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("back", Order())
        state = await handle.result(timeout=20)
        history = await handle.history()

    assert (state.status, await rows(database)) == (Status.COMPENSATED, ["a: do", "a: undo 2"])
    (failed,) = events_of(history, "StepCompensationFailed")
    assert failed.interrupted
    assert not events_of(history, "StepInDoubt")


# -- who ends the transaction ---------------------------------------------------------------


async def _by_commit(step: StepContext) -> None:
    await step.connection.commit()


async def _by_rollback(step: StepContext) -> None:
    await step.connection.rollback()


async def _by_close(step: StepContext) -> None:
    await step.connection.close()


async def _by_text(step: StepContext) -> None:
    await step.session.execute(text("ROLLBACK"))


@pytest.mark.parametrize("end", [_by_commit, _by_rollback, _by_close, _by_text])
async def test_a_step_that_ends_its_transaction_has_failed_and_written_nothing(
    database: str, end: Callable[[StepContext], Awaitable[None]]
) -> None:
    async def execute(_order: Order, step: StepContext) -> None:
        await write(step)
        await end(step)

    state, history = await run(database, execute, retry=ONCE)

    assert (state.status, await rows(database)) == (Status.COMPENSATED, [])
    (failed,) = events_of(history, "StepFailed")
    assert failed.error_type == "TransactionMisusedError"
    assert "transaction" in failed.message


async def test_a_commit_of_the_session_ends_a_savepoint_only(database: str) -> None:
    async def execute(_order: Order, step: StepContext) -> None:
        insert = text("INSERT INTO bookings VALUES ('only', :note)")
        await step.session.execute(insert, {"note": f"kept by {step.attempt}"})
        await step.session.commit()
        await step.session.execute(insert, {"note": "dropped"})
        await step.session.rollback()
        if step.attempt == 1:
            raise ValueError("so what was committed is undone")

    state, _ = await run(database, execute)

    assert (state.status, await rows(database)) == (Status.COMPLETED, ["only: kept by 2"])


@pytest.mark.parametrize("what", ["session", "connection"])
async def test_a_step_without_a_transaction_says_so(database: str, what: str) -> None:
    async def execute(_order: Order, step: StepContext) -> None:
        getattr(step, what)

    async with orchestrating(database, one_step(execute, retry=ONCE)) as orchestrator:
        handle = await orchestrator.start("one", Order())
        state = await handle.result(timeout=10)
        (failed,) = events_of(await handle.history(), "StepFailed")

    assert state.status is Status.COMPENSATED
    assert failed.error_type == "DefinitionError"
    assert failed.message == "step 'only' is not transactional=True"


# -- who owns the saga ----------------------------------------------------------------------


async def test_a_worker_that_lost_the_saga_writes_no_rows(database: str) -> None:
    """Its heart has stopped, another worker has finished, and then its step ends."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def execute(_order: Order, step: StepContext) -> None:
        await write(step)
        if step.attempt == 1:
            begun.set()
            await go_on.wait()

    saga = one_step(execute, transactional=True)
    zombie = Orchestrator(database, sagas=[saga], settings=QUICK)
    await zombie.__aenter__()
    handle = await zombie.start("one", Order())
    await begun.wait()
    worker = zombie._worker
    assert worker is not None
    for task in worker._tasks:
        task.cancel()
    await run_sql(database, EXPIRE)
    async with orchestrating(database, saga) as other:
        state = await other.wait(handle.id, timeout=20)
        length = len(await other.history(handle.id))
        with logged("saga_lost") as lost:
            go_on.set()
            async with asyncio.timeout(10):
                await lost.wait()
        assert await until(database, QUIET)
        assert len(await other.history(handle.id)) == length
    await zombie.__aexit__()

    assert (state.status, await rows(database)) == (Status.COMPLETED, ["only: attempt 2"])


async def test_a_lost_lease_rolls_back_what_still_runs(database: str) -> None:
    begun = asyncio.Event()

    async def execute(_order: Order, step: StepContext) -> None:
        await write(step)
        if step.attempt == 1:
            begun.set()
            await asyncio.Event().wait()

    saga = one_step(execute, transactional=True, retry=ONCE)
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("one", Order())
        await begun.wait()
        await run_sql(database, EXPIRE)
        state = await handle.result(timeout=20)
        history = await handle.history()
        assert await until(database, QUIET)

    assert (state.status, await rows(database)) == (Status.COMPLETED, ["only: attempt 2"])
    (failed,) = events_of(history, "StepFailed")
    assert failed.interrupted
    assert not events_of(history, "StepInDoubt")


async def test_an_attempt_that_outlasts_the_drain_writes_nothing(database: str) -> None:
    begun = asyncio.Event()

    async def execute(_order: Order, step: StepContext) -> None:
        await write(step)
        if step.attempt == 1:
            begun.set()
            await asyncio.Event().wait()

    saga = one_step(execute, transactional=True, retry=ONCE)
    impatient = replace(QUICK, drain_timeout=timedelta(seconds=0.1))
    async with orchestrating(database, saga, settings=impatient) as first:
        handle = await first.start("one", Order())
        await begun.wait()
    assert await rows(database) == []
    async with orchestrating(database, saga) as second:
        state = await second.wait(handle.id, timeout=10)
        history = await second.history(handle.id)

    assert (state.status, await rows(database)) == (Status.COMPLETED, ["only: attempt 2"])
    (failed,) = events_of(history, "StepFailed")
    assert (failed.interrupted, failed.error_type) == (True, "Shutdown")


# -- other transactions ---------------------------------------------------------------------


@pytest.mark.mighty
async def test_steps_that_block_each_other_are_run_again_and_spend_no_attempt(
    database: str,
) -> None:
    """Two branches take two rows in two orders: one is the victim of the deadlock."""
    both = asyncio.Barrier(2)

    def take(first: int, second: int) -> Function:
        async def execute(_order: Order, step: StepContext) -> None:
            less = text("UPDATE stock SET amount = amount - 1 WHERE id = :id")
            await step.connection.execute(text("SET LOCAL deadlock_timeout = '50ms'"))
            await step.connection.execute(less, {"id": first})
            if step.attempt == 1:
                await both.wait()
            await step.connection.execute(less, {"id": second})
            await write(step, "taken")

        return execute

    branches = [
        Step("a", take(1, 2), transactional=True, retry=ONCE),
        Step("b", take(2, 1), transactional=True, retry=ONCE),
    ]
    saga = Saga("crossed", context=Order, steps=[Parallel("both", branches)])
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("crossed", Order())
        state = await handle.result(timeout=20)
        history = await handle.history()

    assert (state.status, await rows(database)) == (Status.COMPLETED, ["a: taken", "b: taken"])
    (victim,) = events_of(history, "StepFailed")
    assert victim.interrupted
    assert "deadlock" in victim.message
    assert await until(database, "SELECT array_agg(amount) = '{98,98}' FROM stock")


@pytest.mark.parametrize("code", ["40001", "40P01", "55P03"])
async def test_a_transaction_that_was_in_the_way_costs_no_attempt(database: str, code: str) -> None:
    raise_it = f"DO $$ BEGIN RAISE EXCEPTION 'in the way' USING ERRCODE = '{code}'; END $$"

    async def execute(_order: Order, step: StepContext) -> None:
        await write(step)
        if step.attempt < 3:
            await step.session.execute(text(raise_it))

    state, history = await run(database, execute, retry=ONCE)

    assert (state.status, await rows(database)) == (Status.COMPLETED, ["only: attempt 3"])
    assert [event.interrupted for event in events_of(history, "StepFailed")] == [True, True]


# -- many of them ---------------------------------------------------------------------------


async def test_each_item_has_a_transaction_of_its_own(database: str) -> None:
    async def execute(_order: Order, step: StepContext) -> dict[str, Any]:
        await write(step, f"{step.item} by {step.attempt}")
        if step.item == "b" and step.attempt == 1:
            raise ValueError("not yet")
        return {"item": step.item}

    each = Step("each", execute, transactional=True, retry=SOON)
    saga = Saga(
        "items",
        context=Order,
        steps=[ForEach("each", lambda _order: ["a", "b", "c"], each, into="data")],
    )
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("items", Order())
        state = await handle.result(timeout=20)

    assert state.status is Status.COMPLETED
    assert [result["item"] for result in state.context.data] == ["a", "b", "c"]
    assert await rows(database) == ["each[0]: a by 1", "each[1]: b by 2", "each[2]: c by 1"]


async def test_items_that_succeeded_are_undone_once_each_if_one_fails(database: str) -> None:
    async def execute(_order: Order, step: StepContext) -> None:
        await write(step, "do")
        if step.item == 3:
            raise PermanentError("declined")

    async def undo(_order: Order, step: StepContext) -> None:
        await write(step, "undo")

    each = Step("each", execute, compensate=undo, transactional=True)
    group = ForEach("each", lambda _order: list(range(5)), each, max_concurrency=1)
    saga = Saga("items", context=Order, steps=[group])
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("items", Order())
        state = await handle.result(timeout=20)

    assert state.status is Status.COMPENSATED
    expected = [f"each[{index}]: {what}" for index in range(3) for what in ("do", "undo")]
    assert await rows(database) == expected


class _Gauge:
    """A step that counts how many of its kind hold a transaction at the same time."""

    def __init__(self, database: str) -> None:
        self._database = database
        self.now = 0
        self.most = 0
        self.connections = 0

    async def execute(self, _order: Order, step: StepContext) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        await write(step, "done")
        open_ones = await until(
            self._database,
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND xact_start IS NOT NULL"
            " AND query LIKE 'INSERT INTO bookings%'",
        )
        self.connections = max(self.connections, open_ones)
        self.now -= 1


@pytest.mark.parametrize("limit", [1, 3])
async def test_no_more_transactions_are_open_at_once_than_the_settings_allow(
    database: str, limit: int
) -> None:
    gauge = _Gauge(database)
    settings = Settings.from_environment(
        {
            "EVENTSAGA_TRANSACTIONS": str(limit),
            "EVENTSAGA_LEASE": "3",
            "EVENTSAGA_HEARTBEAT": "0.5",
            "EVENTSAGA_POLL": "0.1",
        }
    )
    both = [Step(name, gauge.execute, transactional=True) for name in ("a", "b")]
    saga = Saga("many", context=Order, steps=[Parallel("both", both)])
    async with orchestrating(database, saga, settings=settings) as orchestrator:
        handles = await orchestrator.start_many("many", [Order() for _ in range(15)])
        states = await asyncio.gather(*(handle.result(timeout=40) for handle in handles))

    assert {state.status for state in states} == {Status.COMPLETED}
    assert (gauge.most, gauge.connections <= limit) == (limit, True)
    assert await rows(database) == ["a: done"] * 15 + ["b: done"] * 15


async def test_waiting_for_a_transaction_is_not_on_the_step_s_time(database: str) -> None:
    """The second branch waits for the only transaction far longer than it may itself take."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def long(_order: Order, step: StepContext) -> None:
        begun.set()
        await go_on.wait()
        await write(step)

    async def short(_order: Order, step: StepContext) -> None:
        await write(step)

    branches = [
        Step("long", long, transactional=True, timeout=20),
        Step("short", short, transactional=True, timeout=0.5, retry=ONCE),
    ]
    saga = Saga("two", context=Order, steps=[Parallel("both", branches)])
    one = replace(QUICK, transactions=1)
    async with orchestrating(database, saga, settings=one) as orchestrator:
        handle = await orchestrator.start("two", Order())
        await begun.wait()
        await until(
            database,
            "SELECT count(*) = 2 AND max(occurred_at) < clock_timestamp() - interval '1 s'"
            " FROM eventsaga.events WHERE type = 'StepStarted'",
        )
        go_on.set()
        state = await handle.result(timeout=20)

    assert state.status is Status.COMPLETED
    assert await rows(database) == ["long: attempt 1", "short: attempt 1"]


async def test_a_pool_of_the_user_with_fewer_connections_is_waited_for(database: str) -> None:
    gauge = _Gauge(database)
    url = make_url(database).set(drivername="postgresql+asyncpg")
    engine = create_async_engine(url, pool_size=1, max_overflow=0)
    saga = one_step(gauge.execute, transactional=True, retry=ONCE)
    try:
        async with Orchestrator(engine, sagas=[saga], settings=QUICK) as orchestrator:
            handles = await orchestrator.start_many("one", [Order() for _ in range(15)])
            states = await asyncio.gather(*(handle.result(timeout=40) for handle in handles))
    finally:
        await engine.dispose()

    assert {state.status for state in states} == {Status.COMPLETED}
    assert (gauge.most, await rows(database)) == (1, ["only: done"] * 15)


async def test_whoever_waits_for_a_transaction_lets_go_when_its_worker_stops(
    database: str,
) -> None:
    begun = asyncio.Event()

    async def execute(_order: Order, step: StepContext) -> None:
        await write(step)
        begun.set()
        await asyncio.Event().wait()

    async def finish(_order: Order, step: StepContext) -> None:
        await write(step, "done")

    impatient = replace(QUICK, transactions=1, drain_timeout=timedelta(seconds=0.1))
    stuck = one_step(execute, transactional=True)
    async with orchestrating(database, stuck, settings=impatient) as first:
        handles: list[SagaHandle] = list(await first.start_many("one", [Order(), Order()]))
        await begun.wait()
        await until(
            database,
            "SELECT count(*) = 2 FROM eventsaga.events WHERE type = 'StepStarted'",
        )
    async with orchestrating(database, one_step(finish, transactional=True)) as second:
        states = [await second.wait(handle.id, timeout=10) for handle in handles]

    assert {state.status for state in states} == {Status.COMPLETED}
    assert await rows(database) == ["only: done"] * 2

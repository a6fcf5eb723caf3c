import asyncio
from dataclasses import replace
from datetime import timedelta

import asyncpg

from eventsaga import Orchestrator, Saga, Status, Step, StepContext, failpoints
from tests.runtime.sagas import (
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

EXPIRE = "UPDATE eventsaga.workers SET lease_until = now() - interval '1 s'"


class _Counting:
    """A step that can be held, and remembers under which keys it ran."""

    def __init__(self, holds: int) -> None:
        self.keys: list[str] = []
        self.begun = asyncio.Event()
        self.forever = asyncio.Event()
        self._holds = holds

    async def execute(self, _order: Order, step: StepContext) -> None:
        self.keys.append(step.idempotency_key)
        if len(self.keys) <= self._holds:
            self.begun.set()
            await self.forever.wait()


async def test_a_worker_whose_lease_ended_takes_a_new_identity_and_recovers_its_own(
    database: str,
) -> None:
    step = _Counting(holds=1)
    async with orchestrating(database, one_step(step.execute)) as orchestrator:
        handle = await orchestrator.start("one", Order())
        await step.begun.wait()
        await run_sql(database, EXPIRE)
        state = await handle.result(timeout=20)
        history = await handle.history()

    assert state.status is Status.COMPLETED
    assert step.keys == [f"{handle.id}/only"] * 2
    (recovered,) = events_of(history, "SagaRecovered")
    assert recovered.worker_id != recovered.previous_worker_id
    (doubt,) = events_of(history, "StepInDoubt")
    assert doubt.interrupted


async def test_what_is_claimed_while_the_lease_is_lost_is_not_forgotten(database: str) -> None:
    """The claim is nobody's then, or that of the new identity, which must go on with it."""
    saga = one_step(nothing)
    async with orchestrating(database, saga, worker=False) as client:
        with failpoints.holding("before_load_owned") as hold:
            async with orchestrating(database, saga):
                await hold.reached.wait()
                await run_sql(database, EXPIRE)
                await until(database, "SELECT count(*) = 2 FROM eventsaga.workers")
                handle = await client.start("one", Order())
                hold.let_go.set()
                state = await handle.result(timeout=10)

    assert state.status is Status.COMPLETED


async def test_a_saga_whose_events_the_database_lost_is_taken_again_at_once(
    database: str,
) -> None:
    """As after a failover: its worker lives and owns it still, but is ahead of the tables."""
    step = _Counting(holds=1)
    async with orchestrating(database, one_step(step.execute)) as orchestrator:
        handle = await orchestrator.start("one", Order())
        await step.begun.wait()
        await run_sql(
            database,
            "ALTER TABLE eventsaga.events DISABLE TRIGGER events_append_only",
            "DELETE FROM eventsaga.events WHERE seq > 1",
            "UPDATE eventsaga.sagas s SET last_seq = 1, status = 'PENDING', current_steps = '{}',"
            " last_hash = e.hash FROM eventsaga.events e WHERE e.saga_id = s.saga_id",
        )
        step.forever.set()
        state = await handle.result(timeout=10)

    assert state.status is Status.COMPLETED
    assert step.keys == [f"{handle.id}/only"] * 2


async def test_a_crash_spends_no_attempt_of_the_policy(database: str) -> None:
    step = _Counting(holds=2)
    once = replace(SOON, max_attempts=1)
    async with orchestrating(database, one_step(step.execute, retry=once)) as orchestrator:
        handle = await orchestrator.start("one", Order())
        for number in (1, 2):
            await until(
                database,
                "SELECT count(*) = $1 FROM eventsaga.events WHERE type = 'StepStarted'",
                number,
            )
            await step.begun.wait()
            step.begun.clear()
            await run_sql(database, EXPIRE)
        state = await handle.result(timeout=20)

    assert (state.status, len(step.keys)) == (Status.COMPLETED, 3)


async def test_another_worker_takes_over_what_a_dead_one_left(database: str) -> None:
    step = _Counting(holds=1)
    saga = one_step(step.execute)
    dead = Orchestrator(database, sagas=[saga], settings=QUICK)
    await dead.__aenter__()
    handle = await dead.start("one", Order())
    await step.begun.wait()
    worker = dead._worker
    assert worker is not None
    # As dead as one process can be to the database while the test lives on.
    for task in worker._tasks:
        task.cancel()
    async with orchestrating(database, saga) as other:
        state = await other.wait(handle.id, timeout=20)
        assert state.status is Status.COMPLETED
        assert (await other.history(handle.id))[-1].worker_id != worker.worker_id
    step.forever.set()
    await dead.__aexit__()

    assert len(step.keys) == 2


async def test_a_saga_that_is_claimed_again_and_again_without_progress_is_parked(
    database: str,
) -> None:
    saga = one_step(nothing)
    async with orchestrating(database, saga, worker=False) as client:
        handle = await client.start("one", Order())
        good = await client.start("one", Order())
        await run_sql(
            database,
            f"UPDATE eventsaga.sagas SET claims = 5 WHERE saga_id = '{handle.id}'",  # noqa: S608
        )
        async with orchestrating(database, saga):
            state = await handle.result(timeout=10)
            other = await good.result(timeout=10)

    assert (state.status, other.status) == (Status.PARKED, Status.COMPLETED)
    assert state.error is not None
    assert "without progress" in state.error.message


async def test_a_history_that_cannot_be_read_leaves_the_others_alone(database: str) -> None:
    saga = one_step(nothing)
    async with orchestrating(database, saga, worker=False) as client:
        bad = await client.start("one", Order())
        good = await client.start("one", Order())
        await run_sql(
            database,
            "ALTER TABLE eventsaga.events DISABLE TRIGGER events_append_only",
            "UPDATE eventsaga.events SET type = 'FromTheFuture'"  # noqa: S608
            f" WHERE saga_id = '{bad.id}'",
        )
        async with orchestrating(database, saga):
            assert (await good.result(timeout=10)).status is Status.COMPLETED
            assert await until(
                database,
                "SELECT status = 'PENDING' AND owner IS NULL AND wake_at > now()"
                " FROM eventsaga.sagas WHERE saga_id = $1",
                bad.id,
            )


async def test_terminated_connections_fail_and_compensate_nothing(database: str) -> None:
    async def execute(_order: Order) -> None:
        await asyncio.sleep(0)

    saga = one_step(execute, compensate=nothing)
    admin = await asyncpg.connect(database)
    async with orchestrating(database, saga) as orchestrator:
        handles = await orchestrator.start_many("one", [Order() for _ in range(30)])
        results = asyncio.gather(*(handle.result(timeout=60) for handle in handles))
        strikes = 0
        while not results.done() and strikes < 20:
            strikes += await admin.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            await asyncio.wait([results], timeout=0.05)
        states = await results
        more = await orchestrator.start("one", Order())
        last = await more.result(timeout=30)
        names = [name for handle in handles for name in await types(handle)]
    await admin.close()

    assert {state.status for state in (*states, last)} == {Status.COMPLETED}
    assert strikes > 0
    assert names.count("StepSucceeded") == 30


async def test_what_is_told_to_stop_lets_attempts_end_and_starts_nothing_new(
    database: str,
) -> None:
    step = _Counting(holds=1)
    saga = one_step(step.execute)
    orchestrator = Orchestrator(database, sagas=[saga], settings=QUICK)
    await orchestrator.__aenter__()
    handle = await orchestrator.start("one", Order())
    await step.begun.wait()
    draining = asyncio.create_task(orchestrator.drain())
    await until(database, "SELECT true")
    step.forever.set()
    await draining
    late = await orchestrator.start("one", Order())
    state, untouched = await handle.state(), await late.state()
    await orchestrator.__aexit__()

    assert (state.status, untouched.status) == (Status.COMPLETED, Status.PENDING)
    assert await until(
        database,
        "SELECT count(*) = 0 FROM eventsaga.sagas WHERE owner IS NOT NULL",
    )
    assert await until(database, "SELECT bool_and(lease_until <= now()) FROM eventsaga.workers")


async def test_an_attempt_that_outlasts_the_drain_is_recorded_and_run_again(
    database: str,
) -> None:
    step = _Counting(holds=1)
    saga = one_step(step.execute, retry=replace(SOON, max_attempts=1))
    impatient = replace(QUICK, drain_timeout=timedelta(seconds=0.2))
    async with orchestrating(database, saga, settings=impatient) as first:
        handle = await first.start("one", Order())
        await step.begun.wait()
    async with orchestrating(database, saga) as second:
        state = await second.wait(handle.id, timeout=10)
        history = await second.history(handle.id)

    assert state.status is Status.COMPLETED
    assert step.keys == [f"{handle.id}/only"] * 2
    (doubt,) = events_of(history, "StepInDoubt")
    assert (doubt.interrupted, doubt.error_type) == (True, "Shutdown")
    assert not events_of(history, "SagaRecovered")


async def test_what_an_ending_lease_held_back_starts_with_the_next_one(database: str) -> None:
    """The lease is too short for step b when it is due; the next heartbeat lets it go."""
    first = _Counting(holds=1)
    second = _Counting(holds=0)
    saga = Saga("two", context=Order, steps=[Step("a", first.execute), Step("b", second.execute)])
    async with orchestrating(database, saga) as orchestrator:
        worker = orchestrator._worker
        assert worker is not None
        handle = await orchestrator.start("two", Order())
        await first.begun.wait()
        worker._lease._safe_until = float("-inf")
        first.forever.set()
        state = await handle.result(timeout=10)

    assert state.status is Status.COMPLETED
    assert len(second.keys) == 1


async def test_a_worker_takes_no_more_over_in_a_second_than_it_may(database: str) -> None:
    """After an outage of many, the other side gets its requests back bit by bit."""
    saga = one_step(nothing)
    async with orchestrating(database, saga, worker=False) as client:
        handles = await client.start_many("one", [Order() for _ in range(30)])
        # All were begun by somebody who has died.
        await run_sql(
            database,
            "INSERT INTO eventsaga.workers (worker_id, host, pid, lease_until, definitions)"
            " VALUES ('00000000-0000-0000-0000-000000000001', 'h', 1, '-infinity', '{}')",
            "UPDATE eventsaga.sagas SET owner = '00000000-0000-0000-0000-000000000001'",
        )
        async with orchestrating(database, saga, settings=replace(QUICK, recovery_rate=10)):
            for handle in handles:
                await handle.result(timeout=20)
        histories = [await handle.history() for handle in handles]

    taken = sorted(
        stored.recorded_at
        for history in histories
        for stored in history
        if stored.type == "SagaRecovered"
    )
    assert len(taken) == 30
    for first, eleventh in zip(taken, taken[10:], strict=False):
        # A claim is a moment older than what is written of it.
        assert eleventh - first > timedelta(seconds=0.9)

"""Does anything go forward that the database may have forgotten, unless somebody says so?

A failover or a restore shows by another timeline. Here the row that remembers the present one
is changed, so that the server looks to the workers as if it had come from another.
"""

import asyncio
from dataclasses import replace
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from eventsaga import Orchestrator, PermanentError, Saga, Sleep, Status, Step, StepContext
from eventsaga.store.ports import Incarnation
from tests.acceptance.cli.console import Console
from tests.runtime.sagas import QUICK, Order, events_of, nothing, orchestrating, run_sql, until

# As if the tables had been made on the timeline before, and somebody had promoted a standby.
PROMOTED = "UPDATE eventsaga.incarnations SET timeline = timeline - 1"
NOBODY = "SELECT count(*) = 0 FROM eventsaga.sagas WHERE owner IS NOT NULL"
SETTLED = "SELECT status = $2 FROM eventsaga.sagas WHERE saga_id = $1"


class _Step:
    """Hangs until its process is gone, the first time; remembers the keys that it was given."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.begun = asyncio.Event()

    async def execute(self, _order: Order, step: StepContext) -> None:
        self.keys.append(step.idempotency_key)
        self.begun.set()
        if len(self.keys) == 1:
            await asyncio.Event().wait()


async def _left_behind(database: str, saga: Saga[Any], step: _Step) -> UUID:
    """Return a saga whose worker has died in the middle of *step*."""
    async with Orchestrator(database, sagas=[saga], settings=QUICK) as dead:
        handle = await dead.start(saga, Order())
        await step.begun.wait()
        await dead.vanish()
    await run_sql(database, "UPDATE eventsaga.workers SET lease_until = '-infinity'")
    return handle.id


async def _seen(database: str) -> None:
    """Return when a worker has met the new incarnation and has looked around twice since."""
    await until(database, "SELECT count(*) = 2 FROM eventsaga.incarnations")
    for _ in range(2):
        at = await until(database, "SELECT max(heartbeat_at) FROM eventsaga.workers")
        await until(database, "SELECT max(heartbeat_at) > $1 FROM eventsaga.workers", at)


@pytest.fixture
def step() -> _Step:
    return _Step()


def _saga(step: _Step, **options: Any) -> Saga[Order]:
    return Saga("held", context=Order, steps=[Step("only", step.execute, **options)])


async def test_what_was_under_way_is_held_until_somebody_accepts(
    database: str, step: _Step
) -> None:
    saga = _saga(step)
    saga_id = await _left_behind(database, saga, step)
    await run_sql(database, PROMOTED)
    async with orchestrating(database, saga) as orchestrator:
        await _seen(database)
        found = await orchestrator.store.incarnation()
        held, explained = await orchestrator.get(saga_id), await orchestrator.explain(saga_id)
        fresh = await (await orchestrator.start(saga, Order())).result(timeout=10)
        let_go = await orchestrator.store.accept_incarnation("ann", "compared")
        state = await orchestrator.wait(saga_id, timeout=20)
        accepted = await orchestrator.store.incarnation()
        history = await orchestrator.history(saga_id)

    assert (found.held, found.is_accepted, let_go) == (1, False, 1)
    assert held.status is Status.RUNNING
    assert "may have lost commits" in explained.why[-1]
    assert "eventsaga recover --accept-incarnation" in explained.remedy
    assert (fresh.status, state.status) == (Status.COMPLETED, Status.COMPLETED)
    assert (accepted.accepted_by, accepted.reason, accepted.held) == ("ann", "compared", 0)
    # Under the same key; the one in between is that of the fresh saga.
    assert [key for key in step.keys if str(saga_id) in key] == [f"{saga_id}/only"] * 2
    assert len(events_of(history, "SagaRecovered")) == 1


async def test_a_failover_that_no_error_told_of_is_seen_with_the_next_heartbeat(
    database: str,
) -> None:
    saga = Saga("fresh", context=Order, steps=[Step("only", nothing)])
    async with (
        orchestrating(database, saga, worker=False) as client,
        orchestrating(database, saga),
    ):
        # By now it has looked around, which it does twice a minute.
        await (await client.start(saga, Order())).result(timeout=10)
        await run_sql(database, PROMOTED)
        await until(database, "SELECT count(*) = 2 FROM eventsaga.incarnations", within=10)
        fresh = await (await client.start(saga, Order())).result(timeout=10)

    assert fresh.status is Status.COMPLETED


async def test_what_a_living_worker_owns_and_does_not_know_goes_on_when_it_is_accepted(
    database: str,
) -> None:
    """As if its end were among the commits that were lost."""
    saga = Saga("ended", context=Order, steps=[Step("only", nothing)])
    async with (
        orchestrating(database, saga, worker=False) as client,
        orchestrating(database, saga) as orchestrator,
    ):
        await (await client.start(saga, Order())).result(timeout=10)
        await run_sql(database, PROMOTED)
        worker = orchestrator._worker
        assert worker is not None
        connection = await asyncpg.connect(database)
        async with connection.transaction():
            handle = await client.start(saga, Order(), connection=connection)
            await connection.execute(
                "UPDATE eventsaga.sagas SET owner = $2, created_at = '2020-01-01'"
                " WHERE saga_id = $1",
                handle.id,
                worker.worker_id,
            )
        await connection.close()
        worker._claim_in_doubt = True
        await _seen(database)
        assert (await handle.state()).status is Status.PENDING
        await client.store.accept_incarnation("ann", "compared")
        assert (await handle.result(timeout=10)).status is Status.COMPLETED


async def test_what_goes_back_is_not_held(database: str) -> None:
    begun, undone = asyncio.Event(), list[str]()

    async def refund(_order: Order, step: StepContext) -> None:
        undone.append(step.idempotency_key)
        begun.set()
        if len(undone) == 1:
            await asyncio.Event().wait()

    async def decline(_order: Order) -> None:
        raise PermanentError("declined")

    steps = [Step("charge", nothing, compensate=refund), Step("ship", decline)]
    saga = Saga("back", context=Order, steps=steps)
    async with Orchestrator(database, sagas=[saga], settings=QUICK) as dead:
        handle = await dead.start(saga, Order())
        await begun.wait()
        await dead.vanish()
    await run_sql(database, "UPDATE eventsaga.workers SET lease_until = '-infinity'", PROMOTED)
    async with orchestrating(database, saga) as orchestrator:
        state = await orchestrator.wait(handle.id, timeout=20)
        assert not (await orchestrator.store.incarnation()).is_accepted

    assert state.status is Status.COMPENSATED
    assert len(set(undone)) == 1


async def test_a_sleeper_is_held_past_its_time(database: str) -> None:
    """What the lost commits had done of it, nobody knows."""
    saga = Saga("sleeper", context=Order, steps=[Sleep("nap", 0.2), Step("after", nothing)])
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start(saga, Order())
    await run_sql(database, PROMOTED)
    async with orchestrating(database, saga) as orchestrator:
        await _seen(database)
        assert (await orchestrator.get(handle.id)).status is Status.RUNNING
        await orchestrator.store.accept_incarnation("ann", "compared")
        assert (await orchestrator.wait(handle.id, timeout=20)).status is Status.COMPLETED


@pytest.mark.parametrize(("ttl", "goes_on"), [(None, True), (3600, False)])
async def test_by_policy_sagas_go_on_whose_keys_are_remembered_for_ever(
    database: str, step: _Step, ttl: float | None, *, goes_on: bool
) -> None:
    saga = _saga(step, key_ttl=ttl)
    saga_id = await _left_behind(database, saga, step)
    await run_sql(database, PROMOTED)
    async with orchestrating(database, saga, settings=replace(QUICK, trust_keys=True)) as trusting:
        await _seen(database)
        if goes_on:
            assert (await trusting.wait(saga_id, timeout=20)).status is Status.COMPLETED
        else:
            assert (await trusting.get(saga_id)).status is Status.RUNNING


async def test_workers_that_meet_it_at_once_make_one_row(database: str) -> None:
    saga = Saga("plain", context=Order, steps=[Step("only", nothing)])
    await run_sql(database, PROMOTED)
    async with orchestrating(database, saga, worker=False) as client:
        seen = await asyncio.gather(*(client.store.see_incarnation() for _ in range(4)))

    assert len(set(seen)) == 1
    assert isinstance(seen[0], Incarnation)
    assert await until(database, "SELECT count(*) = 2 FROM eventsaga.incarnations")


def test_the_command_shows_what_is_held_and_lets_it_go(database: str) -> None:
    console = Console(database)
    assert "accepted" in console.answer("recover")
    asyncio.run(run_sql(database, PROMOTED))
    saga = Saga("waits", context=Order, steps=[Sleep("nap", 3600)])

    async def begin() -> None:
        async with orchestrating(database, saga, worker=False) as client:
            await client.start(saga, Order())
        await run_sql(database, "UPDATE eventsaga.sagas SET created_at = '2020-01-01'")

    asyncio.run(begin())
    said = console.answer("recover", code=1)
    assert "not accepted: the database may have lost commits. 1 sagas are held." in said
    assert console.run("recover", "--accept-incarnation").returncode == 2
    assert console.run("recover", "--reason", "no").returncode == 2
    let_go = console.answer("recover", "--accept-incarnation", "--reason", "compared")
    assert "1 sagas go on" in let_go
    shown = console.json("recover")
    assert (shown["held"], shown["reason"]) == (0, "compared")
    assert shown["accepted_by"]

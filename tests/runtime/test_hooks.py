"""Is a hook told at least once, whatever happens, and never in the way of the saga?"""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from eventsaga import Orchestrator, PermanentError, Saga, Status, Step, StepContext
from tests.acceptance.crash.crew import crew
from tests.acceptance.crash.participant import Call, Participant, kill, running
from tests.runtime.doubt_program import SAGAS, Work, hooked
from tests.runtime.sagas import (
    ONCE,
    Order,
    events_of,
    nothing,
    orchestrating,
    types,
    until,
)

pytestmark = pytest.mark.usefixtures("sound")

DELIVERED = "SELECT count(*) FROM eventsaga.events WHERE type = 'HookDelivered'"
FAILED = "SELECT count(*) FROM eventsaga.events WHERE type = 'HookFailed'"


class _Bell:
    """A hook that fails for its first calls, or is held, and what it was told."""

    def __init__(self, fails: int = 0) -> None:
        self.rung: list[tuple[str, int]] = []
        self.keys: list[str] = []
        self.notes: list[str | None] = []
        self.begun = asyncio.Event()
        self.let_go = asyncio.Event()
        self._fails = fails

    async def ring(self, order: Order, step: StepContext) -> None:
        self.rung.append((step.step, step.attempt))
        self.keys.append(step.idempotency_key)
        self.notes.append(order.note)
        if len(self.rung) <= self._fails:
            raise ValueError("no line")

    async def hold(self, _order: Order) -> None:
        self.begun.set()
        await self.let_go.wait()

    async def refuse(self, _order: Order) -> None:
        self.rung.append(("refused", 1))
        raise PermanentError("no such subscriber")

    def saga(self, execute: Any = nothing, **options: Any) -> Saga[Order]:
        hooks: dict[str, Any] = dict.fromkeys(
            ("on_completed", "on_compensated", "on_parked"), self.ring
        )
        step = Step("only", execute, compensate=options.pop("compensate", None), retry=ONCE)
        return Saga("rings", context=Order, steps=[step], **(hooks | options))


async def _noted(_order: Order) -> dict[str, str]:
    return {"note": "done"}


async def _fails(_order: Order) -> None:
    raise PermanentError("no")


async def _in_doubt(_order: Order) -> None:
    raise TimeoutError("no answer")


async def _stuck(_order: Order) -> None:
    raise PermanentError("cannot be undone")


@pytest.mark.parametrize(
    ("hook", "execute", "options", "status"),
    [
        ("on_completed", _noted, {}, Status.COMPLETED),
        ("on_compensated", _fails, {}, Status.COMPENSATED),
        ("on_parked", _in_doubt, {"compensate": _stuck}, Status.PARKED),
    ],
)
async def test_a_hook_is_told_of_its_end_and_the_delivery_is_recorded(
    database: str, hook: str, execute: Any, options: dict[str, Any], status: Status
) -> None:
    bell = _Bell()
    async with orchestrating(database, bell.saga(execute, **options)) as orchestrator:
        handle = await orchestrator.start("rings", Order())
        state = await handle.result(timeout=10)
        await until(database, DELIVERED)
        (delivered,) = events_of(await handle.history(), "HookDelivered")

    assert (state.status, bell.rung) == (status, [(hook, 1)])
    assert (delivered.hook, delivered.attempt) == (hook, 1)
    assert bell.notes == ["done" if status is Status.COMPLETED else None]
    assert bell.keys == [f"{handle.id}/{hook}/{state.seq}"]


async def test_a_hook_that_fails_is_told_again_later_and_with_the_same_key(database: str) -> None:
    bell = _Bell(fails=2)
    async with orchestrating(database, bell.saga()) as orchestrator:
        handle = await orchestrator.start("rings", Order())
        state = await handle.result(timeout=10)
        await until(database, DELIVERED)
        history = await handle.history()

    failures = events_of(history, "HookFailed")
    assert state.status is Status.COMPLETED
    assert bell.rung == [("on_completed", number) for number in (1, 2, 3)]
    assert len(set(bell.keys)) == 1
    assert [(each.attempt, each.error_type, each.message) for each in failures] == [
        (1, "ValueError", "no line"),
        (2, "ValueError", "no line"),
    ]
    assert all(each.at <= each.retry_at for each in failures)
    (delivered,) = events_of(history, "HookDelivered")
    assert delivered.at >= failures[-1].retry_at
    assert delivered.attempt == 3
    assert history[-1].type == "HookDelivered"


async def test_a_hook_that_refuses_for_good_is_not_told_again(database: str) -> None:
    bell = _Bell()
    async with orchestrating(database, bell.saga(on_completed=bell.refuse)) as orchestrator:
        handle = await orchestrator.start("rings", Order())
        await until(database, FAILED)
        state = await handle.state()
        (failed,) = events_of(await handle.history(), "HookFailed")
        assert await until(database, "SELECT bool_and(owner IS NULL) FROM eventsaga.sagas")

    assert (state.status, len(bell.rung), failed.retry_at) == (Status.COMPLETED, 1, None)


async def test_nobody_waits_for_a_hook(database: str) -> None:
    bell = _Bell()
    async with orchestrating(database, bell.saga(on_completed=bell.hold)) as orchestrator:
        handle = await orchestrator.start("rings", Order())
        state = await handle.result(timeout=10)
        await bell.begun.wait()
        before = await types(handle)
        bell.let_go.set()
        await until(database, DELIVERED)

    assert state.status is Status.COMPLETED
    assert before[-1] == "SagaCompleted"


async def test_a_saga_that_is_parked_twice_tells_twice_with_keys_of_their_own(
    database: str,
) -> None:
    bell = _Bell()
    parks = Saga(
        "rings",
        context=Order,
        steps=[Step("only", _in_doubt, on_doubt="park")],
        on_parked=bell.ring,
        on_completed=bell.ring,
    )
    async with orchestrating(database, parks) as orchestrator:
        handle = await orchestrator.start("rings", Order())
        await handle.result(timeout=10)
        await until(database, "SELECT count(*) = 1" + DELIVERED.removeprefix("SELECT count(*)"))
        await orchestrator.retry(handle.id, reason="again", actor="ann")
        await until(database, "SELECT count(*) = 2" + DELIVERED.removeprefix("SELECT count(*)"))
        await orchestrator.skip(handle.id, "only", reason="enough", actor="ann")
        await until(database, "SELECT count(*) = 3" + DELIVERED.removeprefix("SELECT count(*)"))

    assert [hook for hook, _ in bell.rung] == ["on_parked", "on_parked", "on_completed"]
    assert len(set(bell.keys)) == 3


async def test_a_hook_of_a_parked_saga_that_went_on_is_not_owed_any_more(database: str) -> None:
    bell = _Bell()
    parks = Saga(
        "rings",
        context=Order,
        steps=[Step("only", _in_doubt, on_doubt="park")],
        on_parked=bell.hold,
    )
    async with orchestrating(database, parks) as orchestrator:
        handle = await orchestrator.start("rings", Order())
        await bell.begun.wait()
        assert await orchestrator.resolve(
            handle.id, "only", "succeeded", reason="it is there", actor="ann"
        )
        state = await handle.result(timeout=10)
        bell.let_go.set()
        assert await until(database, "SELECT bool_and(owner IS NULL) FROM eventsaga.sagas")
        names = await types(handle)

    assert state.status is Status.COMPLETED
    assert "HookDelivered" not in names


async def test_a_hook_that_is_owed_is_told_after_a_restart(database: str) -> None:
    bell = _Bell(fails=1)
    async with orchestrating(database, bell.saga()) as first:
        handle = await first.start("rings", Order())
        await until(database, FAILED)
    async with orchestrating(database, bell.saga()) as second:
        await until(database, DELIVERED)
        state = await second.get(handle.id)

    assert (state.status, bell.rung) == (
        Status.COMPLETED,
        [("on_completed", 1), ("on_completed", 2)],
    )


async def test_a_hook_that_a_shutdown_cuts_short_is_told_again(database: str) -> None:
    held, bell = _Bell(), _Bell()
    orchestrator = Orchestrator(database, sagas=[held.saga(on_completed=held.hold)])
    async with orchestrator:
        handle = await orchestrator.start("rings", Order())
        await held.begun.wait()
        await orchestrator.vanish()
    await until(
        database,
        "WITH dead AS (UPDATE eventsaga.workers SET lease_until = now() RETURNING 1)"
        " SELECT count(*) FROM dead",
    )
    async with orchestrating(database, bell.saga()) as second:
        await until(database, DELIVERED)
        state = await second.get(handle.id)

    assert (state.status, bell.rung) == (Status.COMPLETED, [("on_completed", 1)])


# -- killed ---------------------------------------------------------------------------------


@pytest.fixture
async def participant() -> AsyncIterator[Participant]:
    async with running() as started:
        yield started


def _deaths(processes: list[asyncio.subprocess.Process]) -> int:
    return [process.returncode for process in processes].count(-signal.SIGKILL)


async def test_a_worker_killed_in_the_hook_leaves_it_to_another(
    database: str, participant: Participant, tmp_path: Path
) -> None:
    struck = asyncio.Event()

    async def strike(call: Call) -> None:
        if not struck.is_set():
            struck.set()
            kill(call.worker_pid)
            await asyncio.Event().wait()

    participant.after = strike
    options = {"program": "tests.runtime.doubt_program"}
    async with (
        crew(database, participant.url, tmp_path, **options) as workers,
        Orchestrator(database, sagas=SAGAS, worker=False) as client,
    ):
        await workers.hire()
        handle = await client.start(hooked, Work(number=0))
        async with asyncio.timeout(30):
            await struck.wait()
        await workers.processes[0].wait()
        await workers.hire()
        await until(database, DELIVERED, within=30)
        history = await handle.history()

    assert [stored.type for stored in history][-2:] == ["SagaCompleted", "HookDelivered"]
    assert history[-1].worker_id != history[-2].worker_id
    # Told at least once, under one key: the other side did it once.
    assert len(participant.calls) == 2
    (keys,) = participant.applied.values()
    assert len(keys) == 1


async def test_a_hook_that_kills_every_worker_is_given_up_and_the_saga_stays_completed(
    database: str, participant: Participant, tmp_path: Path
) -> None:
    async def strike(call: Call) -> None:
        if call.number == 0:
            kill(call.worker_pid)
            await asyncio.Event().wait()

    participant.before = strike
    options = {"program": "tests.runtime.doubt_program", "EVENTSAGA_POISON_CLAIMS": "2"}
    async with (
        crew(database, participant.url, tmp_path, **options) as workers,
        Orchestrator(database, sagas=SAGAS, worker=False) as client,
    ):
        await workers.keep_up(1)
        handle = await client.start(hooked, Work(number=0))
        await until(database, FAILED, within=60)
        good = await client.start(hooked, Work(number=1))
        await until(database, DELIVERED, within=30)
        state, other = await handle.state(), await good.state()
        (failed,) = events_of(await handle.history(), "HookFailed")
        names = await types(handle)
        deaths = _deaths(workers.processes)

    assert (state.status, other.status) == (Status.COMPLETED, Status.COMPLETED)
    assert (failed.error_type, failed.retry_at) == ("Poison", None)
    assert "without progress" in failed.message
    assert names[-2:] == ["SagaCompleted", "HookFailed"]
    assert deaths >= 2

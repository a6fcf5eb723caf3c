"""What if the way to the database breaks at any place? Nothing is lost, and nothing done twice."""

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from eventsaga import (
    ChildSaga,
    PermanentError,
    Retry,
    Saga,
    SagaHandle,
    Status,
    Step,
    StepContext,
    WaitForSignal,
    failpoints,
)
from eventsaga.errors import SettingsError
from eventsaga.saga import SagaNode
from eventsaga.store.ports import Message
from tests.runtime.sagas import Order, orchestrating, run_sql, until

pytestmark = pytest.mark.usefixtures("sound")

_TRIES = Retry(max_attempts=5, delay=0.01)
# Where nobody comes unless something else has broken before.
_SECOND = {
    "read_back": "after_append:error@2",
    "load_owned": "after_claim_commit:error@1",
}
# What no saga of this file passes has tests of its own: see test_schedules, test_archive_crash.
_ELSEWHERE = ("slot", "archive")
_PLACES = sorted(
    place for place in failpoints.PLACES if not any(what in place for what in _ELSEWHERE)
)
_GO = uuid4()
_RECEIVED = "FROM eventsaga.events WHERE type = 'SignalReceived'"
_LAST = "SELECT type || '/' || (data->>'step') FROM eventsaga.events ORDER BY seq DESC LIMIT 1"


class _Shop:
    """A saga that comes to every place, and what was done for it, by idempotency key."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.told = asyncio.Event()

    async def do(self, _order: Order, step: StepContext) -> None:
        # A participant that honours keys: a request that comes again changes nothing.
        self.done[step.idempotency_key] = 1

    async def refuse(self, _order: Order, step: StepContext) -> None:
        await self.do(_order, step)
        raise PermanentError("not today")

    async def write(self, _order: Order, step: StepContext) -> None:
        await step.session.execute(text("INSERT INTO rows VALUES (:step)"), {"step": step.step})

    async def tell(self, _order: Order) -> None:
        self.told.set()

    def sagas(self) -> tuple[Saga[Order], Saga[Order]]:
        """Return the saga, and the one that is its child."""
        kid = Saga("kid", context=Order, steps=[Step("play", self.do, compensate=self.do)])
        first = Step("first", self.do, compensate=self.do, retry=_TRIES, concurrency=2)
        steps: list[SagaNode] = [
            first,
            Step("rows", self.write, transactional=True, retry=_TRIES),
            ChildSaga("child", kid, context=lambda order: order),
            WaitForSignal("go", timeout=60),
            WaitForSignal("on", timeout=60),
            Step("last", self.refuse, retry=_TRIES),
        ]
        return Saga("shop", context=Order, steps=steps, on_compensated=self.tell), kid

    async def run(self, database: str, struck: asyncio.Event | None) -> SagaHandle:
        """Run one saga to its end, wait for what strikes a worker that lives, and return it."""
        await run_sql(database, "CREATE TABLE rows (step text)")
        async with orchestrating(database, *self.sagas()) as orchestrator:
            handle = await orchestrator.start("shop", Order())
            await orchestrator.store.post(_request(handle, "undo", reason="too early"))
            await orchestrator.signal(handle.id, "go", id=_GO)
            await until(database, f"SELECT count(*) = 1 {_RECEIVED}")
            # The saga knows the signal longer than the inbox does.
            await run_sql(database, "DELETE FROM eventsaga.inbox WHERE answered_at IS NOT NULL")
            await orchestrator.store.post(_request(handle, "signal", _GO, name="go"))
            await until(
                database, "SELECT count(*) = 0 FROM eventsaga.inbox WHERE answered_at IS NULL"
            )
            await orchestrator.signal(handle.id, "on")
            state = await handle.result(timeout=30)
            assert state.status is Status.COMPENSATED
            async with asyncio.timeout(20):
                await self.told.wait()
            if struck is not None:
                async with asyncio.timeout(5):
                    await struck.wait()
        return handle


def _request(handle: SagaHandle, kind: str, known: UUID | None = None, **data: str) -> Message:
    return Message(saga_id=handle.id, message_id=known or uuid4(), kind=kind, data=data, actor="me")


@pytest.mark.parametrize("place", _PLACES)
async def test_a_broken_way_loses_nothing(place: str, database: str) -> None:
    struck = asyncio.Event()

    def strike(_place: str, _text: str) -> None:
        if not struck.is_set():
            struck.set()
            raise ConnectionResetError(place)

    shop = _Shop()
    first = _SECOND.get(place.split("_", 1)[1], "")
    with failpoints.armed_by(first), failpoints.calling(place, strike):
        handle = await shop.run(database, struck if place.endswith("renew") else None)
    # The answer to what is under way may come before it can be struck.
    assert struck.is_set() or place.startswith("during_")
    keys = {f"{handle.id}/{what}" for what in ("first", "first/compensate", "last")}
    assert keys <= set(shop.done)
    assert await until(database, "SELECT count(*) = 1 FROM rows")


@pytest.mark.parametrize(
    ("action", "code"),
    [("kill9", -signal.SIGKILL), ("segv", -signal.SIGSEGV), ("exit", 137), ("exit=3", 3)],
)
async def test_a_process_dies_at_its_failpoint(action: str, code: int, database: str) -> None:
    process = await _process(database, f"after_intent_commit[last]:{action}")
    assert await process.wait() == code
    assert await until(database, _LAST) == "StepStarted/last"


async def _process(database: str, points: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.runtime.two_steps",
        env={**os.environ, "EVENTSAGA_FAILPOINTS": points, "EVENTSAGA_DATABASE_URL": database},
    )


async def test_a_stopped_process_goes_on(database: str) -> None:
    process = await _process(database, "before_result_commit[last]:stop@1")
    await asyncio.get_running_loop().run_in_executor(
        None, lambda: os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    )
    process.send_signal(signal.SIGCONT)
    assert await process.wait() == 0


async def test_what_happens_can_be_recorded(database: str, tmp_path: Path) -> None:
    record = tmp_path / "places"
    process = await _process(database, f"after_intent_commit:record={record}")
    assert await process.wait() == 0
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert [line["text"] for line in lines] == [
        "SagaStarted StepStarted/first",
        "StepSucceeded/first StepStarted/last",
    ]


@pytest.mark.parametrize(
    "points",
    [
        "after_lunch:kill9",
        "after_append:sing",
        "after_append",
        "after_append:kill9@0",
        "after_append:sleep=long",
        "after_append:sleep",
        "after_append:record",
    ],
)
def test_a_point_that_cannot_be_read_is_refused(points: str) -> None:
    with pytest.raises(SettingsError), failpoints.armed_by(points):
        pass


async def test_nothing_stays_armed() -> None:
    with failpoints.armed_by("after_append:error"), failpoints.holding("before_claim"):
        assert failpoints.armed
    assert not failpoints.armed

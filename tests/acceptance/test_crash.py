"""Is nothing lost when processes die? They are killed at every moment, and counted after."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from eventsaga import Orchestrator, Status
from tests import pooler
from tests.acceptance.crash.checker import violations
from tests.acceptance.crash.crew import LEASE, Crew, crew
from tests.acceptance.crash.participant import Call, Participant, dump, kill, running
from tests.acceptance.crash.program import LAST, SELF_INFLICTED, STEPS, Work, crash_saga

_ROOT = Path(__file__).resolve().parents[2]

FAR_SIDE = ("on_arrival", "after_effect")
POINTS = [
    f"{operation}/{step}/{moment}"
    for operation in ("do", "undo")
    for step in STEPS
    for moment in (*SELF_INFLICTED, *FAR_SIDE)
]


@pytest.fixture
async def participant() -> AsyncIterator[Participant]:
    async with running() as started:
        yield started


@pytest.fixture
async def workers(database: str, participant: Participant, tmp_path: Path) -> AsyncIterator[Crew]:
    async with crew(database, participant.url, tmp_path, **pooler.worker_role()) as members:
        yield members


@pytest.fixture
async def client(database: str) -> AsyncIterator[Orchestrator]:
    async with Orchestrator(database, sagas=[crash_saga], worker=False) as orchestrator:
        yield orchestrator


async def _settle(client: Orchestrator, ids: list[UUID], seconds: float) -> list[Status]:
    states = await asyncio.gather(*(client.wait(saga_id, timeout=seconds) for saga_id in ids))
    return [state.status for state in states]


async def test_a_worker_killed_at_any_moment_of_any_step_loses_and_repeats_nothing(
    workers: Crew, participant: Participant, client: Orchestrator
) -> None:
    """24 sagas, each the death of the process that runs it, at another point each."""
    struck: set[str] = set()

    async def strike(call: Call, moment: str) -> None:
        point = f"{call.operation}/{call.step}/{moment}"
        if POINTS.index(point) == call.number and point not in struck:
            struck.add(point)
            kill(call.worker_pid)
            await asyncio.Event().wait()  # nobody is left to be answered

    async def on_arrival(call: Call) -> None:
        if f"{call.operation}/{call.step}/on_arrival" in POINTS:
            await strike(call, "on_arrival")

    async def after_effect(call: Call) -> None:
        if f"{call.operation}/{call.step}/after_effect" in POINTS:
            await strike(call, "after_effect")

    participant.before, participant.after = on_arrival, after_effect
    backward = {number for number, point in enumerate(POINTS) if point.startswith("undo")}
    participant.declined = {(LAST, number) for number in backward}
    await workers.keep_up(2)
    handles = await client.start_many(
        crash_saga, [Work(number=number, dies=point) for number, point in enumerate(POINTS)]
    )

    statuses = await _settle(client, [handle.id for handle in handles], 120)

    expected = [
        Status.COMPENSATED if number in backward else Status.COMPLETED
        for number in range(len(POINTS))
    ]
    assert statuses == expected, workers.logs()
    assert await violations(client, participant) == [], dump(participant)
    assert struck == {point for point in POINTS if point.endswith(FAR_SIDE)}
    deaths = [process.returncode for process in workers.processes].count(-signal.SIGKILL)
    assert deaths >= 2, "somebody must have died"


async def test_fifty_running_sagas_survive_the_kill_of_their_worker(
    workers: Crew, participant: Participant, client: Orchestrator
) -> None:
    halfway = asyncio.Event()

    async def count(_call: Call) -> None:
        if len(participant.calls) >= 100:
            halfway.set()

    participant.after = count
    victim = await workers.hire()
    handles = await client.start_many(crash_saga, [Work(number=number) for number in range(50)])
    async with asyncio.timeout(60):
        await halfway.wait()
    kill(victim.pid)
    await victim.wait()
    killed_at = time.monotonic()
    unfinished = len(await client.list(statuses=[Status.RUNNING], limit=100))
    successor = await workers.hire()

    statuses = await _settle(client, [handle.id for handle in handles], 60)

    assert statuses == [Status.COMPLETED] * 50, workers.logs()
    assert await violations(client, participant) == [], dump(participant)
    assert unfinished > 0, "the kill came too late to prove anything"
    # Lease, poll, the successor's start and the work itself; the promise is the first two.
    promised = float(LEASE["EVENTSAGA_LEASE"]) + float(LEASE["EVENTSAGA_POLL"])
    assert time.monotonic() - killed_at < promised + 20
    successor.terminate()
    assert await successor.wait() == 0


async def test_a_paused_worker_that_wakes_up_writes_nothing_more(
    workers: Crew, participant: Participant, client: Orchestrator, database: str
) -> None:
    """SIGSTOP while a request is under way, a takeover, SIGCONT: the answer comes to nobody."""
    arrived, answer = asyncio.Event(), asyncio.Event()
    paused: list[int] = []

    async def hold(call: Call) -> None:
        if call.step == "charge" and call.operation == "do" and not paused:
            paused.append(call.worker_pid)
            os.kill(call.worker_pid, signal.SIGSTOP)
            arrived.set()
            await answer.wait()

    participant.after = hold
    zombie = await workers.hire()
    handle = await client.start(crash_saga, Work(number=0))
    async with asyncio.timeout(30):
        await arrived.wait()
    await workers.hire()

    state = await handle.result(timeout=60)
    length = len(await handle.history())
    answer.set()
    os.kill(zombie.pid, signal.SIGCONT)
    await _until_it_renews(database, zombie.pid)

    assert state.status is Status.COMPLETED
    assert len(await handle.history()) == length
    assert await violations(client, participant) == []
    assert [stored.type for stored in await handle.history()].count("SagaRecovered") == 1


async def _until_it_renews(database: str, pid: int) -> None:
    """Return when the woken worker has taken a new identity: it knows what it missed."""
    connection = await asyncpg.connect(database)
    query = "SELECT count(*) FROM eventsaga.workers WHERE pid = $1"
    try:
        async with asyncio.timeout(30):
            while await connection.fetchval(query, pid) < 2:  # noqa: ASYNC110 - a row, no event
                await asyncio.sleep(0)
    finally:
        await connection.close()


async def test_one_key_started_from_eight_processes_is_one_saga(
    workers: Crew, participant: Participant, client: Orchestrator, database: str
) -> None:
    program = (
        "import asyncio, sys\n"
        "from eventsaga import Orchestrator\n"
        "from tests.acceptance.crash.program import Work, crash_saga\n"
        "async def main():\n"
        "    async with Orchestrator(sys.argv[1], sagas=[crash_saga], worker=False) as o:\n"
        "        print('ready', flush=True)\n"
        "        sys.stdin.readline()\n"
        "        handle = await o.start('crash', Work(number=7), key='once')\n"
        "        print(handle.id, handle.created, flush=True)\n"
        "asyncio.run(main())\n"
    )
    starters = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            program,
            database,
            cwd=_ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(8)
    ]
    for starter in starters:
        assert starter.stdout is not None
        assert await starter.stdout.readline() == b"ready\n"

    answers = await asyncio.gather(*(starter.communicate(b"\n") for starter in starters))

    lines = [out.decode().split() for out, _ in answers]
    assert len({saga_id for saga_id, _ in lines}) == 1
    assert [created for _, created in lines].count("True") == 1
    await workers.hire()
    (row,) = await client.list()
    assert (await client.wait(row.saga_id, timeout=60)).status is Status.COMPLETED
    assert await violations(client, participant) == []


async def test_a_worker_that_is_told_to_stop_hands_over_at_once(
    workers: Crew, participant: Participant, client: Orchestrator, database: str
) -> None:
    """SIGTERM with an attempt under way: it ends, the rest goes on elsewhere without a lease."""
    arrived, answer = asyncio.Event(), asyncio.Event()

    async def hold(call: Call) -> None:
        if call.step == "reserve":
            arrived.set()
            await answer.wait()

    participant.after = hold
    leaver = await workers.hire()
    handle = await client.start(crash_saga, Work(number=0))
    async with asyncio.timeout(30):
        await arrived.wait()
    leaver.terminate()
    # Answered before it has heard the signal, it would rightly go on to the next step.
    async with asyncio.timeout(30):
        while "draining" not in workers.logs():  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.01)
    answer.set()
    code = await leaver.wait()
    state = await handle.state()

    connection = await asyncpg.connect(database)
    owner = await connection.fetchval("SELECT owner FROM eventsaga.sagas")
    await connection.close()
    assert (code, owner) == (0, None), workers.logs()
    assert state.completed_steps == ("reserve",)
    assert state.current_steps == ()
    await workers.hire()
    assert (await handle.result(timeout=30)).status is Status.COMPLETED
    types = [stored.type for stored in await handle.history()]
    assert "SagaRecovered" not in types
    assert "StepInDoubt" not in types
    assert await violations(client, participant) == []


async def test_the_checker_sees_an_effect_that_was_done_twice(
    workers: Crew, participant: Participant, client: Orchestrator
) -> None:
    """A checker that cannot fail proves nothing."""
    await workers.hire()
    handle = await client.start(crash_saga, Work(number=0))
    await handle.result(timeout=30)
    assert await violations(client, participant) == []

    participant.applied["do", "charge", 0].append("another key")
    twice = await violations(client, participant)
    participant.applied["do", "charge", 0].clear()
    never = await violations(client, participant)

    assert any("done 2" in violation for violation in twice)
    assert any("never done" in violation for violation in never)

"""Is a dead neighbour known for dead, and nobody else?"""

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from eventsaga import Settings, Status
from eventsaga.runtime.process import is_gone, machine_of, this_process
from eventsaga.store.postgres.store import PostgresStore
from tests.runtime.sagas import Order, nothing, one_step, orchestrating, until

pytestmark = pytest.mark.skipif(this_process() is None, reason="LEFT OUT: no /proc here")

# So long that no test outlives it.
PATIENT = Settings(lease=timedelta(hours=1), heartbeat=timedelta(seconds=0.2))
TELL = "from eventsaga.runtime.process import *; print(this_process(), flush=True); input()"


def _tell() -> tuple[subprocess.Popen[str], str]:
    """Start a process, and return what tells it from others."""
    child = subprocess.Popen(
        [sys.executable, "-c", TELL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    return child, child.stdout.readline().strip()


def _altered(process: str, place: int, value: str) -> str:
    parts = process.split("/")
    parts[place] = value
    return "/".join(parts)


def test_a_process_knows_itself_and_lives() -> None:
    process = this_process()

    assert process is not None
    assert process == this_process()
    assert not is_gone(process)
    assert machine_of(process) == process.rsplit("/", 2)[0]


def test_a_neighbour_lives_until_it_has_ended_also_while_it_is_stopped() -> None:
    child, process = _tell()
    me = this_process()
    assert me is not None
    assert machine_of(process) == machine_of(me)
    assert not is_gone(process)
    child.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED)
    assert not is_gone(process)

    child.kill()
    # It has ended, though nobody has asked for its status yet.
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert is_gone(process)
    child.communicate()
    assert is_gone(process)


def test_another_process_of_the_same_number_is_another_one() -> None:
    process = this_process()
    assert process is not None

    assert is_gone(_altered(process, 4, "1"))


# -- leases ---------------------------------------------------------------------------------


async def _leave(store: PostgresStore, process: str | None) -> UUID:
    """Register a worker that owns a saga, and return its id."""
    worker = uuid4()
    await store.register_worker(worker, timedelta(hours=1), (), process)
    async with store.connection() as connection:
        await connection.execute("UPDATE eventsaga.sagas SET owner = $1, wake_at = NULL", worker)
    return worker


@pytest.mark.parametrize("when", ["at the start", "later"])
async def test_what_a_dead_neighbour_left_is_taken_over_at_once(
    database: str, store: PostgresStore, when: str
) -> None:
    done: list[str] = []

    async def execute(order: Order) -> None:
        done.append(order.order_id)

    child, process = _tell()
    saga = one_step(execute)
    async with orchestrating(database, saga, worker=False) as client:
        handle = await client.start("one", Order())
        worker = await _leave(store, process)
        if when == "at the start":
            child.kill()
            child.wait()
        async with orchestrating(database, saga, settings=PATIENT):
            if when == "later":
                beat = "SELECT bool_or(heartbeat_at > started_at) FROM eventsaga.workers"
                await until(database, beat)
                assert (await handle.state()).status is Status.PENDING
                child.kill()
                child.wait()
            state = await handle.result(timeout=10)

    assert (state.status, done) == (Status.COMPLETED, ["o-1"])
    ended = "SELECT lease_until <= now() FROM eventsaga.workers WHERE worker_id = $1"
    assert await until(database, ended, worker)
    child.communicate()


@pytest.mark.parametrize("whose", ["living", "elsewhere", "unknown"])
async def test_whoever_may_live_is_waited_for(
    database: str, store: PostgresStore, whose: str
) -> None:
    child, process = _tell()
    gone = _altered(_altered(process, 4, "1"), 0, "another-boot")
    told = {"living": process, "elsewhere": gone, "unknown": None}[whose]
    worker = await _leave(store, told)

    async with orchestrating(database, one_step(nothing), settings=PATIENT):
        beats = "SELECT bool_or(heartbeat_at > started_at) FROM eventsaga.workers"
        await until(database, beats)
        lives = "SELECT lease_until > now() FROM eventsaga.workers WHERE worker_id = $1"
        assert await until(database, lives, worker)

    child.kill()
    child.communicate()


async def test_a_neighbour_that_lives_after_all_is_kept_out_by_the_fence(
    database: str, store: PostgresStore
) -> None:
    """Somebody judged wrongly: the effect is repeated with its key, and is recorded once."""
    begun, let_go, done = asyncio.Event(), asyncio.Event(), list[str]()

    async def execute(order: Order) -> None:
        done.append(order.order_id)
        begun.set()
        await let_go.wait()

    saga = one_step(execute)
    slow = replace(PATIENT, heartbeat=timedelta(minutes=1))
    async with orchestrating(database, saga, settings=slow) as first:
        handle = await first.start("one", Order())
        await begun.wait()
        async with orchestrating(database, saga, settings=PATIENT) as second:
            async with store.connection() as connection:
                owner = await connection.fetchval("SELECT owner FROM eventsaga.sagas")
            await store.end_leases([owner])
            taken = "SELECT count(*) > 0 FROM eventsaga.events WHERE type = 'SagaRecovered'"
            await until(database, taken)
            let_go.set()
            state = await second.wait(handle.id, timeout=10)
        history = await handle.history()

    assert (state.status, len(done)) == (Status.COMPLETED, 2)
    assert [stored.type for stored in history].count("StepSucceeded") == 1

"""How soon does somebody go on with what a killed worker left? As soon as is promised.

Here all times are those that a worker has if nobody sets them. The promise: on another machine
within lease and poll, at most 12 s; on the same machine when a new worker starts, or with the
next heartbeat of one that lives.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from eventsaga import Settings
from tests.acceptance.crash.crew import Crew, crew
from tests.acceptance.crash.participant import Participant, kill
from tests.faults.load import Load, loading
from tests.runtime.sagas import run_sql, until

SAGAS: Final = range(10)
DEFAULTS: Final = {
    f"EVENTSAGA_{name.upper()}": str(getattr(Settings(), name).total_seconds())
    for name in ("lease", "heartbeat", "lease_margin", "poll")
}
PROMISED: Final = 12
# What is left of a lease that was renewed just before the kill, at least.
LEFT: Final = 7
ELSEWHERE: Final = "UPDATE eventsaga.workers SET process = 'another-machine/1/0/1/1'"
MARK: Final = "CREATE TABLE killed AS SELECT clock_timestamp() AS at"
SECONDS: Final = """
SELECT extract(epoch FROM max(e.recorded_at) - (SELECT at FROM killed))::float8
  FROM eventsaga.events e WHERE e.type = 'SagaRecovered'
"""
SECONDS_OF_THE_NEW: Final = """
SELECT extract(epoch FROM max(e.recorded_at) - max(w.started_at))::float8
  FROM eventsaga.events e, eventsaga.workers w WHERE e.type = 'SagaRecovered'
"""


@pytest.fixture
async def load(database: str, participant: Participant) -> AsyncIterator[Load]:
    async with loading(database, participant) as lent:
        yield lent


@pytest.fixture
async def workers(database: str, participant: Participant, tmp_path: Path) -> AsyncIterator[Crew]:
    async with crew(database, participant.url, tmp_path, **DEFAULTS) as members:
        yield members


async def _owner_of_all(load: Load, workers: Crew) -> asyncio.subprocess.Process:
    """Start a worker, and sagas of which it has an attempt under way for each."""
    worker = await workers.hire()
    load.hold(0)
    arrived = asyncio.create_task(load.calls(len(SAGAS)))
    await load.start(SAGAS)
    await arrived
    return worker


async def test_a_living_worker_of_another_machine_takes_over_within_12_seconds(
    database: str, load: Load, workers: Crew
) -> None:
    victim = await _owner_of_all(load, workers)
    await run_sql(database, ELSEWHERE)
    await workers.hire()
    kill(victim.pid)
    await run_sql(database, MARK)
    load.release()
    await load.judged()

    assert LEFT < await until(database, SECONDS) <= PROMISED


async def test_a_living_worker_of_the_same_machine_takes_over_with_its_next_heartbeat(
    database: str, load: Load, workers: Crew
) -> None:
    victim = await _owner_of_all(load, workers)
    await workers.hire()
    kill(victim.pid)
    await run_sql(database, MARK)
    load.release()
    await load.judged()

    settings = Settings()
    soon = (settings.heartbeat + settings.poll).total_seconds()
    assert await until(database, SECONDS) < soon + 1


async def test_a_new_worker_of_the_same_machine_takes_over_when_it_starts(
    database: str, load: Load, workers: Crew
) -> None:
    victim = await _owner_of_all(load, workers)
    kill(victim.pid)
    await victim.wait()
    load.release()
    await workers.hire()
    await load.judged()

    assert await until(database, SECONDS_OF_THE_NEW) < Settings().heartbeat.total_seconds()

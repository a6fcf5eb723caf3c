"""What happens when everything is due at once? Workers take what fits, the oldest first.

The herd is 3,000 here, and not the 100,000 of the fault matrix: at some 1,000 sagas a second on
two cores those would take longer than several other tests together. ``FAULTS_HERD=100000`` asks
for them; nothing grows with it but the time.
"""

import asyncio
import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Final

import asyncpg
import pytest

from eventsaga import Orchestrator, Settings
from eventsaga.client.verify import verify
from eventsaga.store.invariants import Effect, Ledger
from tests.acceptance.crash.crew import crew
from tests.faults.herd import Sheep, herd_saga
from tests.runtime.sagas import run_sql

HERD: Final = int(os.environ.get("FAULTS_HERD", "3000"))
WORKERS: Final = 3
# Of those whose worker has died, who come as fast as `recovery_rate` lets them.
ORPHANS: Final = HERD // 3
RATE: Final = ORPHANS // 20
DEAD: Final = (
    """
    INSERT INTO eventsaga.workers (worker_id, host, pid, lease_until, definitions)
    VALUES ('00000000-0000-0000-0000-000000000001', 'h', 1, '-infinity', '{}')
    """,
    "UPDATE eventsaga.sagas SET owner = '00000000-0000-0000-0000-000000000001', wake_at = NULL",
)
MOST_IN_A_SECOND: Final = """
SELECT max(count)
  FROM (SELECT count(*) OVER (ORDER BY recorded_at
                              RANGE BETWEEN CURRENT ROW AND interval '1 s' FOLLOWING)
          FROM eventsaga.events WHERE type = 'SagaRecovered') r
"""
ROOM: Final = 500
UNFINISHED: Final = "SELECT count(*) FROM eventsaga.sagas WHERE status <> 'COMPLETED'"
MOST_OWNED: Final = """
SELECT coalesce(max(count), 0)
  FROM (SELECT count(*) FROM eventsaga.sagas s JOIN eventsaga.workers w ON w.worker_id = s.owner
         WHERE w.lease_until > clock_timestamp() GROUP BY owner) o
"""
# By how many places a saga began earlier or later than its age says.
DISPLACED: Final = """
SELECT max(abs(age - turn))
  FROM (SELECT row_number() OVER (ORDER BY s.created_at, s.saga_id) AS age,
               row_number() OVER (ORDER BY e.recorded_at, s.saga_id) AS turn
          FROM eventsaga.sagas s
          JOIN eventsaga.events e ON e.saga_id = s.saga_id AND e.type = 'StepStarted') r
"""


@pytest.mark.timeout(180 + HERD // 100)
async def test_a_herd_of_sagas_is_taken_by_and_by_and_in_the_order_of_its_age(
    database: str, tmp_path: Path
) -> None:
    await _start(database, HERD)
    most_owned = await _run(database, tmp_path, HERD)

    assert most_owned <= ROOM
    assert await _ask(database, DISPLACED) <= 2 * WORKERS * ROOM


@pytest.mark.timeout(180 + HERD // 100)
async def test_a_herd_of_orphans_is_taken_over_no_faster_than_it_may(
    database: str, tmp_path: Path
) -> None:
    await _start(database, ORPHANS)
    await run_sql(database, *DEAD)
    most_owned = await _run(database, tmp_path, ORPHANS, EVENTSAGA_RECOVERY_RATE=str(RATE))

    assert most_owned <= ROOM
    # A claim may come at the end of one second and be written down in the next.
    assert await _ask(database, MOST_IN_A_SECOND) <= 2 * WORKERS * RATE


async def _start(database: str, size: int) -> None:
    settings = Settings(append_batch=1000, statement_timeout=timedelta(seconds=60))
    async with Orchestrator(database, sagas=[herd_saga], worker=False, settings=settings) as client:
        await client.start_many(herd_saga, [Sheep(number=number) for number in range(size)])


async def _run(database: str, folder: Path, size: int, **settings: str) -> int:
    """Run all, judge them, and return the most that one worker ever owned."""
    ledger = folder / "ledger"
    ledger.mkdir()
    async with (
        Orchestrator(database, sagas=[herd_saga], worker=False) as client,
        crew(
            database,
            "",
            folder,
            program="tests.faults.herd",
            EVENTSAGA_MAX_CONCURRENCY=str(ROOM),
            # Three of them, and the server, may want more processors than there are.
            EVENTSAGA_LEASE="30",
            EVENTSAGA_HEARTBEAT="2",
            HERD_LEDGER=str(ledger),
            **settings,
        ) as workers,
    ):
        began = time.monotonic()
        await asyncio.gather(*(workers.hire() for _ in range(WORKERS)))
        most_owned = await _watch(database)
        seconds = time.monotonic() - began
        print(f"{size} sagas, {WORKERS} workers: {size / seconds:.0f} a second")  # noqa: T201

        keys = [key for path in ledger.iterdir() for key in path.read_text().split()]
        assert (len(keys), len(set(keys))) == (size, size)
        held = Ledger([Effect.of_key(key) for key in keys], covers={"count"})
        found = verify(client.store, definitions=[herd_saga.definition], ledger=held)
        assert [str(violation) async for violation in found] == []
    return most_owned


async def _ask(database: str, query: str) -> int:
    connection = await asyncpg.connect(database)
    try:
        return int(await connection.fetchval(query))
    finally:
        await connection.close()


async def _watch(database: str) -> int:
    """Return when all have ended; what it returns is the most that one worker ever owned."""
    connection = await asyncpg.connect(database)
    most = 0
    try:
        async with asyncio.timeout(60 + HERD / 200):
            while await connection.fetchval(UNFINISHED):
                most = max(most, await connection.fetchval(MOST_OWNED))
                # The server waits, so that nobody's processor is spent on asking.
                await connection.execute("SELECT pg_sleep(0.1)")
    finally:
        await connection.close()
    return most

"""What happens when everything is due at once? Workers take what fits, the oldest first.

The herd is 20,000: at some 1,000 sagas a second on two cores, 100,000 would take longer than
all other tests of faults together. Nothing here grows with it but the time.
``FAULTS_HERD=100000`` asks for more.
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

HERD: Final = int(os.environ.get("FAULTS_HERD", "20000"))
WORKERS: Final = 3
ROOM: Final = 500
UNFINISHED: Final = "SELECT count(*) FROM eventsaga.sagas WHERE status <> 'COMPLETED'"
MOST_OWNED: Final = """
SELECT coalesce(max(count), 0)
  FROM (SELECT count(*) FROM eventsaga.sagas WHERE owner IS NOT NULL GROUP BY owner) o
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
    ledger = tmp_path / "ledger"
    ledger.mkdir()
    settings = Settings(append_batch=1000, statement_timeout=timedelta(seconds=60))
    async with (
        Orchestrator(database, sagas=[herd_saga], worker=False, settings=settings) as client,
        crew(
            database,
            "",
            tmp_path,
            program="tests.faults.herd",
            EVENTSAGA_MAX_CONCURRENCY=str(ROOM),
            # Three of them, and the server, may want more processors than there are.
            EVENTSAGA_LEASE="30",
            EVENTSAGA_HEARTBEAT="2",
            HERD_LEDGER=str(ledger),
        ) as workers,
    ):
        await client.start_many(herd_saga, [Sheep(number=number) for number in range(HERD)])
        began = time.monotonic()
        await asyncio.gather(*(workers.hire() for _ in range(WORKERS)))
        most_owned = await _watch(database)
        seconds = time.monotonic() - began
        print(f"{HERD} sagas, {WORKERS} workers: {HERD / seconds:.0f} a second")  # noqa: T201

        assert most_owned <= ROOM
        keys = [key for path in ledger.iterdir() for key in path.read_text().split()]
        assert (len(keys), len(set(keys))) == (HERD, HERD)
        held = Ledger([Effect.of_key(key) for key in keys], covers={"count"})
        found = verify(client.store, definitions=[herd_saga.definition], ledger=held)
        assert [str(violation) async for violation in found] == []
        assert await _ask(database, DISPLACED) <= 2 * WORKERS * ROOM


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

"""Does it survive a worker that is cut from the database, and from nothing else?

It can still reach the other side, and must not use that: what its lease covers is over before
anybody else begins.
"""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from tests.acceptance.crash.crew import LEASE, crew
from tests.acceptance.crash.participant import Call, Participant, kill
from tests.faults.load import Load, dice, loading
from tests.proxy import Proxy
from tests.runtime.sagas import until

SAGAS: Final = range(40)
LATER: Final = range(40, 50)
MOST_CALLS: Final = 60
# Of an event loop that did not run when it should have.
LATE: Final = 1
ITS_SAGAS: Final = """
SELECT count(*) FROM eventsaga.sagas s JOIN eventsaga.workers w ON w.worker_id = s.owner
 WHERE w.pid = $1
"""
TAKEN_OVER: Final = "SELECT count(*) FROM eventsaga.events WHERE type = 'SagaRecovered'"
HAS_A_NEW_IDENTITY: Final = "SELECT count(*) >= 2 FROM eventsaga.workers WHERE pid = $1"


@pytest.fixture
async def load(database: str, participant: Participant) -> AsyncIterator[Load]:
    async with loading(database, participant) as lent:
        yield lent


@pytest.mark.parametrize("way", ["refused", "silent"])
async def test_a_worker_that_is_cut_from_the_database_stops_before_others_begin(
    database: str, load: Load, participant: Participant, tmp_path: Path, way: str
) -> None:
    """Its connections are closed, or swallow everything; then the way is free again."""
    chance = dice()
    called: list[tuple[float, int]] = []
    arrive = participant.before

    async def note(call: Call) -> None:
        called.append((time.monotonic(), call.worker_pid))
        await arrive(call)

    participant.before = note
    (tmp_path / "cut").mkdir()
    (tmp_path / "whole").mkdir()
    async with (
        Proxy(database) as proxy,
        crew(proxy.url, participant.url, tmp_path / "cut") as cut,
        crew(database, participant.url, tmp_path / "whole") as whole,
    ):
        worker = await cut.hire()
        load.hold(chance.randint(1, MOST_CALLS))
        await load.start(SAGAS)
        await load.held()
        assert await until(database, ITS_SAGAS, worker.pid), "it has nothing to lose"
        if way == "refused":
            await proxy.cut()
        else:
            proxy.stall()
        cut_at = time.monotonic()
        load.release()
        other = await whole.hire()
        await load.judged()

        assert await until(database, TAKEN_OVER)
        last = max(at for at, pid in called if pid == worker.pid)
        lease, margin = float(LEASE["EVENTSAGA_LEASE"]), float(LEASE["EVENTSAGA_LEASE_MARGIN"])
        assert last - cut_at < lease - margin + LATE

        await proxy.mend()
        await until(database, HAS_A_NEW_IDENTITY, worker.pid)
        kill(other.pid)
        await other.wait()
        await load.start(LATER)
        await load.judged()
        assert worker.returncode is None
        assert called[-1][1] == worker.pid, "it does not work any more"

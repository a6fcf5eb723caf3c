"""Does it survive its own workers? Poison, deaths during recovery, and being told to stop.

One worker that is told to stop is the matter of `tests/acceptance/cli/test_worker.py`; here it
happens to many, with load, and during the recovery from that. The moments at which a worker can
die or be paused are in `test_moments.py`.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

import pytest

from eventsaga.core.events import ParkReason, SagaParked
from tests.acceptance.crash.crew import crew
from tests.acceptance.crash.participant import Call, Participant, kill
from tests.faults.load import Load, dice, doomed, loading
from tests.runtime.sagas import until

SAGAS: Final = range(40)
MOST_CALLS: Final = 80
POISON: Final = 100
CLAIMS: Final = 3
KILLED: Final = -signal.SIGKILL
TERMINATED: Final = -signal.SIGTERM
IS_PARKED: Final = """
SELECT count(*) FROM eventsaga.sagas WHERE status = 'PARKED' AND (context->>'number')::int = $1
"""
OTHERS_HAVE_MOVED: Final = """
SELECT NOT EXISTS (SELECT FROM eventsaga.sagas
                    WHERE claims > 0 AND (context->>'number')::int <> $1)
"""


@pytest.fixture
async def load(database: str, participant: Participant) -> AsyncIterator[Load]:
    async with loading(database, participant) as lent:
        yield lent


async def test_a_saga_that_kills_whoever_runs_it_is_parked_and_the_others_go_on(
    database: str, load: Load, participant: Participant, tmp_path: Path
) -> None:
    """The others lose their workers with it, time and again, and are no poison for that."""

    async def moved() -> None:
        await until(database, OTHERS_HAVE_MOVED, POISON, within=30)

    await _poisoned(database, load, participant, tmp_path, moved)


async def test_a_saga_that_kills_at_once_takes_no_other_saga_with_it(
    database: str, load: Load, participant: Participant, tmp_path: Path
) -> None:
    """The others are slower: none has recorded that its step has succeeded when it strikes."""

    async def at_once() -> None:
        return None

    async def then_the_others() -> None:
        await until(database, IS_PARKED, POISON, within=110)
        load.release()

    load.hold(0)
    later = asyncio.create_task(then_the_others())
    await _poisoned(database, load, participant, tmp_path, at_once)
    await later


async def _poisoned(
    database: str,
    load: Load,
    participant: Participant,
    folder: Path,
    moment: Callable[[], Awaitable[None]],
) -> None:
    """Run sagas beside one that kills its worker at each request, when *moment* has come."""
    arrive = participant.before

    async def strike(call: Call) -> None:
        if call.number == POISON:
            await moment()
            kill(call.worker_pid)
            await asyncio.Event().wait()
        await arrive(call)

    participant.before = strike
    async with crew(
        database, participant.url, folder, EVENTSAGA_POISON_CLAIMS=str(CLAIMS)
    ) as workers:
        await load.start([POISON, *SAGAS])
        await workers.keep_up(2)
        await load.judged(parked=[POISON], seconds=120)

        last = (await load.client.history(load.acked[POISON]))[-1].event
        assert isinstance(last, SagaParked)
        assert last.reason is ParkReason.POISON
        deaths = [process.returncode for process in workers.processes].count(KILLED)
        assert deaths == CLAIMS, workers.logs()


@pytest.mark.parametrize("place", ["before_recovery", "after_claim_commit"])
async def test_workers_that_die_while_they_recover_leave_the_rest_to_the_next(
    database: str, load: Load, participant: Participant, tmp_path: Path, place: str
) -> None:
    """One dies at work, two of those who take over die of it, and the last one recovers all."""
    chance = dice()
    (tmp_path / "dying").mkdir()
    (tmp_path / "living").mkdir()
    dying = crew(
        database,
        participant.url,
        tmp_path / "dying",
        EVENTSAGA_FAILPOINTS=f"{place}:kill9",
        # Whoever dies of it has claimed few: the next one finds something to die of as well.
        EVENTSAGA_MAX_CONCURRENCY="10",
    )
    living = crew(database, participant.url, tmp_path / "living")
    async with living as workers, dying as victims:
        first = await workers.hire()
        load.hold(chance.randint(1, MOST_CALLS))
        await load.start(SAGAS)
        await load.held()
        kill(first.pid)
        load.release()
        for _ in range(2):
            victim = await doomed(victims)
            async with asyncio.timeout(30):
                assert await victim.wait() == KILLED, victims.logs()
        await workers.hire()
        await load.judged()


async def test_workers_that_are_told_to_stop_under_load_hand_everything_over(
    database: str, load: Load, participant: Participant, tmp_path: Path
) -> None:
    """One is told once and drains; one is told twice and is gone at once; a third takes all."""
    chance = dice()
    held = SAGAS[-1] + 1
    async with crew(database, participant.url, tmp_path) as workers:
        drained = await workers.hire()
        load.hold(chance.randint(1, MOST_CALLS))
        await load.start(SAGAS)
        await load.held()
        drained.terminate()
        load.release()
        hurried = await workers.hire()
        async with asyncio.timeout(30):
            assert await drained.wait() == 0, workers.logs()
        # An attempt that does not end keeps it from draining, until it is told again.
        load.swallowed.add(held)
        await load.start([held])
        await load.call_of(held)
        more = asyncio.create_task(load.calls(chance.randint(1, 20)))
        await load.start(range(held + 1, held + 20))
        await more
        hurried.terminate()
        async with asyncio.timeout(30):
            while hurried.returncode is None:
                hurried.terminate()
                await asyncio.wait([asyncio.create_task(hurried.wait())], timeout=0.05)
        load.swallowed.clear()
        await workers.hire()
        await load.judged()

        assert hurried.returncode == TERMINATED, workers.logs()

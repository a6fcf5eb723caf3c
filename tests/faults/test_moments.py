"""Does it survive a worker that dies, or is paused, at any moment of its work?

The moments are those of the fault matrix: before, in and after the commit of an intent (m1, m5,
m6) and of a result, around the effect (m2, m4), the same on the way back (u1 to u6), the claim,
the heartbeat and the recovery itself. What happens at the other side in between (m3) is the
matter of `tests/acceptance/test_crash.py`.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from typing import Final

import pytest

from tests.acceptance.crash.crew import Crew, crew
from tests.acceptance.crash.participant import Participant
from tests.faults.load import Load, doomed, loading
from tests.runtime.sagas import until

SHARE: Final = 5
DEATHS: Final = {
    "forward": [
        "before_intent_commit[StepStarted/charge]",
        "during_intent_commit[StepStarted/charge]",
        "after_intent_commit[StepStarted/charge]",
        "before_effect[execute/charge]",
        "after_effect[execute/charge]",
        "before_result_commit[StepSucceeded/charge]",
        "during_result_commit[StepSucceeded/charge]",
        "after_result_commit[StepSucceeded/charge]",
    ],
    "back": [
        "before_intent_commit[StepCompensationStarted/charge]",
        "during_intent_commit[StepCompensationStarted/charge]",
        "after_intent_commit[StepCompensationStarted/charge]",
        "before_effect[compensate/charge]",
        "after_effect[compensate/charge]",
        "before_result_commit[StepCompensated/charge]",
        "during_result_commit[StepCompensated/charge]",
        "after_result_commit[StepCompensated/charge]",
    ],
    "between": [
        *("before_register_worker", "after_register_worker"),
        *("before_claim", "after_claim_commit", "after_claim"),
        *("before_renew", "after_renew"),
        # By now there is much to recover.
        *("before_recovery", "after_recovery"),
    ],
}
# Who is paused before it has a lease has nothing to lose.
PAUSES: Final = {
    way: [moment for moment in moments if moment != "before_register_worker"]
    for way, moments in DEATHS.items()
}
EVENTS: Final = "SELECT count(*) FROM eventsaga.events"
TAKEN_OVER: Final = "SELECT count(*) FROM eventsaga.events WHERE type = 'SagaRecovered'"
HAVE_NO_LEASE: Final = """
SELECT bool_and(lease_until < clock_timestamp()) FROM eventsaga.workers WHERE pid = ANY ($1::int[])
"""
HAS_A_NEW_IDENTITY: Final = "SELECT count(*) >= 2 FROM eventsaga.workers WHERE pid = $1"


@pytest.fixture
async def load(database: str, participant: Participant) -> AsyncIterator[Load]:
    async with loading(database, participant) as lent:
        yield lent


@pytest.mark.parametrize("way", DEATHS)
async def test_workers_that_die_at_every_moment_leave_all_to_the_next(
    database: str, load: Load, participant: Participant, tmp_path: Path, way: str
) -> None:
    """Each dies at another moment, of what those before it have left, and of new sagas."""
    numbers = count(0, SHARE)
    for index, moment in enumerate(DEATHS[way]):
        (folder := tmp_path / str(index)).mkdir()
        points = f"{moment}:kill9"
        async with crew(database, participant.url, folder, EVENTSAGA_FAILPOINTS=points) as dying:
            await _start(load, next(numbers))
            victim = await doomed(dying)
            async with asyncio.timeout(60):
                # An answer may be faster than what strikes while it is under way.
                while not await _has_ended(victim):
                    await _start(load, next(numbers))
            assert victim.returncode == -signal.SIGKILL, f"{moment}\n{dying.logs()}"
    (tmp_path / "last").mkdir()
    async with crew(database, participant.url, tmp_path / "last") as living:
        await living.hire()
        await load.judged()
    assert await until(database, TAKEN_OVER)


async def _start(load: Load, first: int) -> None:
    await load.start(range(first, first + SHARE))


async def _has_ended(process: asyncio.subprocess.Process) -> bool:
    """Return whether a process ends soon."""
    done, _ = await asyncio.wait([asyncio.ensure_future(process.wait())], timeout=3)
    return bool(done)


@pytest.mark.parametrize("way", PAUSES)
async def test_workers_that_are_paused_at_every_moment_write_nothing_when_they_wake_up(
    database: str, load: Load, participant: Participant, tmp_path: Path, way: str
) -> None:
    """Each is paused at another moment, one more does it all, and then they are back."""
    numbers = count(0, SHARE)
    async with AsyncExitStack() as stack:
        crews: list[Crew] = []
        for index, moment in enumerate([*PAUSES[way], None]):
            (folder := tmp_path / str(index)).mkdir()
            points = "" if moment is None else f"{moment}:stop@1"
            members = crew(database, participant.url, folder, EVENTSAGA_FAILPOINTS=points)
            crews.append(await stack.enter_async_context(members))
        *pausing, last = crews
        # Some are paused before they can say that they are ready.
        zombies = [await members.launch() for members in pausing]
        async with asyncio.timeout(60):
            working = {asyncio.create_task(_is_paused(zombie)) for zombie in zombies}
            while working:
                await _start(load, next(numbers))
                _, working = await asyncio.wait(working, timeout=0.5)
        await last.hire()
        await load.judged()
        assert await until(database, HAVE_NO_LEASE, [zombie.pid for zombie in zombies])
        assert await until(database, TAKEN_OVER)
        events, keys = await until(database, EVENTS), {call.key for call in participant.calls}

        for zombie in zombies:
            os.kill(zombie.pid, signal.SIGCONT)
        for zombie in zombies:
            await until(database, HAS_A_NEW_IDENTITY, zombie.pid)

        assert await until(database, EVENTS) == events
        # What was about to be sent when it was paused may be sent now, and has no effect.
        assert {call.key for call in participant.calls} == keys
        assert [zombie.returncode for zombie in zombies] == [None] * len(zombies)
        await load.judged()


async def _is_paused(process: asyncio.subprocess.Process) -> None:
    # Not reaped: that is for its owner.
    await asyncio.to_thread(os.waitid, os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)

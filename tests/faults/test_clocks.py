"""Does it survive clocks that jump? The workers' must not matter; the server's may cost time.

No timer fires before its time by the database's clock, and no lease ends because somebody has
set another clock. The monotonic clock is not touched: no administrator can set that one.
"""

import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from random import Random
from typing import Final

import pytest

from eventsaga import Orchestrator, SagaHandle, Status
from eventsaga.core.events import TimerFired, TimerStarted
from tests.acceptance.crash.crew import Crew, crew
from tests.acceptance.crash.participant import Participant
from tests.faults.cluster import Cluster, Ground, cluster
from tests.faults.load import LEFT_OUT, QUICK, dice, loading, program
from tests.faults.nap import Nap, nap_saga

PROGRAM: Final = "tests.faults.nap"
SAGAS: Final = range(30)
NAPS: Final = 5
HOUR: Final = 3600
# What the other processes of a busy machine may cost between two looks at a clock.
LATE: Final = 60
TAKEN_OVER: Final = "SELECT count(*) FROM eventsaga.events WHERE type = 'SagaRecovered'"
IDENTITIES: Final = "SELECT count(*) FROM eventsaga.workers"


class _Clock:
    """A clock that jumps, for the processes that are started with its environment."""

    def __init__(self, path: Path) -> None:
        faketime = Path(program("faketime", package="faketime"))
        libraries = [*faketime.parents[1].glob("lib*/**/libfaketimeMT.so.1")]
        if not libraries:
            pytest.skip(f"{LEFT_OUT}: there is no libfaketimeMT.so.1 near {faketime}")
        self._path = path
        self.set(0)
        path.chmod(0o644)
        self.environment = {
            "LD_PRELOAD": str(libraries[0]),
            "FAKETIME_TIMESTAMP_FILE": str(path),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, seconds: int) -> None:
        """Set it so many seconds fast; slow if negative."""
        # Renamed over the old one: nobody reads half a file.
        new = self._path.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.chmod(0o644)
        new.replace(self._path)


async def test_worker_clocks_that_jump_by_an_hour_change_nothing(
    place: Ground, participant: Participant, tmp_path: Path
) -> None:
    """One worker's goes forward, the other's back, and then the other way round."""
    chance = dice()
    folders = [tmp_path / name for name in ("one", "other")]
    for folder in folders:
        folder.mkdir()
    clocks = [_Clock(folder / "clock") for folder in folders]
    async with cluster(place, "server") as server:
        await server.create()
        async with (
            loading(server.url, participant) as load,
            Orchestrator(server.url, sagas=[nap_saga], worker=False, settings=QUICK) as client,
            _crew_by(clocks[0], server, participant, folders[0]) as first,
            _crew_by(clocks[1], server, participant, folders[1]) as second,
        ):
            await first.hire()
            await second.hire()
            naps: list[SagaHandle] = []
            for share, jump in ((SAGAS[::2], HOUR), (SAGAS[1::2], -HOUR)):
                asleep = await _sleeping(client, chance)
                load.hold(chance.randint(1, 30))
                await load.start(share)
                await load.held()
                clocks[0].set(jump)
                clocks[1].set(-jump)
                load.release()
                after = await _sleeping(client, chance)
                await _are_over(asleep)
                # Both have jumped, so whoever ran it was an hour off.
                assert all(abs(ahead) > HOUR - LATE for ahead in await _are_over(after))
                naps += asleep + after
            await load.judged()
            early = [nap for nap in naps if not await _was_in_time(nap)]
        recovered, identities = await server.fetchval(TAKEN_OVER), await server.fetchval(IDENTITIES)

    assert early == []
    assert (recovered, identities) == (0, 2), "a lease was stolen"


async def test_a_server_whose_clock_jumps_by_an_hour_costs_leases_and_nothing_else(
    place: Ground, participant: Participant, tmp_path: Path
) -> None:
    """Forward: every lease has ended, and is taken anew. Back: what begins then is in time."""
    chance = dice()
    (tmp_path / "crew").mkdir()
    async with cluster(place, "server") as server:
        clock = _Clock(place.make("clock") / "offset")
        server.environment = clock.environment
        await server.create()
        async with (
            loading(server.url, participant) as load,
            crew(server.url, participant.url, tmp_path / "crew") as workers,
        ):
            await workers.hire()
            await workers.hire()
            load.hold(chance.randint(1, 50))
            await load.start(SAGAS)
            await load.held()
            clock.set(HOUR)
            load.release()
            assert await _offset(server) > HOUR - LATE
            await load.judged()
            clock.set(0)
            assert await _offset(server) < LATE
            await load.start(range(len(SAGAS), 2 * len(SAGAS)))
            await load.judged()
            assert [process.returncode for process in workers.processes] == [None, None]


def _crew_by(
    clock: _Clock, server: Cluster, participant: Participant, folder: Path
) -> AbstractAsyncContextManager[Crew]:
    return crew(server.url, participant.url, folder, program=PROGRAM, **clock.environment)


async def _offset(server: Cluster) -> float:
    """Return how many seconds the server's clock is fast."""
    now = await server.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
    return float(str(now)) - time.time()


async def _sleeping(client: Orchestrator, chance: Random) -> list[SagaHandle]:
    return await client.start_many(
        nap_saga, [Nap(seconds=chance.uniform(0.2, 2)) for _ in range(NAPS)]
    )


async def _are_over(naps: Sequence[SagaHandle]) -> list[float]:
    """Wait for sagas that sleep; return by how much the clocks of who woke them were fast."""
    ahead: list[float] = []
    for nap in naps:
        state = await nap.result(timeout=60)
        assert state.status is Status.COMPLETED
        ahead.append(float(state.context.clock) - time.time())
    return ahead


async def _was_in_time(nap: SagaHandle) -> bool:
    """Whether the sleep was over when the database said so, and not before."""
    history = await nap.history()
    (started,) = (each.event for each in history if isinstance(each.event, TimerStarted))
    (fired,) = (each for each in history if isinstance(each.event, TimerFired))
    # `recorded_at` is written by the server itself.
    return started.fire_at <= fired.recorded_at

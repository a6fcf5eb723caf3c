"""Does it survive a PostgreSQL that dies again and again? Killed, or stopped without a word."""

import asyncio
from pathlib import Path

from tests.acceptance.crash.crew import crew
from tests.acceptance.crash.participant import Participant
from tests.faults.cluster import Cluster, Ground, cluster
from tests.faults.load import dice, loading

ROUNDS = 8
SAGAS_OF_A_ROUND = 5
# Four requests a saga at least: the server dies while some are still to come.
MOST_CALLS = 15


async def test_a_postgres_that_dies_eight_times_loses_nothing_and_fails_no_saga(
    place: Ground, participant: Participant, tmp_path: Path
) -> None:
    """Each round starts sagas while the server dies: what was acknowledged is kept."""
    chance = dice()
    async with cluster(place, "server") as server:
        await server.create()
        async with (
            loading(server.url, participant) as load,
            crew(server.url, participant.url, tmp_path) as workers,
        ):
            await workers.hire()
            await workers.hire()
            for first in range(0, ROUNDS * SAGAS_OF_A_ROUND, SAGAS_OF_A_ROUND):
                load.hold(chance.randint(1, MOST_CALLS))
                starts = asyncio.create_task(load.start(range(first, first + SAGAS_OF_A_ROUND)))
                await load.held()
                await _die(server, immediate=chance.random() < 0.5)
                load.release()
                await server.start()
                await starts
            await load.judged()

            assert [process.returncode for process in workers.processes] == [None, None]


async def _die(server: Cluster, *, immediate: bool) -> None:
    if immediate:
        await server.stop(immediate=True)
    else:
        await server.kill()

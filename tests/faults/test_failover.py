"""Does it survive the loss of its server? Failovers that lose nothing, ones that do, old backups.

What a failover lost has happened nevertheless, at the other side. Nothing of it is sent again
before somebody accepts that; then it is done again from what is left of the history, under the
same keys, so that it does not happen twice. A saga that was lost as a whole has left no key
behind; its start is for the caller to send again.
"""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import pytest

from tests.acceptance.crash.crew import Crew, crew
from tests.acceptance.crash.participant import Participant
from tests.faults.cluster import Cluster, Ground, cluster
from tests.faults.load import Load, dice, loading

SAGAS = range(40)
LOST = range(40, 45)
MOST_CALLS = 60
IS_SYNCHRONOUS = "SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'"
IS_STREAMING = "SELECT count(*) = 1 FROM pg_stat_replication WHERE state = 'streaming'"
PROMOTE = "SELECT pg_promote(wait => true)"
# The first one is that in which the tables were made.
IS_SEEN = "SELECT count(*) = 2 FROM eventsaga.incarnations"


@asynccontextmanager
async def _pair(place: Ground) -> AsyncGenerator[tuple[Cluster, Cluster]]:
    """Lend a primary and its standby."""
    async with cluster(place, "primary") as primary, cluster(place, "standby") as standby:
        await primary.create()
        await standby.follow(primary, name="standby")
        await primary.until(IS_STREAMING)
        yield primary, standby


@asynccontextmanager
async def _at_work(
    url: str, participant: Participant, folder: Path
) -> AsyncGenerator[tuple[Load, Crew]]:
    """Lend a load and two workers who reach the database by *url*."""
    async with loading(url, participant) as load, crew(url, participant.url, folder) as workers:
        await workers.hire()
        await workers.hire()
        yield load, workers


async def test_a_synchronous_failover_loses_nothing_that_was_acknowledged(
    place: Ground, participant: Participant, tmp_path: Path
) -> None:
    """The workers know both servers, and find the one that takes writes by themselves."""
    chance = dice()
    async with _pair(place) as (primary, standby):
        await primary.execute(
            "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()"
        )
        await primary.until(IS_SYNCHRONOUS)
        async with _at_work(primary.url_with(standby), participant, tmp_path) as (load, workers):
            load.hold(chance.randint(1, MOST_CALLS))
            starts = asyncio.create_task(load.start(SAGAS))
            await load.held()
            await primary.kill()
            load.release()
            await standby.fetchval(PROMOTE)
            await starts
            # From here it looks like one that loses commits: who lost his lease meanwhile waits.
            await _accept(load)
            await load.judged()
            assert [process.returncode for process in workers.processes] == [None, None]


async def test_workers_of_one_server_go_on_when_they_are_restarted_with_the_url_of_another(
    place: Ground, participant: Participant, tmp_path: Path
) -> None:
    chance = dice()
    async with _pair(place) as (primary, standby):
        await primary.execute(
            "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()"
        )
        await primary.until(IS_SYNCHRONOUS)
        async with _at_work(primary.url, participant, tmp_path) as (load, workers):
            load.hold(chance.randint(1, MOST_CALLS))
            await load.start(SAGAS)
            await load.held()
            await primary.kill()
            load.release()
            await standby.fetchval(PROMOTE)
            # Nobody needs to wait for workers who will not find a server again.
            await workers.dismiss()
            acked = load.acked
        (tmp_path / "after").mkdir()
        async with _at_work(standby.url, participant, tmp_path / "after") as (load, _):
            load.acked = acked
            await standby.until(IS_SEEN)
            assert (await load.client.store.incarnation()).held > 0, "nothing was under way"
            await _accept(load)
            await load.judged()


async def test_a_failover_that_loses_commits_repeats_them_when_somebody_accepts(
    place: Ground, participant: Participant, tmp_path: Path
) -> None:
    """The standby gets nothing more, the primary goes on and dies, the standby takes over."""
    chance = dice()
    async with (
        _pair(place) as (primary, standby),
        _at_work(primary.url_with(standby), participant, tmp_path) as (load, _),
    ):
        load.hold(chance.randint(1, MOST_CALLS))
        await load.start(SAGAS)
        await load.held()
        (walsender,) = primary.children("walsender")
        os.kill(walsender.pid, signal.SIGSTOP)
        load.swallowed |= set(LOST)
        await load.start(LOST)
        await load.call_of(LOST[0])
        more = asyncio.create_task(load.calls(len(SAGAS)))
        load.release()
        await more
        written = await primary.fetchval("SELECT count(*) FROM eventsaga.events")
        repeated = load.repeated("do")
        await primary.kill()
        await standby.fetchval(PROMOTE)
        kept = await standby.fetchval("SELECT count(*) FROM eventsaga.events")
        assert int(str(kept)) < int(str(written)), "nothing was lost, so nothing is proved"

        await standby.until(IS_SEEN)
        await _start_again(load)
        await _only_the_new_end(load, repeated)
        await _accept(load)
        await load.judged()
        assert load.repeated() > 0, "nothing was repeated, so nothing is proved"


@pytest.mark.parametrize("way", ["recovered", "copied"])
async def test_an_old_backup_that_is_restored_repeats_what_it_forgot_under_the_same_keys(
    place: Ground, participant: Participant, tmp_path: Path, way: str
) -> None:
    """All sagas have ended, and then they are in the midst of it again.

    Files that are only copied back, like the snapshot of a disk, cannot be told from a server
    that has crashed: nobody is asked then.
    """
    chance = dice()
    async with (
        cluster(place, "server") as server,
        loading((await server.create()).url, participant) as load,
        crew(server.url, participant.url, tmp_path) as workers,
    ):
        await workers.hire()
        await workers.hire()
        load.hold(chance.randint(1, MOST_CALLS))
        await load.start(SAGAS)
        await load.held()
        await server.kill()
        load.release()
        await asyncio.to_thread(place.copy, server.data, place.folder / "backup")
        await server.start()
        await load.judged()
        load.swallowed |= set(LOST)
        await load.start(LOST)
        await load.call_of(LOST[0])

        repeated = load.repeated("do")
        await server.kill()
        await asyncio.to_thread(place.copy, place.folder / "backup", server.data)
        if way == "recovered":
            # There is nothing more to restore than the backup itself.
            server.settings["restore_command"] = "false"
            signal_file = server.data / "recovery.signal"
            signal_file.touch()
            place.account.give(signal_file)
        await server.start()
        unfinished = await server.fetchval(
            "SELECT count(*) FROM eventsaga.sagas WHERE status = 'RUNNING'"
        )
        assert int(str(unfinished)) > 0, "the backup came too late to prove anything"
        if way == "recovered":
            await server.until(IS_SEEN)
        await _start_again(load)
        if way == "recovered":
            await _only_the_new_end(load, repeated)
            await _accept(load)
        await load.judged()
        assert load.repeated() > 0, "nothing was repeated, so nothing is proved"


async def _start_again(load: Load) -> None:
    """Send the starts again that the server does not know any more, as a caller would."""
    load.swallowed.clear()
    before: dict[int, UUID] = dict(load.acked)
    await load.start(LOST, again=True)
    await load.start(SAGAS)
    assert all(load.acked[number] != before[number] for number in LOST), "they were not lost"


async def _only_the_new_end(load: Load, repeated: int) -> None:
    """See sagas that were started since end, while nothing of the old ones is sent again."""
    for number in LOST:
        await load.client.wait(load.acked[number], timeout=30)
    assert load.repeated("do") == repeated, "it was sent again, and nobody has said so"
    assert (await load.client.store.incarnation()).held > 0


async def _accept(load: Load) -> None:
    """Let go on what is held, as `eventsaga recover --accept-incarnation` does."""
    await load.client.store.accept_incarnation("ann", "compared with the other side")

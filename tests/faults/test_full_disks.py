"""Does it survive a disk that is full? It waits for space, and nothing acknowledged is gone.

A full data directory costs statements: PostgreSQL lives on and refuses them. A full WAL costs
the server: it panics, and comes back when there is space.
"""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import asyncpg
import pytest

from eventsaga.store.postgres.connect import CONNECTION_ERRORS
from tests.acceptance.crash.crew import crew
from tests.acceptance.crash.participant import Participant
from tests.faults.cluster import DATABASE, Cluster, Ground, cluster
from tests.faults.load import LEFT_OUT, dice, loading

FULL: Final = "No space left on device"
MEBIBYTE: Final = 1024 * 1024
SAGAS: Final = range(40)
MOST_CALLS: Final = 60
MOST_MESSAGES: Final = 100
MESSAGE: Final = "SELECT pg_logical_emit_message(true, 'junk', repeat('x', 500000))"


@asynccontextmanager
async def _disk(place: Ground, name: str, size: int) -> AsyncGenerator[Path]:
    """Mount a disk of *size* bytes; where nobody may mount, the test is left out, loudly."""
    mount = shutil.which("mount")
    path = place.make(name)
    said = "there is no program 'mount' here"
    if mount is not None:
        command = [mount, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
        said = f"mount of a tmpfs: {done.stderr.strip()}" if done.returncode else ""
    if said:
        pytest.skip(f"{LEFT_OUT}: no small disk can be made here ({said})")
    try:
        place.account.give(path)
        yield path
    finally:
        await asyncio.to_thread(subprocess.run, ["umount", "--lazy", str(path)], check=True)


class _Ballast:
    """A file that takes the space of a disk, and gives it back."""

    def __init__(self, disk: Path) -> None:
        self._disk = disk
        self._path = disk / "ballast"

    def fill(self, *, but: int) -> None:
        """Leave no more than *but* bytes."""
        disk = os.statvfs(self._disk)
        size = disk.f_bavail * disk.f_frsize - but
        assert size > 0, "the disk is too small for this test"
        with self._path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)

    def remove(self) -> None:
        """Make room."""
        self._path.unlink()


async def _write_wal(server: Cluster) -> None:
    """Write WAL, as somebody else's work would, until the server does not live any more."""
    connection = await asyncpg.connect(server.url)
    try:
        for _ in range(MOST_MESSAGES):
            await connection.execute(MESSAGE)
    except CONNECTION_ERRORS:
        return
    finally:
        connection.terminate()
    raise AssertionError("the disk is larger than all the messages")


async def test_a_full_data_disk_holds_sagas_up_until_there_is_space(
    place: Ground, participant: Participant, tmp_path: Path
) -> None:
    async with (
        _disk(place, "disk", 40 * MEBIBYTE) as disk,
        cluster(place, "server", autovacuum="off") as server,
    ):
        await server.create()
        space = place.make("disk/space")
        await server.execute(f"CREATE TABLESPACE small LOCATION '{space}'", database="postgres")
        await server.execute(f"ALTER DATABASE {DATABASE} SET TABLESPACE small", database="postgres")
        async with (
            loading(server.url, participant) as load,
            crew(server.url, participant.url, tmp_path) as workers,
        ):
            await workers.hire()
            await workers.hire()
            ballast = _Ballast(disk)
            ballast.fill(but=0)
            starts = asyncio.create_task(load.start(SAGAS))
            await server.said(FULL)
            ballast.remove()
            await starts
            await load.judged()
            assert [process.returncode for process in workers.processes] == [None, None]


async def test_a_full_wal_disk_holds_sagas_up_until_there_is_space(
    place: Ground, participant: Participant, tmp_path: Path
) -> None:
    chance = dice()
    async with (
        _disk(place, "disk", 80 * MEBIBYTE) as disk,
        # No checkpoint comes and recycles what the disk has no room for.
        cluster(
            place, "server", wal=place.make("disk/wal"), max_wal_size="1GB", wal_keep_size="0"
        ) as server,
    ):
        await server.create("--wal-segsize=1")
        async with (
            loading(server.url, participant) as load,
            crew(server.url, participant.url, tmp_path) as workers,
        ):
            await workers.hire()
            await workers.hire()
            ballast = _Ballast(disk)
            load.hold(chance.randint(1, MOST_CALLS))
            starts = asyncio.create_task(load.start(SAGAS))
            await load.held()
            ballast.fill(but=MEBIBYTE)
            load.release()
            await _write_wal(server)
            await server.said("PANIC")
            # It may be on its way back, and fail once more, or be gone: that is its affair.
            await server.end()
            ballast.remove()
            await server.start()
            await starts
            await load.judged()
            assert [process.returncode for process in workers.processes] == [None, None]

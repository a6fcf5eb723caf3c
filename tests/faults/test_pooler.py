"""Does it work through a PgBouncer that lends a connection for one transaction, and dies?

Two server connections for everybody: two workers and a client, each of which has more than
that of its own, and none of which may leave anything on a session.
"""

import asyncio
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from tests.acceptance.crash.crew import crew
from tests.acceptance.crash.participant import Participant
from tests.faults.cluster import DATABASE, Cluster, Ground, cluster
from tests.faults.load import QUICK, dice, loading, program

SAGAS: Final = range(20)
MOST_CALLS: Final = 50
DEATHS: Final = 3
_PORT: Final = 6432
_CONFIGURATION: Final = """
[databases]
{database} = host={server} port=5432 dbname={database} user=postgres

[pgbouncer]
listen_addr =
listen_port = {port}
unix_socket_dir = {socket}
auth_type = any
pool_mode = transaction
default_pool_size = 2
max_client_conn = 200
ignore_startup_parameters = extra_float_digits
"""


class _Pooler:
    """A PgBouncer before *server*."""

    def __init__(self, bouncer: str, place: Ground, server: Cluster) -> None:
        self._bouncer = bouncer
        self._place = place
        self._socket = place.make("pooler")
        self._settings = self._socket / "pgbouncer.ini"
        text = _CONFIGURATION.format(
            database=DATABASE, server=server.socket, port=_PORT, socket=self._socket
        )
        self._settings.write_text(text)
        place.account.give(self._settings)
        self._process: Process | None = None
        self._log: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """The database of the sagas, by way of it."""
        return f"postgresql://postgres@/{DATABASE}?host={self._socket}&port={_PORT}"

    async def start(self) -> None:
        """Start it and return when it takes connections."""
        account = self._place.account
        process = await asyncio.create_subprocess_exec(
            self._bouncer,
            str(self._settings),
            cwd=self._place.folder,
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=PIPE,
            # Like PostgreSQL, it refuses to be root.
            user=account.uid if account.lent else None,
            group=account.gid if account.lent else None,
            extra_groups=[] if account.lent else None,
        )
        self._process = process
        assert process.stderr is not None
        said = b""
        async with asyncio.timeout(20):
            while b"process up" not in said:
                line = await process.stderr.readline()
                said += line
                assert line, said.decode()
        self._log = asyncio.create_task(_read_on(process.stderr))

    async def kill(self) -> None:
        """Kill -9 it, if it runs."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGKILL)
            await self._process.wait()
            self._process = None
        if self._log is not None:
            await self._log
            self._log = None


async def _read_on(log: asyncio.StreamReader) -> None:
    # Nobody looks at it, but a full pipe would hold the pooler up.
    while await log.read(65536):
        pass


@asynccontextmanager
async def _pooled(bouncer: str, place: Ground, server: Cluster) -> AsyncGenerator[_Pooler]:
    pooler = _Pooler(bouncer, place, server)
    try:
        await pooler.start()
        yield pooler
    finally:
        await pooler.kill()


async def test_a_transaction_pooler_with_two_connections_may_die_under_way(
    place: Ground, participant: Participant, tmp_path: Path
) -> None:
    bouncer = program("pgbouncer", package="pgbouncer")
    chance = dice()
    async with (
        cluster(place, "server") as server,
        _pooled(bouncer, place, await server.create()) as pooler,
        loading(pooler.url, participant, replace(QUICK, pooler=True)) as load,
        crew(pooler.url, participant.url, tmp_path, EVENTSAGA_POOLER="1") as workers,
    ):
        await workers.hire()
        await workers.hire()
        for death in range(DEATHS):
            load.hold(chance.randint(1, MOST_CALLS))
            share = range(death * len(SAGAS), (death + 1) * len(SAGAS))
            starts = asyncio.create_task(load.start(share))
            await load.held()
            await pooler.kill()
            load.release()
            await pooler.start()
            await starts
        await load.judged()
        backends = await server.fetchval(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        assert int(str(backends)) <= 2, "somebody went round the pooler"
        assert [process.returncode for process in workers.processes] == [None, None]

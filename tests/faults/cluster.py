"""Which PostgreSQL can be killed, copied and promoted? One made of the wheel's plain programs.

The server is a child of the test, and its log a pipe that the test reads: what it says is
waited for, not guessed at, and the end of the log means that none of its processes is left.
"""

import asyncio
import os
import shutil
import signal
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, Self

import asyncpg
import psutil

from eventsaga.embedded.account import Account, choose_account
from eventsaga.embedded.programs import environment, find_programs
from eventsaga.store.postgres import migrate

DATABASE: Final = "sagas"
READY: Final = "database system is ready to accept"

_PORT: Final = 5432  # names the socket only: each cluster has a directory of its own
_BOUND: Final = 60
# A killed process loses nothing that it has written; only a machine that dies would.
_SETTINGS: Final = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "100",
    "shared_buffers": "32MB",
    "wal_level": "replica",
    "wal_keep_size": "256MB",
}


class Ground:
    """A short path that the server's account may enter, for clusters and their sockets."""

    def __init__(self) -> None:
        self.programs = find_programs()
        # The path of a socket has room for a hundred letters: pytest's own folders are longer.
        self.folder = Path(tempfile.mkdtemp(prefix="es-faults-", dir="/tmp"))
        self.account: Account = choose_account(self.folder / "none", self.programs)
        self.account.give(self.folder)
        self.account.let_reach(self.folder)

    def make(self, name: str) -> Path:
        """Return a new directory of the server's account."""
        path = self.folder / name
        path.mkdir(mode=0o700)
        self.account.give(path)
        return path

    def run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs and see it succeed."""
        done = self.account.run([str(self.programs / program), *arguments], self.folder)
        assert done.returncode == 0, done.stderr

    def copy(self, source: Path, target: Path) -> None:
        """Copy a data directory, or what was copied of one back."""
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
        for path in (target, *target.rglob("*")):
            self.account.give(path)

    def remove(self) -> None:
        """Leave nothing behind."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Cluster:
    """One server, which runs or does not.

    Args:
        ground: Where it lives.
        name: Of its directory.
        settings: Server settings that stand above the usual ones.
        wal: Directory of its WAL; None for its own.
    """

    def __init__(
        self, ground: Ground, name: str, *, wal: Path | None = None, **settings: str
    ) -> None:
        self.ground = ground
        self.socket = ground.make(name)
        self.data = self.socket / "data"
        self.settings = {**_SETTINGS, **settings}
        self.environment: dict[str, str] = {}
        self._wal = wal
        self._process: Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._log: list[str] = []
        self._spoke = asyncio.Condition()

    @property
    def url(self) -> str:
        """The database of the sagas."""
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        """Return the URL of another database."""
        return f"postgresql://postgres@/{database}?host={self.socket}&port={_PORT}"

    def url_with(self, other: "Cluster") -> str:
        """Return a URL that leads to whichever of the two takes writes."""
        hosts, ports = f"{self.socket},{other.socket}", f"{_PORT},{_PORT}"
        return (
            f"postgresql://postgres@/{DATABASE}?host={hosts}&port={ports}"
            "&target_session_attrs=read-write"
        )

    async def create(self, *initdb: str) -> Self:
        """Make the data directory, start the server, and migrate the database of the sagas."""
        arguments = ["-D", str(self.data), "-U", "postgres", "--auth=trust", "--no-sync"]
        arguments += ["--encoding=UTF8", "--locale=C", "--set=timezone=UTC", *initdb]
        arguments += [] if self._wal is None else [f"--waldir={self._wal}"]
        await asyncio.to_thread(self.ground.run, "initdb", *arguments)
        await self.start()
        await self.execute(f"CREATE DATABASE {DATABASE}", database="postgres")
        await asyncio.to_thread(migrate.upgrade, self.url, schema="eventsaga")
        return self

    async def follow(self, primary: "Cluster", *, name: str) -> Self:
        """Become a standby of *primary*, known to it by *name*, and start."""
        source = f"host={primary.socket} port={_PORT} user=postgres application_name={name}"
        await asyncio.to_thread(
            self.ground.run,
            "pg_basebackup",
            *("-D", str(self.data), "-d", source),
            *("--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--wal-method=stream"),
        )
        await self.start()
        return self

    async def start(self) -> None:
        """Start the server and return when it takes connections."""
        await self.launch()
        await self.said(READY)

    async def launch(self) -> None:
        """Start the server and do not wait for it: it may have to fail."""
        assert self._process is None, "it runs already"
        self._log = []
        account = self.ground.account
        options = [f"--{name}={value}" for name, value in self.settings.items()]
        self._process = await asyncio.create_subprocess_exec(
            str(self.ground.programs / "postgres"),
            *("-D", str(self.data), f"--unix_socket_directories={self.socket}", *options),
            cwd=self.ground.folder,
            env={**environment(), **self.environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=PIPE,
            user=account.uid if account.lent else None,
            group=account.gid if account.lent else None,
            extra_groups=[] if account.lent else None,
        )
        self._reader = asyncio.create_task(self._read(self._process))

    async def _read(self, process: Process) -> None:
        assert process.stderr is not None
        while line := await process.stderr.readline():
            async with self._spoke:
                self._log.append(line.decode(errors="replace"))
                self._spoke.notify_all()
        async with self._spoke:
            self._spoke.notify_all()

    async def said(self, text: str, *, seconds: float = _BOUND) -> None:
        """Return as soon as the log of this run of the server holds *text*."""
        reader = self._reader
        assert reader is not None

        def is_over() -> bool:
            return any(text in line for line in self._log) or reader.done()

        try:
            async with asyncio.timeout(seconds), self._spoke:
                await self._spoke.wait_for(is_over)
        except TimeoutError:
            raise AssertionError(f"the server never said {text!r}:\n{self.log()}") from None
        assert any(text in line for line in self._log), self.log()

    def log(self) -> str:
        """Return what the server said at last, for a message of a failed test."""
        return "".join(self._log[-40:])

    async def kill(self) -> None:
        """Kill -9 the postmaster and every one of its children, and see them gone."""
        process = self._running
        # Stopped first: a postmaster that sees its children die would say so to the others.
        os.kill(process.pid, signal.SIGSTOP)
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
        process.kill()
        await self.ended()

    async def stop(self, *, immediate: bool = False) -> None:
        """Stop the server: in good order but without waiting for clients, or at once."""
        self._running.send_signal(signal.SIGQUIT if immediate else signal.SIGINT)
        await self.ended()

    async def ended(self) -> None:
        """Return when the server has ended, whoever ended it, with all of its processes."""
        process, reader = self._running, self._reader
        assert reader is not None
        async with asyncio.timeout(_BOUND):
            await process.wait()
            await reader
        self._process = None

    async def end(self) -> None:
        """Kill it if it runs; it may be dying by itself at this moment."""
        if self._process is None:
            return
        try:
            await self.kill()
        except (ProcessLookupError, psutil.NoSuchProcess):
            await self.ended()

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not been seen to end."""
        return self._process is not None and self._process.returncode is None

    @property
    def _running(self) -> Process:
        assert self._process is not None, "it does not run"
        return self._process

    def children(self, title: str) -> list[psutil.Process]:
        """Return the server's processes whose title holds *title*, such as ``walsender``."""
        children = psutil.Process(self._running.pid).children()
        return [child for child in children if title in " ".join(child.cmdline())]

    async def fetchval(self, query: str, *arguments: object, database: str = DATABASE) -> object:
        """Return what *query* gives."""
        connection = await asyncpg.connect(self.url_of(database))
        try:
            return await connection.fetchval(query, *arguments)
        finally:
            await connection.close()

    async def execute(self, *statements: str, database: str = DATABASE) -> None:
        """Run *statements*, each by itself."""
        connection = await asyncpg.connect(self.url_of(database))
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    async def until(self, query: str, *arguments: object, seconds: float = 30) -> None:
        """Return as soon as *query* gives something true."""
        connection = await asyncpg.connect(self.url)
        try:
            async with asyncio.timeout(seconds):
                while not await connection.fetchval(query, *arguments):
                    # The server waits, so that nobody's processor is spent on asking.
                    await connection.execute("SELECT pg_sleep(0.01)")
        finally:
            await connection.close()


@asynccontextmanager
async def ground() -> AsyncGenerator[Ground]:
    """Lend a place for clusters, and remove it."""
    place = Ground()
    try:
        yield place
    finally:
        place.remove()


@asynccontextmanager
async def cluster(
    place: Ground, name: str, *, wal: Path | None = None, **settings: str
) -> AsyncGenerator[Cluster]:
    """Lend a server that is not yet made, and see that none of it is left."""
    server = Cluster(place, name, wal=wal, **settings)
    try:
        yield server
    finally:
        await server.end()

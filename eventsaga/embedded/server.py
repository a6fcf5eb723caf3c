"""How is the server started, joined and stopped?

data_dir/cluster      what PostgreSQL calls PGDATA
data_dir/run          the unix socket, unless the path is too long for one
data_dir/server.log   what the server said since its last start
data_dir/*.lock       who uses the directory, and who is starting or stopping the server
"""

import contextlib
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from eventsaga.embedded.account import choose_account
from eventsaga.embedded.errors import EmbeddedPostgresError, IncompatibleDataDirectoryError
from eventsaga.embedded.lock import UsersLock, exclusive, wait_until
from eventsaga.embedded.postmaster import Postmaster, find_postmaster, remove_stale_files
from eventsaga.embedded.programs import MAJOR_VERSION
from eventsaga.embedded.where import PORT, identify, make_socket_dir

Settings = Mapping[str, str | int | float | bool]

_SECONDS: Final = 60  # for one start or stop: the recovery of a large directory takes a while
_LOG_LINES: Final = 15
# Backends of a killed postmaster go away by themselves, a moment later.
_STILL_DYING: Final = "pre-existing shared memory block"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedPostgres:
    """A running server.

    Attributes:
        url: Database ``postgres`` over the unix socket, as libpq, asyncpg and SQLAlchemy read it.
        pid: Process id of the postmaster.
        bin_path: Directory of psql, pg_ctl, pg_dump and the other programs.
        data_dir: Where it keeps everything.
    """

    url: str
    pid: int
    bin_path: Path
    data_dir: Path

    @property
    def log_path(self) -> Path:
        """What the server said since its last start."""
        return self.data_dir / "server.log"

    def psql_command(self, sql: str | None = None) -> str:
        """Return a line to paste into a shell: opens psql, or runs *sql* if there is one."""
        command = [str(self.bin_path / "psql"), self.url]
        return shlex.join(command if sql is None else [*command, "-c", sql])


class Server:
    """One user of a data directory, from `enter` to `leave`.

    Args:
        data_dir: Absolute path; created if missing.
        programs: Directory of the wheel's programs.
        settings: Server settings, used if this user starts the server.
    """

    def __init__(self, data_dir: Path, programs: Path, settings: Settings) -> None:
        self._data_dir = data_dir
        self._cluster = data_dir / "cluster"
        self._log = data_dir / "server.log"
        self._programs = programs
        self._settings = settings
        _make_directory(data_dir)
        self._account = choose_account(self._cluster, programs)
        self._account.let_reach(data_dir)
        self._users = UsersLock(data_dir / "users.lock")

    def enter(self) -> None:
        """Count as a user from now on, until `leave` or the death of this process."""
        with self._gate():
            self._users.enter()

    def ensure_running(self) -> EmbeddedPostgres:
        """Return the running server; initialise and start it if need be."""
        with self._gate():
            _refuse_foreign_data(self._data_dir, self._cluster)
            if not self._cluster.exists():
                self._initialise()
            postmaster = find_postmaster(self._cluster)
            if postmaster is not None and postmaster.status == "stopping":
                wait_until(lambda: not self._is_running(), _SECONDS, "the server did not stop")
                postmaster = None
            if postmaster is None:
                self._start()
            return self._describe(self._wait_until_ready())

    def leave(self, *, delete: bool) -> None:
        """Stop counting as a user; the last one stops the server, and deletes it if asked to."""
        try:
            with self._gate():
                if self._users.leave():
                    self._stop()
                    if delete:
                        shutil.rmtree(self._data_dir, ignore_errors=True)
        finally:
            self._users.close()

    def delete_if_unused(self) -> None:
        """Stop the server and delete the directory unless somebody uses it. Not after `enter`."""
        try:
            # Not under the gate: whoever uses it may be starting it, and is not waited for.
            if self._users.take_if_unused():
                self._stop()
                shutil.rmtree(self._data_dir, ignore_errors=True)
        finally:
            self._users.close()

    def _gate(self) -> contextlib.AbstractContextManager[None]:
        return exclusive(self._data_dir / "gate.lock")

    def _is_running(self) -> bool:
        return find_postmaster(self._cluster) is not None

    def _initialise(self) -> None:
        """Create the cluster under another name first: half a cluster must not look like one."""
        for leftover in self._data_dir.glob("cluster.new-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        new = Path(tempfile.mkdtemp(prefix="cluster.new-", dir=self._data_dir))
        self._account.give(new)
        command = [str(self._programs / "initdb"), "-D", str(new), "-U", "postgres"]
        command += ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin"]
        command += ["--builtin-locale=C.UTF-8", "--auth=trust", "--set=timezone=UTC"]
        command += ["--no-sync"] if self._settings.get("fsync") is False else []
        result = self._account.run(command, self._data_dir)
        if result.returncode != 0:
            shutil.rmtree(new, ignore_errors=True)
            raise EmbeddedPostgresError(
                f"PostgreSQL could not initialise {self._data_dir}: {result.stderr.strip()}"
            )
        new.rename(self._cluster)

    def _start(self) -> None:
        socket_dir = make_socket_dir(self._data_dir, self._cluster, self._account)
        remove_stale_files(self._cluster, socket_dir)
        options = self._server_options(socket_dir)
        give_up_at = time.monotonic() + _SECONDS
        self._begin_log()
        while self._pg_ctl("start", "-l", self._log.name, "-o", options).returncode != 0:
            log = self._log.read_text(errors="replace")
            if _STILL_DYING not in log or time.monotonic() > give_up_at:
                end = "\n".join(log.splitlines()[-_LOG_LINES:])
                raise EmbeddedPostgresError(
                    f"PostgreSQL did not start in {self._data_dir}. The end of its log:\n{end}"
                )
            time.sleep(0.1)
            self._begin_log()

    def _begin_log(self) -> None:
        if self._log.exists():
            self._log.replace(self._log.with_suffix(".log.1"))
        self._log.touch(mode=0o600)
        self._account.give(self._log)

    def _server_options(self, socket_dir: Path) -> str:
        """Return the options of the server, quoted for the shell that pg_ctl starts it with."""
        settings: dict[str, str | int | float | bool] = {
            "listen_addresses": "",  # nobody reaches it over the network
            "log_checkpoints": False,
            **self._settings,
            # By these the server is found again.
            "cluster_name": identify(self._cluster),
            "port": PORT,
            "unix_socket_directories": str(socket_dir),
            # Whoever reaches the socket is a superuser: only the account may.
            "unix_socket_permissions": "0700",
        }
        return shlex.join(f"--{name}={_format(value)}" for name, value in settings.items())

    def _stop(self) -> None:
        """Stop the server if it runs, cutting off whoever is still connected."""
        postmaster = find_postmaster(self._cluster)
        if postmaster is None:
            return
        if self._pg_ctl("stop", "-m", "fast").returncode != 0 and self._is_running():
            # The next start recovers from this; a server left behind would stay.
            self._pg_ctl("stop", "-m", "immediate")
        # It may be one in /tmp.
        with contextlib.suppress(OSError):
            Path(postmaster.socket_dir).rmdir()

    def _pg_ctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        # Names relative to the working directory: pg_ctl puts them into a shell's double quotes.
        command = [str(self._programs / "pg_ctl"), "-D", self._cluster.name, "-w"]
        return self._account.run([*command, "-t", str(_SECONDS), *arguments], self._data_dir)

    def _wait_until_ready(self) -> Postmaster:
        """Return the server once it takes connections; whoever started it may have been killed."""
        give_up_at = time.monotonic() + _SECONDS
        while (postmaster := find_postmaster(self._cluster)) is not None:
            if postmaster.status == "ready":
                return postmaster
            if time.monotonic() > give_up_at:
                raise EmbeddedPostgresError(f"PostgreSQL does not get ready: see {self._log}")
            time.sleep(0.02)
        raise EmbeddedPostgresError(f"PostgreSQL ended while it started: see {self._log}")

    def _describe(self, postmaster: Postmaster) -> EmbeddedPostgres:
        host = quote(postmaster.socket_dir, safe="/")
        return EmbeddedPostgres(
            # The port is named so that a PGPORT in the environment cannot change it.
            url=f"postgresql://postgres@/postgres?host={host}&port={PORT}",
            pid=postmaster.pid,
            bin_path=self._programs,
            data_dir=self._data_dir,
        )


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise EmbeddedPostgresError(
            f"cannot create the data directory {path} ({error.strerror}): name another one"
        ) from error


def _refuse_foreign_data(data_dir: Path, cluster: Path) -> None:
    """Raise if there is data that this version cannot, or must not, open."""
    for path in (data_dir, cluster):
        if not (path / "PG_VERSION").exists():
            continue
        found = (path / "PG_VERSION").read_text().strip()
        if found != str(MAJOR_VERSION):
            raise IncompatibleDataDirectoryError(data_dir, found, str(MAJOR_VERSION))
        if path == data_dir:
            raise EmbeddedPostgresError(
                f"{path} is the data directory of another PostgreSQL server: "
                "name an empty or a new directory"
            )


def _format(value: str | float | bool) -> str:  # noqa: FBT001 - a value, not a switch
    return ("on" if value else "off") if isinstance(value, bool) else str(value)

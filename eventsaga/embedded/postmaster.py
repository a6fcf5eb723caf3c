"""Does a server run there? ``postmaster.pid`` names a process; whether it is one is looked up."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eventsaga.embedded.lock import wait_until
from eventsaga.embedded.where import PORT, identify

_DYING_SECONDS: Final = 3.0


@dataclass(frozen=True, slots=True)
class Postmaster:
    """What ``postmaster.pid`` says of a process that lives.

    Attributes:
        pid: Its process id.
        socket_dir: Where its socket is; empty while it starts.
        status: ``starting``, ``ready``, ``stopping``, or another word of PostgreSQL.
    """

    pid: int
    socket_dir: str
    status: str


def find_postmaster(cluster: Path) -> Postmaster | None:
    """Return the live server of *cluster*; None if there is none."""
    fields = _read(cluster)
    if fields is None or not _is_postmaster(_pid(fields), cluster):
        return None
    return Postmaster(_pid(fields), fields[4], fields[7] or "starting")


def remove_stale_files(cluster: Path, socket_dir: Path) -> None:
    """Remove what a dead server left and what would keep a new one from starting.

    PostgreSQL itself deals with lock files that name a dead process. But after a reboot, or in a
    new container, a process of the same account may have that number, and a killed server that
    nobody has reaped still counts as one; then it refuses to start.
    Call it only when `find_postmaster` found nothing.

    Args:
        cluster: Where ``postmaster.pid`` is.
        socket_dir: Where the socket is going to be; no other cluster uses it.

    Raises:
        EmbeddedPostgresError: If a server that is not ours answers on the socket named there.
    """
    fields = _read(cluster) or [""] * 8
    # A server that was killed a moment ago may still have its socket open.
    wait_until(
        lambda: not _answers(fields[4]),
        _DYING_SECONDS,
        f"a server that eventsaga did not start here uses {cluster} "
        "(by hand, or in another container): stop it, or use that server by its URL",
    )
    if _pid(fields) == 0 or _exists(_pid(fields)):
        # Otherwise it stays: PostgreSQL looks through it for backends that are still alive.
        (cluster / "postmaster.pid").unlink(missing_ok=True)
    (socket_dir / f".s.PGSQL.{PORT}.lock").unlink(missing_ok=True)


def _read(cluster: Path) -> list[str] | None:
    """Return the eight lines of the pid file; the server adds them one by one as it starts."""
    try:
        lines = (cluster / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return None
    return [line.strip() for line in [*lines, *[""] * 8][:8]]


def _pid(fields: list[str]) -> int:
    """Return the process id; 0 if the disk was full, or worse, when it was written."""
    return int(fields[0]) if fields[0].isdecimal() else 0


def _is_postmaster(pid: int, cluster: Path) -> bool:
    import psutil  # noqa: PLC0415 - comes with the wheel of the optional extra

    try:
        # Its working directory would say it too, but in a container root may not look at that.
        command = psutil.Process(pid).cmdline()
    except psutil.Error:
        return False
    if not command or Path(command[0]).name != "postgres":
        return False
    return f"--cluster_name={identify(cluster)}" in command or str(cluster) in command


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _answers(socket_dir: str) -> bool:
    if not socket_dir:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        try:
            client.connect(f"{socket_dir}/.s.PGSQL.{PORT}")
        except OSError:
            return False
    return True

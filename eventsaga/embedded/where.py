"""Where does it live? The default directory, and a place for the socket that fits a socket."""

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from eventsaga.embedded.account import Account
from eventsaga.embedded.errors import EmbeddedPostgresError

PORT: Final = 5432  # names the socket file; the server does not listen on TCP
_MAX_SOCKET_PATH: Final = 103  # macOS; Linux allows four bytes more
# Safe in a URL and in unix_socket_directories, which is a list with commas.
_PLAIN_PATH: Final = re.compile(r"[A-Za-z0-9/._-]+")


def default_data_dir() -> Path:
    """Return ``$XDG_DATA_HOME/eventsaga/postgres``, by default below ``~/.local/share``."""
    data_home = Path(os.environ.get("XDG_DATA_HOME", ""))
    # The XDG specification: a relative path is invalid and is ignored.
    base = data_home if data_home.is_absolute() else Path.home() / ".local" / "share"
    return base / "eventsaga" / "postgres"


def identify(cluster: Path) -> str:
    """Return a name for *cluster* that no other one on this machine has.

    The inode tells a directory from one that was deleted and made again at the same path.
    """
    identity = f"{cluster}-{cluster.stat().st_ino}"
    return "eventsaga-" + hashlib.sha256(identity.encode(errors="surrogateescape")).hexdigest()[:12]


def make_socket_dir(data_dir: Path, cluster: Path, account: Account) -> Path:
    """Return a directory that only *account* enters and whose path is short enough.

    Raises:
        EmbeddedPostgresError: If neither the data directory nor the temporary ones will do.
    """
    for path in _candidates(data_dir, identify(cluster)):
        socket_path = os.fsencode(path / f".s.PGSQL.{PORT}.lock")
        if len(socket_path) > _MAX_SOCKET_PATH or not _PLAIN_PATH.fullmatch(str(path)):
            continue
        path.mkdir(mode=0o700, exist_ok=True)
        if path.is_symlink() or path.stat().st_uid not in {os.geteuid(), account.uid}:
            continue  # somebody else was there first, in a directory that all may write to
        path.chmod(0o700)
        account.give(path)
        return path
    raise EmbeddedPostgresError(
        f"no place for a unix socket: {data_dir} is too long for one, "
        f"and so is {tempfile.gettempdir()}; name a shorter data directory"
    )


def _candidates(data_dir: Path, name: str) -> Iterator[Path]:
    yield data_dir / "run"
    yield Path(tempfile.gettempdir()).resolve() / name
    yield Path("/tmp") / name  # noqa: S108 - checked for its owner before use

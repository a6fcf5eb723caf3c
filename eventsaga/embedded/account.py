"""Who runs the server? You; but PostgreSQL refuses to run as root, so root lends it an account."""

import contextlib
import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eventsaga.embedded.errors import EmbeddedPostgresError
from eventsaga.embedded.programs import environment

# The wheel's own name for it, so that both use one account.
_ACCOUNT_OF_ROOT: Final = "pgserver"
_ROOT: Final = 0


@dataclass(frozen=True, slots=True)
class Account:
    """The account that the server runs as.

    Attributes:
        uid: Its user id.
        gid: Its group id.
        lent: Whether it is another one than ours, because we are root.
    """

    uid: int
    gid: int
    lent: bool

    def give(self, path: Path) -> None:
        """Make the account the owner of *path*."""
        if self.lent:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def let_reach(self, path: Path) -> None:
        """Let the account pass through the parents of *path*, and *path* itself.

        Only the search bit is set, and only where it is missing: ``/root`` can then be passed
        through by those who know a path below it, but still not be listed.
        """
        if not self.lent:
            return
        for directory in (path, *path.parents):
            mode = directory.stat().st_mode
            if not mode & stat.S_IXOTH and directory.stat().st_uid != self.uid:
                # Where even root may not, an access list may still let the account through.
                with contextlib.suppress(OSError):
                    directory.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)

    def run(self, command: Sequence[str], cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run *command* as the account and return its exit code and what it said."""
        return subprocess.run(  # noqa: S603 - programs of the wheel, arguments not from a shell
            command,
            cwd=cwd,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            user=self.uid if self.lent else None,
            group=self.gid if self.lent else None,
            extra_groups=[] if self.lent else None,
        )


def choose_account(cluster: Path, programs: Path) -> Account:
    """Return the account for *cluster*: its owner's, ours, or the one that root lends.

    Args:
        cluster: Where the data is, or will be once it is initialised.
        programs: The programs, which the account must be able to run.

    Raises:
        EmbeddedPostgresError: If the data belongs to somebody else, or no account can be made.
    """
    owner = _owner(cluster)
    if os.geteuid() != _ROOT:
        if owner not in {None, os.geteuid()}:
            raise EmbeddedPostgresError(
                f"{cluster} belongs to another user (uid {owner}): "
                "run as that user or name another directory"
            )
        return Account(os.geteuid(), os.getegid(), lent=False)
    entry = _account_of_root() if owner in {None, _ROOT} else _account_of(owner)
    account = Account(entry.pw_uid, entry.pw_gid, lent=True)
    account.let_reach(programs)
    _make_readable(programs.parent)
    return account


def _owner(cluster: Path) -> int | None:
    try:
        return cluster.stat().st_uid
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise EmbeddedPostgresError(
            f"{cluster.parent} belongs to another user: run as that user or name another directory"
        ) from error


def _account_of(uid: int | None) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(uid or _ROOT)
    except KeyError as error:
        raise EmbeddedPostgresError(
            f"the data belongs to uid {uid}, which has no account here: name another directory"
        ) from error


def _account_of_root() -> pwd.struct_passwd:
    """Return the entry of the account, made if it is missing.

    Raises:
        EmbeddedPostgresError: If this system offers no way to make it.
    """
    try:
        return pwd.getpwnam(_ACCOUNT_OF_ROOT)
    except KeyError:
        said = _add_account()
    try:
        # Also when useradd failed: another process may have added it in the same moment.
        return pwd.getpwnam(_ACCOUNT_OF_ROOT)
    except KeyError as error:
        raise EmbeddedPostgresError(
            f"PostgreSQL refuses to run as root, and the account {_ACCOUNT_OF_ROOT!r} could not "
            f"be added ({said}): add it, or run as an ordinary user"
        ) from error


def _add_account() -> str:
    """Try to add the account and return what the tool said."""
    useradd = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if useradd is None:
        return "there is no useradd"
    command = [useradd, "--system", "--user-group", "--no-create-home"]
    command += ["--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", _ACCOUNT_OF_ROOT]
    added = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return added.stderr.strip() or f"exit code {added.returncode}"


def _make_readable(installation: Path) -> None:
    """Let everybody read and run the programs; an installer's umask may forbid it."""
    mode = (installation / "bin" / "postgres").stat().st_mode
    if mode & stat.S_IXOTH and installation.stat().st_mode & stat.S_IXOTH:
        return
    for path in (installation, *installation.rglob("*")):
        if not path.is_symlink():
            shared = stat.S_IROTH | (stat.S_IXOTH if path.stat().st_mode & stat.S_IXUSR else 0)
            path.chmod(stat.S_IMODE(path.stat().st_mode) | shared)

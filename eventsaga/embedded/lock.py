"""Who uses a directory? The kernel counts, so a killed process leaves no stale count behind.

Each user holds a shared ``flock`` on ``users.lock``. Whoever leaves and then gets that lock
exclusively was the last one. A process that is killed loses its lock in that moment; the server
that it left running is joined, and in the end stopped, by the next user.

Entering, leaving, starting and stopping happen under ``gate.lock``, one at a time.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Final

from eventsaga.embedded.errors import EmbeddedPostgresError

_GATE_SECONDS: Final = 180.0  # longer than a slow start and a slow stop together
_POLL_SECONDS: Final = 0.02


def wait_until(condition: Callable[[], bool], seconds: float, otherwise: str) -> None:
    """Return as soon as *condition* holds.

    Raises:
        EmbeddedPostgresError: With the text *otherwise*, after *seconds*.
    """
    give_up_at = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > give_up_at:
            raise EmbeddedPostgresError(otherwise)
        time.sleep(_POLL_SECONDS)


class UsersLock:
    """Our place among the users of a directory."""

    def __init__(self, path: Path) -> None:
        self._fd = _open(path)

    def enter(self) -> None:
        """Count as a user until `leave`, or until this process dies."""
        fcntl.flock(self._fd, fcntl.LOCK_SH)

    def leave(self) -> bool:
        """Stop counting as a user and return whether we were the last one."""
        # close() would not do: a forked child may hold the same open file.
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        return self.take_if_unused()

    def take_if_unused(self) -> bool:
        """Return whether nobody uses the directory; if so nobody else can, until `close`."""
        return _try_exclusive(self._fd)

    def close(self) -> None:
        """Give everything back. Call it once."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        os.close(self._fd)


@contextlib.contextmanager
def exclusive(path: Path) -> Generator[None]:
    """Hold the lock file *path* while the block runs.

    Raises:
        EmbeddedPostgresError: If another process does not give it back in three minutes.
    """
    fd = _open(path)
    try:
        wait_until(
            lambda: _try_exclusive(fd),
            _GATE_SECONDS,
            f"another process has been starting or stopping the server for too long ({path})",
        )
        yield
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except PermissionError as error:
        raise EmbeddedPostgresError(
            f"{path} belongs to another user: run as that user or name another directory"
        ) from error


def _try_exclusive(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

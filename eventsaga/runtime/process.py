"""Is the process behind a lease still there? Known for processes of this very machine only.

A process is told by the boot of its machine, its PID namespace, its user, its number and the
time of its start: numbers are given out again, the five together are not. All is read from
``/proc``; where there is none, or it shows other processes than ours, nobody is judged.
"""

import os
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
# The last field before the state is the name, in brackets, and may hold anything.
_STATE, _STARTED = 0, 19
_DEAD: Final = frozenset({"Z", "X", "x"})


def this_process() -> str | None:
    """Return what tells this process from all others; None if that is not known here."""
    try:
        if str((_PROC / "self").readlink()) != str(os.getpid()):
            return None  # it is the view of another namespace
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        namespace = (_PROC / "self/ns/pid").stat().st_ino
    except OSError:
        return None
    started = _fields(os.getpid())
    if started is None:
        return None
    return f"{boot}/{namespace}/{os.getuid()}/{os.getpid()}/{started[_STARTED]}"


def machine_of(process: str) -> str:
    """Return what processes have in common that can see each other."""
    return process.rsplit("/", 2)[0]


def is_gone(process: str) -> bool:
    """Whether *process*, of this machine, has certainly ended."""
    _, pid, started = process.rsplit("/", 2)
    fields = _fields(int(pid))
    return fields is None or fields[_STATE] in _DEAD or fields[_STARTED] != started


def _fields(pid: int) -> list[str] | None:
    """Return the fields of ``stat`` from the state on; None if there is no such process."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()

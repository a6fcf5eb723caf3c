"""How does a worker of the demo end if the demo is killed? It looks who its parent is.

A worker of yours would live on, and should. That of the demo works with services that end with
the demo, and nobody would know where to find it.
"""

import os
import signal
import threading
import time
from typing import Final

PARENT: Final = "EVENTSAGA_DEMO_PARENT_PID"

_PAUSE: Final = 0.1


def end_with_parent() -> None:
    """Kill this process as soon as the parent that the environment names is gone, if it does."""
    parent = os.environ.get(PARENT)
    if parent:
        threading.Thread(target=_watch, args=(int(parent),), name="parent", daemon=True).start()


def _watch(parent: int) -> None:
    # The kernel gives an orphan another parent, however its own died.
    while os.getppid() == parent:
        time.sleep(_PAUSE)
    # Not a drain: the services are ending too, and a crash loses nothing.
    os.kill(os.getpid(), signal.SIGKILL)

"""The demo as users start it, in a process of its own, with an eye on what it starts itself."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import psutil

PATIENCE = 120.0
SERVICES_AND_WORKER = 5

Json = dict[str, Any]


class Demo:
    """A run of the demo in a process of its own."""

    def __init__(self, data_dir: Path, *arguments: str) -> None:
        name = data_dir.parent / uuid4().hex
        self._out, self._err = name.with_suffix(".out"), name.with_suffix(".err")
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "eventsaga", "demo", "--data-dir", data_dir, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                # What points at another database must not matter.
                env={**os.environ, "EVENTSAGA_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/x"},
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        if self.process.poll() is None:  # the test has failed
            self.process.send_signal(signal.SIGINT)
            self.wait()

    def wait(self) -> int:
        return self.process.wait(PATIENCE)

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def document(self) -> Json:
        document: Json = json.loads(self.out)
        return document

    def children(self) -> list[psutil.Process]:
        """Return services and workers, once all have been started."""
        parent = psutil.Process(self.process.pid)

        def started() -> list[psutil.Process]:
            found = [child for child in parent.children(recursive=True) if is_ours(child)]
            return found if len(found) == SERVICES_AND_WORKER else []

        children: list[psutil.Process] = until(started)
        return children


def until(condition: Callable[[], Any]) -> Any:
    give_up_at = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < give_up_at, "it never came about"
        time.sleep(0.05)
    return found


def is_ours(process: psutil.Process) -> bool:
    """Whether it is a service or a worker, and not pg_ctl, or a copy that is about to be one."""
    with contextlib.suppress(psutil.Error):
        command = process.cmdline()[2:4]
        return command[:1] == ["eventsaga.demo.services"] or command == ["eventsaga", "worker"]
    return False


def is_gone(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    return True


def scene(document: Json, number: int) -> Json:
    found: Json = document["scenes"][number - 1]
    return found

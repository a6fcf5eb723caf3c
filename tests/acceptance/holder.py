"""Another process that uses an embedded PostgreSQL, to be killed at the worst moment."""

import subprocess
import sys
from pathlib import Path
from typing import Self

# Holds a server until its standard input ends; "GO" first, for tests that start several at once.
HOLDER = """
import sys
from pathlib import Path
from eventsaga.embedded import embedded_postgres
print("at the door", flush=True)
sys.stdin.readline()
data_dir = Path(sys.argv[1]) if sys.argv[1:] else None
with embedded_postgres(data_dir, ephemeral=data_dir is None) as postgres:
    print(postgres.pid, postgres.data_dir, postgres.url, flush=True)
    sys.stdin.readline()
"""


class Holder:
    """Another process that uses a data directory."""

    def __init__(self, *arguments: str | Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._read() == "at the door"

    def _read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("GO\n")
        self.process.stdin.flush()

    def enter(self) -> int:
        """Return the pid of its server once that runs."""
        self.go()
        return self.entered()

    def entered(self) -> int:
        pid, self.data_dir, self.url = self._read().split(maxsplit=2)
        return int(pid)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def leave(self) -> None:
        self.process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            if not stream.closed:
                stream.close()

"""Does the tutorial work as it is written? Its files are written, and its commands are run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from eventsaga.embedded.postmaster import find_postmaster

_PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"
_FILE = re.compile(r"^```python\n# (\w+\.py)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_CONSOLE = re.compile(r"^```console\n(.*?)^```", re.DOTALL | re.MULTILINE)

# What a command that fails leaves running would keep the test waiting.
_STOP_ALL = "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT"
# By default one would wait 10 s for the takeover, as the page says.
_QUICK = {"EVENTSAGA_LEASE": "2", "EVENTSAGA_HEARTBEAT": "0.5", "EVENTSAGA_LEASE_MARGIN": "0.2"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the reader works: all files of the page, by the names that they have there."""
    files = dict(_FILE.findall(_PAGE.read_text()))
    assert set(files) == {"database.py", "trip.py", "first.py"}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    return tmp_path


def environment(**variables: str) -> dict[str, str]:
    kept = {name: text for name, text in os.environ.items() if not name.startswith("EVENTSAGA_")}
    path = f"{Path(sys.executable).parent}:{kept['PATH']}"
    return {**kept, **_QUICK, "PATH": path, **variables}


def run(script: str, folder: Path, **variables: str) -> str:
    """Run *script* in a shell and return what it printed."""
    ended = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", f"{_STOP_ALL}\n{script}"],
        cwd=folder,
        env=environment(**variables),
        check=False,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_the_page_works_as_it_is_written(folder: Path, empty_database: str) -> None:
    blocks = _CONSOLE.findall(_PAGE.read_text())
    lines = [line for block in blocks for line in block.splitlines()]
    commands = [line[2:] for line in lines if line.startswith("$ ") and "pip install" not in line]
    promised = [line for line in lines if not line.startswith("$ ")]

    printed = run("\n".join(commands), folder, EVENTSAGA_DATABASE_URL=empty_database)

    said = iter(printed.splitlines())
    for line in promised:
        assert line in said, f"{line!r} is not printed, or not in this order, in:\n{printed}"
    assert re.search(r"charge #1\s+in doubt", printed)
    assert "taken over" in printed
    assert re.search(r"charge #2\s+succeeded", printed)
    assert (folder / "ledger.txt").read_text().count("ada") == 3


def test_running_it_again_changes_nothing(folder: Path, database: str) -> None:
    first = run("python first.py", folder, EVENTSAGA_DATABASE_URL=database)
    ledger = (folder / "ledger.txt").read_text()

    assert run("python first.py", folder, EVENTSAGA_DATABASE_URL=database) == first
    assert (folder / "ledger.txt").read_text() == ledger


def test_the_database_of_the_page_runs_until_enter(folder: Path) -> None:
    printed = run("echo | python database.py", folder)

    assert re.match(r"export EVENTSAGA_DATABASE_URL='postgresql://\S+'$", printed)
    assert find_postmaster(folder / "data" / "cluster") is None

"""Does the whole engine hold what it promises, whatever happens between any two steps?"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

SEEDS: Final = os.environ.get("EVENTSAGA_SEEDS", "1000")
ROOT: Final = Path(__file__).parents[2]


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.simulation", *arguments]
    return subprocess.run(  # noqa: PLW1510 - the test looks at it
        command, cwd=ROOT, capture_output=True, text=True, timeout=600
    )


def test_no_seed_breaks_a_promise(capsys: pytest.CaptureFixture[str]) -> None:
    """Replay one with ``python -m tests.simulation --seed N``."""
    played = simulate("--seeds", SEEDS)
    with capsys.disabled():
        sys.stdout.write(f"\n{played.stdout}")

    assert played.returncode == 0, played.stdout + played.stderr


def test_a_seed_is_always_the_same_play() -> None:
    first, second = (simulate("--seed", "17") for _ in range(2))

    assert first.returncode == 0, first.stdout + first.stderr
    assert "seed 17" in first.stdout
    assert first.stdout == second.stdout

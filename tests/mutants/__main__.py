"""Are the checks worth anything? Each mutant must be caught: ``python -m tests.mutants``."""

import argparse
import gc
import logging
import os
import subprocess
import sys
import time
from typing import Final

import pytest
from rich.console import Console
from rich.table import Table

from tests.mutants.engine import SIMULATION, Mutant, mutants

_MOST_SEEDS: Final = 400
_SECONDS: Final = 240.0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m tests.mutants",
        description="Make a mistake in the engine, and see that it is noticed.",
    )
    parser.add_argument("--only", help="mutants whose name holds this text")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    return parser.parse_args()


def _play(mutant: Mutant) -> int:
    from tests.simulation.play import play  # noqa: PLC0415 - with the mistake in it

    logging.disable(logging.CRITICAL)
    sys.unraisablehook = lambda _: None
    gc.disable()  # see the simulation
    for seed in range(_MOST_SEEDS):
        with mutant.alive():
            try:
                violations = play(seed).violations
            except BaseException as error:  # noqa: BLE001 - noticed as well
                violations = [repr(error)]
        if violations:
            print(f"seed {seed}: {violations[0]}")
            return 1
    return 0


def _test(mutant: Mutant) -> int:
    quiet = ["-x", "-q", "--no-cov", "--tb=no", "-p", "no:cacheprovider", "--no-header"]
    with mutant.alive():
        return int(pytest.main([*mutant.caught_by.split(), *quiet]))


def _run(name: str) -> int:
    (mutant,) = [each for each in mutants() if each.name == name]
    return _play(mutant) if mutant.caught_by == SIMULATION else _test(mutant)


def _caught(mutant: Mutant) -> tuple[bool, str]:
    """Return whether *mutant* was noticed, and what was said."""
    command = [sys.executable, "-m", "tests.mutants", "--run", mutant.name]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    try:
        done = subprocess.run(  # noqa: PLW1510 - looked at below
            command, capture_output=True, text=True, timeout=_SECONDS, env=environment
        )
    except subprocess.TimeoutExpired:
        return False, f"nothing after {_SECONDS:.0f} s"
    lines = [
        line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR", "seed"))
    ]
    said = lines[0] if lines else (done.stderr.splitlines() or ["nothing"])[-1]
    return done.returncode == 1 and bool(lines), said


def main() -> int:
    """Run the mutants and print a table; 1 if one survived."""
    arguments = _arguments()
    if arguments.run is not None:
        return _run(arguments.run)
    table = Table("invariant", "mutant", "caught", "seconds", "by")
    survived = 0
    for mutant in mutants():
        if arguments.only is not None and arguments.only not in mutant.name:
            continue
        print(f"{mutant.name}…", file=sys.stderr, flush=True)
        begun = time.monotonic()
        is_caught, said = _caught(mutant)
        survived += not is_caught
        seconds = f"{time.monotonic() - begun:.0f}"
        table.add_row(
            str(mutant.invariant), mutant.name, "yes" if is_caught else "NO", seconds, said[:120]
        )
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())

"""Play simulations: ``python -m tests.simulation --seeds 1000``, or ``--seed 17`` again."""

import argparse
import gc
import logging
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Final

from tests.simulation.play import Played, play

_SEEDS_A_PROCESS: Final = 100
_EVERY_SECONDS: Final = 5.0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m tests.simulation",
        description="The whole engine in virtual time, with faults between any two steps.",
    )
    parser.add_argument("--seed", type=int, help="play this one, and tell what was done to whom")
    parser.add_argument("--seeds", type=int, default=1000, help="how many (default: 1000)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (default: 0)")
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count(), help="processes")
    return parser.parse_args()


def _some(seeds: Sequence[int]) -> list[Played]:
    # The process ends before its memory matters: looking for garbage would double the time.
    gc.disable()
    return [play(seed) for seed in seeds]


def _one(seed: int) -> int:
    played = play(seed)
    for line in (*played.log, *played.violations):
        print(line)
    print(f"seed {seed}: {dict(played.endings)}, {len(played.violations)} violations")
    return 1 if played.violations else 0


def _many(first: int, seeds: int, jobs: int) -> int:
    begun = told = time.monotonic()
    endings, faults, done, bad = Counter[str](), Counter[str](), 0, 0
    chunks = [
        range(at, min(at + _SEEDS_A_PROCESS, first + seeds))
        for at in range(first, first + seeds, _SEEDS_A_PROCESS)
    ]
    with multiprocessing.get_context("fork").Pool(jobs, maxtasksperchild=1) as pool:
        for some in pool.imap_unordered(_some, chunks):
            for played in some:
                done += 1
                endings += played.endings
                faults += played.faults
                if played.violations:
                    bad += 1
                    print(f"seed {played.seed}: {'; '.join(played.violations[:3])}", flush=True)
            if time.monotonic() - told > _EVERY_SECONDS:
                told = time.monotonic()
                print(f"{done} of {seeds} seeds, {bad} violated", file=sys.stderr, flush=True)
    seconds = time.monotonic() - begun
    print(f"{done} seeds from {first} on in {seconds:.0f} s: {bad} violated")
    print(f"sagas {dict(endings)}, faults {dict(faults)}")
    return 1 if bad else 0


def main() -> int:
    """Play, and return how it went: 0 well, 1 with a violation."""
    # Who comes first out of a set is drawn by lot in every process, but by Python.
    if os.environ.get("PYTHONHASHSEED") != "0":
        again = [sys.executable, "-m", "tests.simulation", *sys.argv[1:]]
        os.execve(sys.executable, again, {**os.environ, "PYTHONHASHSEED": "0"})  # noqa: S606
    arguments = _arguments()
    logging.disable(logging.CRITICAL)
    # Processes that were killed leave coroutines behind, which nobody may run any more.
    sys.unraisablehook = lambda _: None
    if arguments.seed is not None:
        return _one(arguments.seed)
    return _many(arguments.first, arguments.seeds, arguments.jobs)


if __name__ == "__main__":
    sys.exit(main())

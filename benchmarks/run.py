"""How fast is it? Ratios, measured side by side in one run on an embedded PostgreSQL.

    python benchmarks/run.py [--sagas 2000] [--rounds 3]

fsync is on. Rounds are interleaved, so that a slow minute of the machine hits all rows
alike; the median of the rounds is shown, with the least and the most. Compare ratios, not
sagas a second: those belong to the machine.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.append import run_append_path
from benchmarks.bare import run_bare
from benchmarks.workload import cpu_seconds, new_order, order_saga
from eventsaga import Orchestrator
from eventsaga.embedded import embedded_postgres
from eventsaga.store.postgres import migrate

Workload = Callable[[str, int, int, Callable[[], float]], Awaitable[float]]


async def run_engine(url: str, total: int, in_flight: int, clock: Callable[[], float]) -> float:
    """Run *total* sagas through the public API and return the seconds they took."""
    async with Orchestrator(url, sagas=[order_saga]) as orchestrator:
        numbers: Iterator[int] = iter(range(total))

        async def one_after_the_other() -> None:
            for _ in numbers:
                handle = await orchestrator.start(order_saga, new_order())
                await handle.result(timeout=60)

        began = clock()
        await asyncio.gather(*(one_after_the_other() for _ in range(in_flight)))
        return clock() - began


ROWS: tuple[tuple[str, Workload, int], ...] = (
    ("bare asyncpg loop, 200 in flight", run_bare, 200),
    ("append path alone, 200 in flight", run_append_path, 200),
    ("eventsaga, 200 in flight", run_engine, 200),
    ("bare asyncpg loop, 1 in flight", run_bare, 1),
    ("eventsaga, 1 in flight", run_engine, 1),
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sagas", type=int, default=2000, help="sagas a round (default 2000)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default 3)")
    options = parser.parse_args()
    console = Console()
    rates: dict[str, list[float]] = {name: [] for name, _, _ in ROWS}
    cpu: dict[str, list[float]] = {name: [] for name, _, _ in ROWS}
    # A temporary server does not sync by default; here the disk is part of the question.
    durable = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
    with embedded_postgres(ephemeral=True, settings=durable) as server:
        migrate.upgrade(server.url, schema="eventsaga")
        for number in range(options.rounds + 1):
            for name, workload, in_flight in ROWS:
                total = options.sagas if in_flight > 1 else max(options.sagas // 20, 20)
                console.print(f"round {number} of {options.rounds}: {name}", style="dim")
                used = cpu_seconds()
                seconds = asyncio.run(_timed(workload, server.url, total, in_flight))
                if number:  # the first round warms caches and is not counted
                    rates[name].append(total / seconds)
                    cpu[name].append((cpu_seconds() - used) / total * 1e6)
    console.print(_table(rates, cpu))


async def _timed(workload: Workload, url: str, total: int, in_flight: int) -> float:
    return await workload(url, total, in_flight, time.perf_counter)


def _table(rates: dict[str, list[float]], cpu: dict[str, list[float]]) -> Table:
    table = Table("", "sagas/s (median)", "least - most", "ratio to bare", "client CPU, µs/saga")
    bare = {in_flight: rates[name] for name, workload, in_flight in ROWS if workload is run_bare}
    for name, _, in_flight in ROWS:
        found = rates[name]
        ratios = [rate / limit for rate, limit in zip(found, bare[in_flight], strict=True)]
        table.add_row(
            name,
            f"{statistics.median(found):,.0f}",
            f"{min(found):,.0f} - {max(found):,.0f}",
            f"{statistics.median(ratios):.2f}",
            f"{statistics.median(cpu[name]):,.0f}",
        )
    return table


if __name__ == "__main__":
    main()

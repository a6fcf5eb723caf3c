"""Does a worker's memory grow with the sagas that it has run?

    python benchmarks/memory.py [--sagas 100000] [--in-flight 200]

The order saga is run again and again by one process, on an embedded PostgreSQL without fsync.
Its resident memory is shown after each tenth; the ratios are to the first tenth, by which
time caches are warm. A ratio that keeps growing is a leak.
"""

import argparse
import asyncio
import gc
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.workload import new_order, order_saga
from eventsaga import Orchestrator
from eventsaga.embedded import embedded_postgres
from eventsaga.store.postgres import migrate

TENTHS = 10


async def run(url: str, total: int, in_flight: int, console: Console) -> list[float]:
    """Run *total* sagas and return the resident memory after each tenth, in MB."""
    process, sizes = psutil.Process(), list[float]()
    async with Orchestrator(url, sagas=[order_saga]) as orchestrator:
        for tenth in range(1, TENTHS + 1):
            numbers: Iterator[int] = iter(range(total // TENTHS))

            async def one_after_the_other(left: Iterator[int]) -> None:
                for _ in left:
                    handle = await orchestrator.start(order_saga, new_order())
                    await handle.result(timeout=60)

            began = time.perf_counter()
            await asyncio.gather(*(one_after_the_other(numbers) for _ in range(in_flight)))
            rate = total // TENTHS / (time.perf_counter() - began)
            gc.collect()
            sizes.append(process.memory_info().rss / 1e6)
            console.print(f"{tenth * total // TENTHS:,} sagas, {rate:,.0f} sagas/s", style="dim")
    return sizes


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sagas", type=int, default=100_000)
    parser.add_argument("--in-flight", type=int, default=200)
    options = parser.parse_args()
    console = Console()
    with embedded_postgres(ephemeral=True) as server:
        migrate.upgrade(server.url, schema="eventsaga")
        sizes = asyncio.run(run(server.url, options.sagas, options.in_flight, console))
    table = Table("sagas run", "resident, MB", "ratio")
    for tenth, size in enumerate(sizes, 1):
        table.add_row(
            f"{tenth * options.sagas // TENTHS:,}", f"{size:,.0f}", f"{size / sizes[0]:.2f}"
        )
    console.print(table)


if __name__ == "__main__":
    main()

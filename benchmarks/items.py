"""What does one item of a ForEach cost, and does that grow with their number?

    python benchmarks/items.py [--rounds 3]

One saga with 100, 1,000 and 10,000 items on an embedded PostgreSQL with fsync on. Rounds are
interleaved; the median of the rounds is shown. Compare ratios, not milliseconds: those
belong to the machine.
"""

import argparse
import asyncio
import statistics
import sys
import time
from pathlib import Path

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.workload import cpu_seconds
from eventsaga import ForEach, Orchestrator, Saga, Status, Step
from eventsaga.embedded import embedded_postgres
from eventsaga.store.postgres import migrate

SIZES = (100, 1_000, 10_000)
CONCURRENCY = 10


class Batch(BaseModel):
    """How many items there are."""

    size: int


async def nothing(_batch: Batch) -> None:
    """Do nothing, well."""


batch_saga = Saga(
    "batch",
    context=Batch,
    steps=[
        ForEach(
            "each",
            lambda batch: range(batch.size),
            Step("one", nothing, compensate=nothing),
            CONCURRENCY,
        )
    ],
)


async def measure(url: str, size: int) -> tuple[float, float]:
    """Run one saga of *size* items; return the seconds and CPU seconds it took."""
    async with Orchestrator(url, sagas=[batch_saga]) as orchestrator:
        began, cpu = time.perf_counter(), cpu_seconds()
        handle = await orchestrator.start(batch_saga, Batch(size=size))
        state = await handle.result(timeout=600)
        assert state.status is Status.COMPLETED, state.error
        return time.perf_counter() - began, cpu_seconds() - cpu


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    console = Console()
    found: dict[int, list[tuple[float, float]]] = {size: [] for size in SIZES}
    with embedded_postgres(ephemeral=True) as server:
        migrate.upgrade(server.url, schema="eventsaga")
        for number in range(rounds):
            for size in SIZES:
                console.print(f"round {number + 1}: {size:,} items …", style="dim")
                found[size].append(asyncio.run(measure(server.url, size)))
    table = Table(title=f"Cost of an item, {CONCURRENCY} under way, median of {rounds} rounds")
    for column in ("items", "ms an item", "client CPU ms an item", "ratio to the smallest"):
        table.add_column(column, justify="right")
    least = _median(found[SIZES[0]], 0) / SIZES[0]
    for size in SIZES:
        each, cpu = _median(found[size], 0) / size, _median(found[size], 1) / size
        table.add_row(f"{size:,}", f"{each * 1e3:.2f}", f"{cpu * 1e3:.2f}", f"{each / least:.2f}")
    console.print(table)


def _median(measured: list[tuple[float, float]], part: int) -> float:
    return statistics.median(pair[part] for pair in measured)


if __name__ == "__main__":
    main()

"""Do sagas that sleep slow down the others?

    python benchmarks/sleeping.py [--sleeping 100000] [--sagas 1000] [--rounds 3]

The order saga is run on an embedded PostgreSQL, fsync on: with nobody asleep, then beside so
many sagas that sleep or wait for a signal, in turns. The ratio of the medians is shown; 1.00
means that sleeping costs nobody anything.
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

from benchmarks.run import run_engine
from eventsaga import Orchestrator, Saga, Sleep, WaitForSignal
from eventsaga.embedded import embedded_postgres
from eventsaga.store.postgres import migrate

CHUNK = 2_000


class Nothing(BaseModel):
    """An input without content."""


sleeper = Saga("sleeper", context=Nothing, steps=[Sleep("nap", 86_400)])
waiter = Saga("waiter", context=Nothing, steps=[WaitForSignal("call")])


async def put_to_sleep(url: str, total: int, console: Console) -> None:
    """Start *total* sagas, half of each kind, and wait until nobody holds one."""
    async with Orchestrator(url, sagas=[sleeper, waiter]) as orchestrator:
        for begun in range(0, total, CHUNK):
            for saga in (sleeper, waiter):
                await orchestrator.start_many(saga, [Nothing()] * (CHUNK // 2))
            console.print(f"{begun + CHUNK:,} of {total:,} started", style="dim")
        async with orchestrator.store.connection() as connection:
            while await connection.fetchval(  # noqa: ASYNC110 - nobody tells
                "SELECT EXISTS (SELECT FROM eventsaga.sagas"
                " WHERE owner IS NOT NULL OR wake_at < clock_timestamp() + interval '1 hour')"
            ):
                await asyncio.sleep(0.5)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sleeping", type=int, default=100_000)
    parser.add_argument("--sagas", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    console = Console()
    durable = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
    rates: dict[str, list[float]] = {"alone": [], "beside": []}
    with (
        embedded_postgres(ephemeral=True, settings=durable) as quiet,
        embedded_postgres(ephemeral=True, settings=durable) as crowded,
    ):
        for server in (quiet, crowded):
            migrate.upgrade(server.url, schema="eventsaga")
        asyncio.run(put_to_sleep(crowded.url, options.sleeping, console))
        for number in range(options.rounds + 1):
            for name, server in (("alone", quiet), ("beside", crowded)):
                run = run_engine(server.url, options.sagas, 200, time.perf_counter)
                seconds = asyncio.run(run)
                console.print(f"round {number}: {name}", style="dim")
                if number:  # the first round warms caches and is not counted
                    rates[name].append(options.sagas / seconds)
    table = Table("", "sagas/s (median)", "ratio")
    alone = statistics.median(rates["alone"])
    table.add_row("nobody asleep", f"{alone:,.0f}", "1.00")
    beside = statistics.median(rates["beside"])
    table.add_row(f"{options.sleeping:,} asleep", f"{beside:,.0f}", f"{beside / alone:.2f}")
    console.print(table)


if __name__ == "__main__":
    main()

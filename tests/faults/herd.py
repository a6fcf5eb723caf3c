"""A worker process of the herd: one step a saga, which writes a line that nobody takes back.

The ledger is a file a process: 20,000 requests over HTTP would measure the other side.
"""

import asyncio
import os
import sys
from pathlib import Path

from pydantic import BaseModel

from eventsaga import Orchestrator, Saga, Step, StepContext
from eventsaga.observe.log import configure


class Sheep(BaseModel):
    """Which one of the herd it is."""

    number: int


async def count(sheep: Sheep, step: StepContext) -> None:
    # One write of one line: a process that dies leaves no half of it.
    with _ledger().open("a", encoding="ascii") as file:
        file.write(f"{step.idempotency_key}\n")


def _ledger() -> Path:
    return Path(os.environ["HERD_LEDGER"]) / str(os.getpid())


herd_saga = Saga("herd", context=Sheep, steps=[Step("count", count)])


async def main() -> None:
    """Run until told to stop."""
    configure()
    async with Orchestrator(os.environ["EVENTSAGA_DATABASE_URL"], sagas=[herd_saga]) as worker:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await worker.run()


if __name__ == "__main__":
    asyncio.run(main())

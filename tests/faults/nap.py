"""A worker process that also runs sagas which sleep, and which say what time they believe it is."""

import asyncio
import os
import sys
import time

from pydantic import BaseModel

from eventsaga import Orchestrator, Saga, Sleep, Step
from eventsaga.observe.log import configure
from tests.acceptance.crash.program import crash_saga


class Nap(BaseModel):
    """How long it is, and the clock of the process that ran the step after it."""

    seconds: float
    clock: float | None = None


async def look_at_the_clock(_nap: Nap) -> dict[str, float]:
    return {"clock": time.time()}


nap_saga = Saga(
    "nap",
    context=Nap,
    steps=[Sleep("sleep", lambda nap: nap.seconds), Step("wake", look_at_the_clock)],
)


async def main() -> None:
    """Run until told to stop."""
    configure()
    url = os.environ["EVENTSAGA_DATABASE_URL"]
    async with Orchestrator(url, sagas=[crash_saga, nap_saga]) as worker:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await worker.run()


if __name__ == "__main__":
    asyncio.run(main())

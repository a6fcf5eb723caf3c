"""A process that runs one saga of two steps to its end."""

import asyncio
import os

from eventsaga import Orchestrator, Saga, Step
from tests.runtime.sagas import QUICK, Order, nothing

two_steps = Saga("two", context=Order, steps=[Step("first", nothing), Step("last", nothing)])


async def main() -> None:
    """Start it and wait for it."""
    url = os.environ["EVENTSAGA_DATABASE_URL"]
    async with Orchestrator(url, sagas=[two_steps], settings=QUICK) as orchestrator:
        handle = await orchestrator.start("two", Order())
        await handle.result(timeout=20)


if __name__ == "__main__":
    asyncio.run(main())

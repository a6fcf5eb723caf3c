"""A worker process of the crash tests, and the saga that it runs.

The saga: three steps and a last one that some sagas are declined at. Around each request
the process may kill itself: the moments are named in `MOMENTS` and each happens once, which
a file in a shared directory remembers.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from pydantic import BaseModel

from eventsaga import Orchestrator, Retry, Saga, Step, StepContext
from eventsaga.observe.log import configure

STEPS = ("reserve", "charge", "ship")
LAST = "confirm"
SELF_INFLICTED = ("before_sending", "after_answer")


class Work(BaseModel):
    """Which saga it is, and where the process that runs it dies, if anywhere."""

    number: int
    dies: str = ""
    reserve: str | None = None
    charge: str | None = None
    ship: str | None = None
    confirm: str | None = None


def once(name: str) -> bool:
    """Whether nobody has asked for *name* before; remembered across processes."""
    try:
        (Path(os.environ["CRASH_MARKS"]) / name.replace("/", "-")).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _die_at(work: Work, operation: str, step: str, moment: str) -> None:
    here = f"{operation}/{step}/{moment}"
    if work.dies == here and once(f"{work.number}/{here}"):
        os.kill(os.getpid(), signal.SIGKILL)


def _call(operation: str, name: str) -> Callable[[Work, StepContext], Awaitable[dict[str, str]]]:
    async def call(work: Work, step: StepContext) -> dict[str, str]:
        _die_at(work, operation, name, "before_sending")
        url = os.environ["CRASH_PARTICIPANT"]
        reply = await step.http.post(
            f"{url}/{operation}/{name}/{work.number}",
            headers={"X-Worker-Pid": str(os.getpid())},
            json={"outcome": step.outcome},
        )
        reply.raise_for_status()
        _die_at(work, operation, name, "after_answer")
        return {name: reply.json()["id"]}

    return call


_RETRY = Retry(max_attempts=5, delay=0.05)

crash_saga = Saga(
    "crash",
    context=Work,
    steps=[
        Step(name, _call("do", name), compensate=_call("undo", name), retry=_RETRY, timeout=20)
        for name in (*STEPS, LAST)
    ],
)


async def main() -> None:
    """Run until told to stop."""
    configure()
    async with Orchestrator(os.environ["EVENTSAGA_DATABASE_URL"], sagas=[crash_saga]) as worker:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await worker.run()


if __name__ == "__main__":
    asyncio.run(main())

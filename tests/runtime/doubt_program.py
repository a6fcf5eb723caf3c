"""A worker process that is killed in a step or in a hook, and the sagas that it runs.

One saga for each answer to a doubt: what it does is asked of the participant of the crash
tests, whose ledger tells what was really done. The last one has nothing but hooks.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import BaseModel

from eventsaga import Orchestrator, Retry, Saga, Step, StepContext
from eventsaga.observe.log import configure

ANSWERS = ("retry", "verify", "compensate", "park")


class Work(BaseModel):
    """Which saga it is, and what its step was told."""

    number: int
    charge: str | None = None


Function = Callable[[Work, StepContext], Awaitable[dict[str, str] | None]]


async def _post(operation: str, name: str, work: Work, step: StepContext) -> Any:
    reply = await step.http.post(
        f"{os.environ['CRASH_PARTICIPANT']}/{operation}/{name}/{work.number}",
        headers={"X-Worker-Pid": str(os.getpid()), "Idempotency-Key": step.idempotency_key},
        json={"outcome": step.outcome},
    )
    reply.raise_for_status()
    return reply.json()


def _call(operation: str, name: str) -> Function:
    async def call(work: Work, step: StepContext) -> dict[str, str] | None:
        answer = await _post(operation, name, work, step)
        return {"charge": answer["id"]} if (operation, name) == ("do", "charge") else None

    return call


async def _verify(work: Work, step: StepContext) -> dict[str, str] | bool:
    answer = await _post("ask", "charge", work, step)
    return {"charge": "verified"} if answer["done"] else False


def _saga(on_doubt: Any) -> Saga[Work]:
    retry = Retry(max_attempts=5, delay=0.05)
    charge = Step(
        "charge",
        _call("do", "charge"),
        compensate=_call("undo", "charge"),
        on_doubt=on_doubt,
        verify=_verify if on_doubt == "verify" else None,
        retry=retry,
        timeout=20,
    )
    steps = [
        Step("reserve", _call("do", "reserve"), compensate=_call("undo", "reserve")),
        charge,
        Step("ship", _call("do", "ship"), compensate=_call("undo", "ship")),
    ]
    return Saga(f"doubt_{on_doubt}", context=Work, steps=steps)


async def _nothing(_work: Work) -> None:
    return None


DOUBTS = {on_doubt: _saga(on_doubt) for on_doubt in ANSWERS}
hooked = Saga(
    "hooked",
    context=Work,
    steps=[Step("charge", _nothing)],
    on_completed=_call("do", "hook"),
)
SAGAS = (*DOUBTS.values(), hooked)


async def main() -> None:
    """Run until told to stop."""
    configure()
    async with Orchestrator(os.environ["EVENTSAGA_DATABASE_URL"], sagas=SAGAS) as worker:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await worker.run()


if __name__ == "__main__":
    asyncio.run(main())

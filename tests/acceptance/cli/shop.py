"""What do the workers of these tests run? ``eventsaga worker shop:sagas``, from this folder."""

import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from eventsaga import Orchestrator, PermanentError, Retry, Saga, Step, StepContext


class Order(BaseModel):
    """What an order goes through.

    Attributes:
        gate: A pipe; the step `ship` ends when somebody has written to it.
        dies_with: Value of ``SHOP`` of the process that is stuck in `ship`, until it dies.
    """

    order_id: str
    declined: bool = False
    stuck: bool = False
    gate: str | None = None
    dies_with: str | None = None
    note: str = ""
    shipped_by: str | None = None


async def reserve(order: Order) -> None:
    pass


async def release(order: Order) -> None:
    if order.stuck:
        raise PermanentError("the warehouse is closed")


async def charge(order: Order) -> None:
    if order.declined:
        raise PermanentError(f"card declined {order.note}".strip())


def ship(order: Order, step: StepContext) -> dict[str, Any]:
    """Run in a thread, as it blocks."""
    me = os.environ.get("SHOP", "")
    print(f"shipping {step.attempt}", flush=True)  # noqa: T201 - the tests wait for it
    gate = order.gate if order.dies_with is None else order.dies_with == me and order.gate
    if gate:
        Path(gate).read_text(encoding="utf-8")
    return {"shipped_by": me}


order_saga = Saga(
    "order",
    context=Order,
    steps=[
        Step("reserve", reserve, compensate=release, compensate_retry=Retry(max_attempts=1)),
        Step("charge", charge),
        Step("ship", ship),
    ],
)
other_saga = Saga("other", context=Order, version=3, steps=[Step("reserve", reserve)])

sagas = [order_saga, other_saga]


def orchestrator() -> Orchestrator:
    return Orchestrator(os.environ["EVENTSAGA_DATABASE_URL"], sagas=[order_saga])


def forgetful() -> None:
    """Return nothing at all."""


def unlucky() -> Orchestrator:
    raise RuntimeError("no configuration")


idle = Orchestrator("postgresql://localhost/elsewhere", sagas, worker=False)

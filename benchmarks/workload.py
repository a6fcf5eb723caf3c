"""What is measured? The order saga of five no-op steps: 12 events, 6 appends, 1 kB of context."""

import os
from typing import Any
from uuid import uuid4

from pydantic import BaseModel

from eventsaga import Saga, Step

STEPS = ("create_order", "reserve_inventory", "process_payment", "create_shipment", "confirm_order")
RESULT = "r" * 190


class Order(BaseModel):
    """About 300 bytes of input that grow to 1.4 kB."""

    order_id: str
    customer: str = "c" * 36
    items: list[str] = ["product-001", "product-002", "product-003"] * 5
    create_order: str | None = None
    reserve_inventory: str | None = None
    process_payment: str | None = None
    create_shipment: str | None = None
    confirm_order: str | None = None


def _step(name: str) -> Step:
    async def execute(_order: Order) -> dict[str, Any]:
        return {name: RESULT}

    async def compensate(_order: Order) -> None:
        return None

    return Step(name, execute, compensate=compensate)


order_saga = Saga("bench_order", context=Order, steps=[_step(name) for name in STEPS])


def new_order() -> Order:
    """Return an input of its own."""
    return Order(order_id=str(uuid4()))


def cpu_seconds() -> float:
    """Return what this process has used, system time included."""
    times = os.times()
    return times.user + times.system

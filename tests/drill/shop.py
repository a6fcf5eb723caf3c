"""What do these tests drill? The sagas of a small shop, as a user would write them.

The till is a server that the test runs; ``SHOP_TILL_URL`` names it.
"""

import os

from pydantic import BaseModel
from sqlalchemy import text

from eventsaga import Orchestrator, Saga, Step, StepContext


class Order(BaseModel):
    """An order and what became of it."""

    order_id: str
    receipt: str | None = None


async def charge(_order: Order, step: StepContext) -> dict[str, str]:
    reply = await step.http.post(f"{os.environ['SHOP_TILL_URL']}/charge")
    reply.raise_for_status()
    return {"receipt": reply.json()["receipt"]}


async def refund(_order: Order, step: StepContext) -> None:
    reply = await step.http.post(f"{os.environ['SHOP_TILL_URL']}/refund")
    reply.raise_for_status()


async def forget(_order: Order) -> None:
    """Give nothing back."""


async def book(order: Order, step: StepContext) -> None:
    await step.session.execute(
        text("INSERT INTO bookings (order_id) VALUES (:id)"), {"id": order.order_id}
    )


async def unbook(order: Order, step: StepContext) -> None:
    await step.session.execute(
        text("DELETE FROM bookings WHERE order_id = :id"), {"id": order.order_id}
    )


paid = Saga("paid", context=Order, steps=[Step("charge", charge, compensate=refund)])
booked = Saga(
    "booked",
    context=Order,
    steps=[
        Step("book", book, compensate=unbook, transactional=True),
        Step("charge", charge, compensate=refund),
    ],
)
forgetful = Saga(
    "forgetful",
    context=Order,
    steps=[
        Step("charge", charge, compensate=forget),
        Step("book", book, compensate=unbook, transactional=True),
    ],
)

# Nothing listens there: a drill runs the sagas elsewhere.
orchestrator = Orchestrator("postgresql://localhost:1/shop", [paid, booked, forgetful])

"""The saga of the embedding examples: an order is paid and packed, or goes back.

eventsaga worker examples.orders:order_saga
"""

from pydantic import BaseModel

from eventsaga import PermanentError, Saga, Step


class Order(BaseModel):
    """What is ordered."""

    order_id: int
    total: int = 10
    paid: bool = False


async def pay(order: Order) -> dict[str, bool]:
    if order.total > 1000:
        raise PermanentError("nobody has so much money")
    return {"paid": True}


async def pay_back(_order: Order) -> dict[str, bool]:
    return {"paid": False}


async def pack(_order: Order) -> None:
    """Put it into a box."""


order_saga = Saga(
    "order", context=Order, steps=[Step("pay", pay, compensate=pay_back), Step("pack", pack)]
)

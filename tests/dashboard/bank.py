"""What does the worker of the browser's test run? A saga that a closed bank holds up."""

import os
from pathlib import Path

from pydantic import BaseModel

from eventsaga import PermanentError, Saga, Step


class Order(BaseModel):
    order_id: str


async def reserve(order: Order) -> None:
    """Reserve nothing."""


def charge(order: Order) -> None:
    if not Path(os.environ["BANK_IS_OPEN"]).exists():
        raise PermanentError("the bank is closed")


async def confirm(order: Order) -> None:
    """Confirm nothing."""


sagas = [
    Saga(
        "order",
        context=Order,
        steps=[
            Step("reserve", reserve, pivot=True),
            Step("charge", charge),
            Step("confirm", confirm),
        ],
    )
]

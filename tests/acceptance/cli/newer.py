"""The shop of ``shop.py`` after somebody has worked on it, well and badly."""

from typing import Any

from pydantic import BaseModel

from eventsaga import Saga, Step
from tests.acceptance.cli.shop import Order, charge, order_saga, other_saga, release, reserve, ship


class Strict(BaseModel):
    order_id: str
    currency: str


def in_euros(old: dict[str, Any]) -> dict[str, Any]:
    return {"currency": "EUR"} | old


def _like_order(context: type[BaseModel], *, version: int = 1, **more: Any) -> Saga[Any]:
    steps = [
        Step("reserve", reserve, compensate=release),
        Step("charge", charge),
        Step("ship", ship),
    ]
    return Saga("order", context=context, steps=steps, version=version, **more)


changed = [
    Saga(
        "order",
        context=Order,
        steps=[Step("reserve", reserve, compensate=release), Step("post", ship)],
    ),
    other_saga,
]
second = [order_saga, _like_order(Order, version=2), other_saga]
only_second = [_like_order(Order, version=2), other_saga]
strict = [_like_order(Strict), other_saga]
migrated = [_like_order(Strict, migrate_context=in_euros), other_saga]
without_order = [other_saga]

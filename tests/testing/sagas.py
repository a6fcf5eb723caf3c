"""Which sagas are simulated? Their functions must never be called."""

from typing import Any, NoReturn

from pydantic import BaseModel

from eventsaga import Parallel, Retry, Saga, Step

TWICE = Retry(max_attempts=2, delay=0.1)


class Order(BaseModel):
    """A context with room for what steps return."""

    reservation_id: str | None = None
    transaction_id: str | None = None
    approval: dict[str, Any] | None = None


async def never(_order: Order) -> NoReturn:
    """Fail if anybody calls it."""
    raise AssertionError("a simulation called a real function")


def undoable(name: str, **options: Any) -> Step:
    """Return a step with a compensation."""
    return Step(name, never, compensate=never, **options)


ORDER = Saga(
    "order",
    context=Order,
    steps=[
        undoable("reserve"),
        Parallel("fulfil", [undoable("charge", retry=TWICE), undoable("ship", retry=TWICE)]),
        Step("confirm", never, retry=TWICE),
    ],
)

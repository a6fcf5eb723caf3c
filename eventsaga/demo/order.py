"""What is an order, and what is done for it? Five steps over four services, and the way back."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import quote

from pydantic import AliasGenerator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

from eventsaga.errors import PermanentError, SettingsError
from eventsaga.runtime.context import StepContext
from eventsaga.saga import Retry, Saga, Step

Text = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00]+$")]
# It stands in paths and is a start key: no slash, no space, nothing that a path would swallow.
OrderId = Annotated[
    str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\s/.\p{C}][^\s/\p{C}]*$")
]
Money = Annotated[Decimal, Field(max_digits=12, decimal_places=2)]

PAYMENT_TIMEOUT: Final = 2.0
"""Seconds that a payment may take before it is in doubt; short, so that the demo is."""

SLOW_PAYMENT: Final = 2.5
"""Seconds that a slow payment takes: it is in doubt first, and its third attempt finds it done."""

_TIMEOUT: Final = 5.0
_REFUSALS: Final = frozenset({402, 410, 422})
_REASON: Final = "saga compensation"


class _Input(BaseModel):
    """Fields go by name or in camel case; a field that nobody knows is a typing error."""

    model_config = ConfigDict(
        alias_generator=AliasGenerator(validation_alias=to_camel),
        validate_by_name=True,
        validate_by_alias=True,
        extra="forbid",
    )


class Item(_Input):
    """A line of an order."""

    product_id: Text
    quantity: Annotated[int, Field(ge=1, le=1_000_000)]
    price: Annotated[Money, Field(ge=0)]


class PaymentMethod(_Input):
    """What is charged; the token stands for a card that nobody here sees."""

    type: Literal["card", "wallet"]
    token: Text


class Address(_Input):
    """Where the parcel goes."""

    street: Text
    city: Text
    zip_code: Text
    country: Text


class OrderRequest(_Input):
    """What a customer asks for."""

    order_id: OrderId
    customer_id: Text
    items: Annotated[list[Item], Field(min_length=1, max_length=200)]
    total_amount: Annotated[Money, Field(gt=0)]
    payment_method: PaymentMethod
    shipping_address: Address


class Order(OrderRequest):
    """The context of the saga: the request, and what the services answered."""

    inventory_reservation_id: str | None = None
    payment_transaction_id: str | None = None
    shipment_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceUrls:
    """Base URLs of the four services, without a slash at the end."""

    orders: str
    inventory: str
    payments: str
    shipping: str

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Return what ``EVENTSAGA_DEMO_ORDERS_URL`` and its three sisters say.

        Raises:
            SettingsError: If one is missing; names all that are.
        """
        names = {field.name: variable_of(field.name) for field in fields(cls)}
        missing = [variable for variable in names.values() if not environ.get(variable)]
        if missing:
            raise SettingsError(
                f"the order saga needs the URLs of its services: set {', '.join(missing)}"
            )
        return cls(**{name: environ[variable].rstrip("/") for name, variable in names.items()})

    def to_environment(self) -> dict[str, str]:
        """Return the variables that `from_environment` reads."""
        return {variable_of(field.name): getattr(self, field.name) for field in fields(self)}


def variable_of(service: str) -> str:
    """Return the environment variable that holds the URL of *service*."""
    return f"EVENTSAGA_DEMO_{service.upper()}_URL"


def order_saga(urls: ServiceUrls) -> Saga[Order]:
    """Return the saga of an order.

    The URLs are not part of its definition: wherever the services are, it is the same saga.
    """
    do = _Steps(urls)
    return Saga(
        "order",
        context=Order,
        steps=[
            Step("create_order", do.create_order, compensate=do.cancel_order, timeout=_TIMEOUT),
            Step(
                "reserve_inventory",
                do.reserve_inventory,
                compensate=do.release_inventory,
                retry=Retry(max_attempts=5, delay=0.5, multiplier=2),
                timeout=_TIMEOUT,
            ),
            Step(
                "process_payment",
                do.process_payment,
                compensate=do.refund_payment,
                timeout=PAYMENT_TIMEOUT,
            ),
            Step(
                "create_shipment",
                do.create_shipment,
                compensate=do.cancel_shipment,
                timeout=_TIMEOUT,
            ),
            # Nothing of its own to undo: to cancel the order and to release its reservation
            # is what the compensations of the first two steps do.
            Step("confirm_order", do.confirm_order, timeout=_TIMEOUT),
        ],
    )


class _Steps:
    """The functions of the saga.

    A compensation that does not know the id of what it undoes (the answer never came) undoes by
    order id: the service then also refuses whatever of the first request is still on its way.
    """

    def __init__(self, urls: ServiceUrls) -> None:
        self._urls = urls

    async def create_order(self, order: Order, step: StepContext) -> None:
        body = {
            "order_id": order.order_id,
            "customer_id": order.customer_id,
            "items": _things(order),
            "total_amount": str(order.total_amount),
        }
        await _ask(step, "POST", f"{self._urls.orders}/orders", body)

    async def cancel_order(self, order: Order, step: StepContext) -> None:
        await _ask(step, "POST", f"{self._order(order)}/cancel", {"reason": _REASON})

    async def reserve_inventory(self, order: Order, step: StepContext) -> dict[str, str]:
        body = {"order_id": order.order_id, "items": _things(order)}
        reply = await _ask(step, "POST", f"{self._urls.inventory}/reservations", body)
        return {"inventory_reservation_id": reply["reservation_id"]}

    async def release_inventory(self, order: Order, step: StepContext) -> None:
        reservations = f"{self._urls.inventory}/reservations"
        if order.inventory_reservation_id:
            await _ask(step, "DELETE", f"{reservations}/{order.inventory_reservation_id}")
        else:
            await _ask(step, "DELETE", f"{reservations}?order_id={_quoted(order)}")

    async def process_payment(self, order: Order, step: StepContext) -> dict[str, str]:
        body = {
            "order_id": order.order_id,
            "customer_id": order.customer_id,
            "amount": str(order.total_amount),
            "payment_method": order.payment_method.model_dump(),
        }
        reply = await _ask(step, "POST", f"{self._urls.payments}/payments", body)
        return {"payment_transaction_id": reply["transaction_id"]}

    async def refund_payment(self, order: Order, step: StepContext) -> None:
        payments = f"{self._urls.payments}/payments"
        if order.payment_transaction_id:
            await _ask(step, "POST", f"{payments}/{order.payment_transaction_id}/refund")
        else:
            await _ask(step, "POST", f"{payments}/refund", {"order_id": order.order_id})

    async def create_shipment(self, order: Order, step: StepContext) -> dict[str, str]:
        body = {
            "order_id": order.order_id,
            "items": _things(order),
            "address": order.shipping_address.model_dump(),
        }
        reply = await _ask(step, "POST", f"{self._urls.shipping}/shipments", body)
        return {"shipment_id": reply["shipment_id"]}

    async def cancel_shipment(self, order: Order, step: StepContext) -> None:
        shipments = f"{self._urls.shipping}/shipments"
        if order.shipment_id:
            await _ask(step, "DELETE", f"{shipments}/{order.shipment_id}")
        else:
            await _ask(step, "DELETE", f"{shipments}?order_id={_quoted(order)}")

    async def confirm_order(self, order: Order, step: StepContext) -> None:
        await _ask(step, "PATCH", self._order(order), {"status": "confirmed"})
        # From set aside to sold.
        reservation = f"{self._urls.inventory}/reservations/{order.inventory_reservation_id}"
        await _ask(step, "POST", f"{reservation}/confirm")

    def _order(self, order: Order) -> str:
        return f"{self._urls.orders}/orders/{_quoted(order)}"


async def _ask(
    step: StepContext, method: str, url: str, body: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Send a request and return what was answered; errors say what is known of the effect."""
    response = await step.http.request(method, url, json=body)
    if response.status_code in _REFUSALS:
        # As `raise_for_status` would have it, but in the service's own words.
        raise PermanentError(f"refused: {_words(response.json())}")
    response.raise_for_status()
    answer: dict[str, Any] = response.json()
    return answer


def _words(refusal: Mapping[str, Any]) -> str:
    return ", ".join(str(refusal[name]) for name in ("error", "reason") if name in refusal)


def _quoted(order: Order) -> str:
    return quote(order.order_id, safe="")


def _things(order: Order) -> list[dict[str, Any]]:
    return [{"product_id": item.product_id, "quantity": item.quantity} for item in order.items]

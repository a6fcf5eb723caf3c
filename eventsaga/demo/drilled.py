"""How is the order saga drilled? Over its real services, whose ledgers are asked at each end."""

import contextlib
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from eventsaga.core.state import Status
from eventsaga.demo.checks import check_completed, check_net_zero, check_nothing_twice
from eventsaga.demo.order import Order, ServiceUrls
from eventsaga.demo.services import running_services
from eventsaga.drill import Check, Ended
from eventsaga.drill.load import environment
from eventsaga.drill.scratch import scratch

MODULE: Final = "eventsaga.demo.app:orchestrator"
SAGA: Final = "order"

_CONTEXT: Final[Mapping[str, Any]] = {
    "order_id": "drill-{run}",
    "customer_id": "cust-123",
    "items": [{"product_id": "lamp", "quantity": 2, "price": "29.99"}],
    "total_amount": "59.98",
    "payment_method": {"type": "card", "token": "tok_visa_4242"},
    "shipping_address": {
        "street": "123 Main St",
        "city": "San Francisco",
        "zip_code": "94102",
        "country": "US",
    },
}


@dataclass(frozen=True, slots=True)
class Drilled:
    """What the drill of the demo needs.

    Attributes:
        context: The order.
        check: Asks the ledgers of the four services.
    """

    context: Mapping[str, Any]
    check: Check


@contextlib.asynccontextmanager
async def drilled(server_url: str) -> AsyncGenerator[Drilled]:
    """Run the four services, on a database of their own, while the block runs.

    Their URLs are in the environment meanwhile, for the workers that are started.

    Raises:
        ServiceStartError: If a service does not start.
    """
    async with (
        scratch(server_url) as server,
        server.database() as url,
        running_services(url) as services,
    ):
        with environment(ServiceUrls(**services.urls).to_environment()):
            yield Drilled(_CONTEXT, _asking(url))


def _asking(url: str) -> Check:
    async def ledgers(ended: Ended) -> list[str]:
        order = ended.state.context
        assert isinstance(order, Order), "it is the saga of an order"
        db = await asyncpg.connect(url)
        try:
            if ended.state.status is Status.COMPLETED:
                checks = await check_completed(db, [order])
            else:
                checks = [
                    await check_nothing_twice(db, [order.order_id]),
                    await check_net_zero(db, order.order_id),
                ]
        finally:
            await db.close()
        return [
            f"{check.what}: expected {check.expected}, found {check.found}"
            for check in checks
            if not check.ok
        ]

    return ledgers

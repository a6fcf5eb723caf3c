"""The saga of an order on its way back, when nobody knows what had happened."""

import json
from datetime import timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest

from eventsaga import Orchestrator, Settings, StepContext
from eventsaga.demo.order import Order, ServiceUrls, order_saga
from eventsaga.demo.services import NET_BY_ORDER, running_services
from tests.acceptance.demo.test_lines import ORDER

URLS = ServiceUrls(
    orders="http://orders",
    inventory="http://inventory",
    payments="http://payments",
    shipping="http://shipping",
)
KNOWN = {
    "inventory_reservation_id": "rsv_1",
    "payment_transaction_id": "txn_1",
    "shipment_id": "shp_1",
}
ASKED = {
    "cancel": ("POST http://orders/orders/%C3%BC%25%231/cancel", {"reason": "saga compensation"}),
    "release": ("DELETE http://inventory/reservations/rsv_1", None),
    "release unknown": ("DELETE http://inventory/reservations?order_id=%C3%BC%25%231", None),
    "refund": ("POST http://payments/payments/txn_1/refund", None),
    "refund unknown": ("POST http://payments/payments/refund", {"order_id": "ü%#1"}),
    "unship": ("DELETE http://shipping/shipments/shp_1", None),
    "unship unknown": ("DELETE http://shipping/shipments?order_id=%C3%BC%25%231", None),
}
ANSWER = "SELECT status FROM demo_payments.participant_keys WHERE key = $1"
STEPS = {
    "cancel": "create_order",
    "release": "reserve_inventory",
    "refund": "process_payment",
    "unship": "create_shipment",
}


@pytest.mark.parametrize("what", ASKED)
async def test_what_has_no_id_is_undone_by_the_order(what: str) -> None:
    asked: list[tuple[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content) if request.content else None
        asked.append((f"{request.method} {request.url}", body))
        return httpx.Response(200, json={})

    undo, _, unknown = what.partition(" ")
    order = Order.model_validate({**ORDER, "order_id": "ü%#1", **({} if unknown else KNOWN)})
    compensate = order_saga(URLS).bound.steps[STEPS[undo]].compensate
    assert compensate is not None
    await compensate.function(order, step(httpx.MockTransport(answer)))

    assert asked == [ASKED[what]]


def step(transport: httpx.AsyncBaseTransport) -> StepContext:
    return StepContext(
        saga_id=uuid4(),
        saga_name="order",
        step="a_step",
        attempt=1,
        idempotency_key="key",
        correlation_id="correlation",
        deadline=None,
        timeout=timedelta(seconds=5),
        outcome="unknown",
        result=None,
        results={},
        transport=transport,
    )


async def test_a_payment_that_nobody_ever_hears_of_is_not_made_after_it_was_undone(
    database: str,
) -> None:
    """It is still at work when the order goes back; what wakes up then finds the order closed."""
    order = Order.model_validate({**ORDER, "payment_method": {"type": "card", "token": "tok_slow"}})
    async with (
        running_services(database, slow=4.5) as services,
        Orchestrator(
            database, [order_saga(ServiceUrls(**services.urls))], settings=Settings()
        ) as orchestrator,
    ):
        handle = await orchestrator.start("order", order)
        state = await handle.result(timeout=30)
        assert state.status == "COMPENSATED"
        assert "process_payment" in state.compensated_steps
        db = await asyncpg.connect(database)
        # The slow one ends: its answer is stored under its key.
        while (answer := await db.fetchval(ANSWER, f"{handle.id}/process_payment")) is None:
            pass
        net = await db.fetchrow(NET_BY_ORDER)
        await db.close()
    assert answer == 410
    assert net is not None
    left = (net["orders"], net["items_reserved"], net["charged"], net["shipments"])
    assert left == (0, 0, None, None)

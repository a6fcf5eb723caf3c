"""What was ordered? An order is taken, confirmed, shipped, and cancelled."""

from typing import Annotated, Final, Literal

from pydantic import BaseModel, Field

from eventsaga.demo.services.operation import (
    Connection,
    Effect,
    Item,
    Money,
    Operation,
    OrderReference,
    Outcome,
    Service,
    Text,
    no_magic,
    not_found,
    order_closed,
)

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS orders (
    order_id text PRIMARY KEY,
    customer_id text NOT NULL,
    total_amount numeric(12, 2) NOT NULL,
    status text NOT NULL DEFAULT 'pending',
    cancel_reason text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_at timestamptz
);
CREATE TABLE IF NOT EXISTS order_items (
    order_id text NOT NULL REFERENCES orders,
    position int NOT NULL,
    product_id text NOT NULL,
    quantity int NOT NULL,
    PRIMARY KEY (order_id, position)
);
"""

_CREATE: Final = """
INSERT INTO orders (order_id, customer_id, total_amount) VALUES ($1, $2, $3)
    ON CONFLICT DO NOTHING
RETURNING true
"""

_CREATE_ITEM: Final = """
INSERT INTO order_items (order_id, position, product_id, quantity) VALUES ($1, $2, $3, $4)
"""

_LOCK: Final = "SELECT status, total_amount FROM orders WHERE order_id = $1 FOR UPDATE"
_CUSTOMER: Final = "SELECT customer_id FROM orders WHERE order_id = $1"

_SET_STATUS: Final = """
UPDATE orders
   SET status = $2, cancel_reason = $3, changed_at = clock_timestamp()
 WHERE order_id = $1
"""


class CreateOrder(OrderReference):
    """Take an order; the caller has numbered it."""

    customer_id: Text
    items: Annotated[list[Item], Field(min_length=1, max_length=200)]
    total_amount: Money


class UpdateOrder(BaseModel):
    """Move an order on. Cancelling has a request of its own, because it takes a reason."""

    order_id: Text
    status: Literal["confirmed", "shipped"]


class CancelOrder(OrderReference):
    """Cancel an order, whether or not it was ever taken."""

    reason: Text


async def _create(conn: Connection, request: CreateOrder) -> Outcome:
    order_id = request.order_id
    if not await conn.fetchval(_CREATE, order_id, request.customer_id, request.total_amount):
        return Outcome(422, {"error": "order_exists", "order_id": order_id})
    await conn.executemany(
        _CREATE_ITEM,
        [
            (order_id, position, item.product_id, item.quantity)
            for position, item in enumerate(request.items)
        ],
    )
    effect = Effect(operation="create", order_id=order_id, amount=request.total_amount, quantity=1)
    return Outcome(201, {"order_id": order_id, "status": "pending"}, (effect,))


async def _update(conn: Connection, request: UpdateOrder) -> Outcome:
    order = await conn.fetchrow(_LOCK, request.order_id)
    if order is None:
        return not_found("order")
    if order["status"] == "cancelled":
        return order_closed(request.order_id)
    reply = Outcome(200, {"order_id": request.order_id, "status": request.status})
    if order["status"] == request.status:
        return reply
    await conn.execute(_SET_STATUS, request.order_id, request.status, None)
    # "confirmed" -> "confirm", "shipped" -> "ship"
    operation = {"confirmed": "confirm", "shipped": "ship"}[request.status]
    effect = Effect(operation=operation, order_id=request.order_id)
    return Outcome(reply.status, reply.body, (effect,))


async def _cancel(conn: Connection, request: CancelOrder) -> Outcome:
    order = await conn.fetchrow(_LOCK, request.order_id)
    if order is None or order["status"] == "cancelled":
        done = "nothing_to_cancel" if order is None else "cancelled"
        return Outcome(200, {"order_id": request.order_id, "status": done})
    await conn.execute(_SET_STATUS, request.order_id, "cancelled", request.reason)
    effect = Effect(
        operation="cancel",
        order_id=request.order_id,
        amount=-order["total_amount"],
        quantity=-1,
    )
    return Outcome(200, {"order_id": request.order_id, "status": "cancelled"}, (effect,))


async def _magic_of_create(_conn: Connection, request: CreateOrder) -> str:
    return request.customer_id


async def _magic_of_cancel(conn: Connection, request: CancelOrder) -> str | None:
    customer_id: str | None = await conn.fetchval(_CUSTOMER, request.order_id)
    return customer_id


ORDERS: Final = Service(
    name="orders",
    tables=_TABLES,
    operations=(
        Operation(
            method="POST",
            path="/orders",
            request=CreateOrder,
            run=_create,
            magic=_magic_of_create,
            for_order="do",
            refusal=Outcome(422, {"error": "customer_blocked"}),
        ),
        Operation(
            method="PATCH",
            path="/orders/{order_id}",
            request=UpdateOrder,
            run=_update,
            magic=no_magic,
        ),
        Operation(
            method="POST",
            path="/orders/{order_id}/cancel",
            request=CancelOrder,
            run=_cancel,
            magic=_magic_of_cancel,
            undo=True,
            for_order="undo",
        ),
    ),
    resource="orders",
    read_one="SELECT to_json(o) FROM orders AS o WHERE order_id = $1",
    read_many="SELECT coalesce(json_agg(o), '[]') FROM orders AS o WHERE order_id = $1",
)

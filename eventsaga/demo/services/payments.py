"""How is an order paid? A card is charged, and the charge is given back."""

from decimal import Decimal
from typing import Final
from uuid import uuid4

from pydantic import BaseModel

from eventsaga.demo.services.operation import (
    Connection,
    Effect,
    Money,
    Operation,
    OrderReference,
    Outcome,
    Service,
    Text,
    not_found,
)

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS payments (
    transaction_id text PRIMARY KEY,
    order_id text NOT NULL,
    customer_id text NOT NULL,
    amount numeric(12, 2) NOT NULL,
    token text NOT NULL,
    status text NOT NULL DEFAULT 'charged',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    refunded_at timestamptz
);
CREATE INDEX IF NOT EXISTS payments_by_order ON payments (order_id);
"""

_CHARGE: Final = """
INSERT INTO payments (transaction_id, order_id, customer_id, amount, token)
VALUES ($1, $2, $3, $4, $5)
"""

_REFUND: Final = """
UPDATE payments
   SET status = 'refunded', refunded_at = clock_timestamp()
 WHERE (transaction_id = $1 OR order_id = $2) AND status = 'charged'
RETURNING transaction_id, order_id, amount
"""

_EXISTS: Final = "SELECT EXISTS (SELECT FROM payments WHERE transaction_id = $1)"
_TOKEN: Final = "SELECT token FROM payments WHERE transaction_id = $1 OR order_id = $2 LIMIT 1"  # noqa: S105


class PaymentMethod(BaseModel):
    """What is charged. The token stands for a card that this service never sees."""

    type: Text = "card"
    token: Text


class Charge(OrderReference):
    """Charge the order's total."""

    customer_id: Text
    amount: Money
    payment_method: PaymentMethod


class Refund(BaseModel):
    """Give one charge back."""

    transaction_id: Text


async def _charge(conn: Connection, request: Charge) -> Outcome:
    transaction_id = f"txn_{uuid4().hex}"
    token = request.payment_method.token
    await conn.execute(
        _CHARGE, transaction_id, request.order_id, request.customer_id, request.amount, token
    )
    return Outcome(
        201,
        {
            "transaction_id": transaction_id,
            "order_id": request.order_id,
            "amount": str(request.amount),
            "status": "charged",
        },
        (Effect(operation="charge", order_id=request.order_id, amount=request.amount),),
    )


async def _refund(conn: Connection, request: Refund) -> Outcome:
    if not await conn.fetchval(_EXISTS, request.transaction_id):
        return not_found("payment")
    return await _give_back(conn, request.transaction_id, None)


async def _refund_order(conn: Connection, request: OrderReference) -> Outcome:
    return await _give_back(conn, None, request.order_id)


async def _give_back(conn: Connection, transaction_id: str | None, order_id: str | None) -> Outcome:
    refunds = await conn.fetch(_REFUND, transaction_id, order_id)
    total = sum((refund["amount"] for refund in refunds), Decimal(0))
    return Outcome(
        200,
        {
            "status": "refunded" if refunds else "nothing_to_refund",
            "transaction_ids": [refund["transaction_id"] for refund in refunds],
            "amount": str(total),
        },
        tuple(
            Effect(operation="refund", order_id=refund["order_id"], amount=-refund["amount"])
            for refund in refunds
        ),
    )


async def _magic_of_charge(_conn: Connection, request: Charge) -> str:
    return request.payment_method.token


async def _magic_of_refund(conn: Connection, request: Refund) -> str | None:
    token: str | None = await conn.fetchval(_TOKEN, request.transaction_id, None)
    return token


async def _magic_of_order(conn: Connection, request: OrderReference) -> str | None:
    token: str | None = await conn.fetchval(_TOKEN, None, request.order_id)
    return token


PAYMENTS: Final = Service(
    name="payments",
    tables=_TABLES,
    operations=(
        Operation(
            method="POST",
            path="/payments",
            request=Charge,
            run=_charge,
            magic=_magic_of_charge,
            for_order="do",
            refusal=Outcome(402, {"error": "card_declined", "reason": "insufficient_funds"}),
        ),
        Operation(
            method="POST",
            path="/payments/refund",
            request=OrderReference,
            run=_refund_order,
            magic=_magic_of_order,
            undo=True,
            for_order="undo",
        ),
        Operation(
            method="POST",
            path="/payments/{transaction_id}/refund",
            request=Refund,
            run=_refund,
            magic=_magic_of_refund,
            undo=True,
        ),
    ),
    resource="payments",
    read_one="SELECT to_json(p) FROM payments AS p WHERE transaction_id = $1",
    read_many="SELECT coalesce(json_agg(p), '[]') FROM payments AS p WHERE order_id = $1",
)

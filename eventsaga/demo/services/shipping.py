"""How does it get there? A shipment is booked, and called off."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Final
from uuid import uuid4

from pydantic import BaseModel, Field

from eventsaga.demo.services.operation import (
    Connection,
    Effect,
    Item,
    Operation,
    OrderReference,
    Outcome,
    Service,
    Text,
    not_found,
)

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS shipments (
    shipment_id text PRIMARY KEY,
    order_id text NOT NULL,
    street text NOT NULL,
    city text NOT NULL,
    zip_code text NOT NULL,
    country text NOT NULL,
    status text NOT NULL DEFAULT 'booked',
    estimated_delivery date NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    cancelled_at timestamptz
);
CREATE INDEX IF NOT EXISTS shipments_by_order ON shipments (order_id);
"""

_BOOK: Final = """
INSERT INTO shipments
    (shipment_id, order_id, street, city, zip_code, country, estimated_delivery)
VALUES ($1, $2, $3, $4, $5, $6, $7)
"""

_CALL_OFF: Final = """
UPDATE shipments
   SET status = 'cancelled', cancelled_at = clock_timestamp()
 WHERE (shipment_id = $1 OR order_id = $2) AND status = 'booked'
RETURNING shipment_id, order_id
"""

_EXISTS: Final = "SELECT EXISTS (SELECT FROM shipments WHERE shipment_id = $1)"
_ZIP: Final = "SELECT zip_code FROM shipments WHERE shipment_id = $1 OR order_id = $2 LIMIT 1"
_DELIVERY: Final = timedelta(days=3)


class Address(BaseModel):
    """Where the parcel goes."""

    street: Text
    city: Text
    zip_code: Text
    country: Text


class Ship(OrderReference):
    """Book a shipment."""

    items: Annotated[list[Item], Field(min_length=1, max_length=200)]
    address: Address


class ShipmentReference(BaseModel):
    """One shipment."""

    shipment_id: Text


async def _book(conn: Connection, request: Ship) -> Outcome:
    shipment_id = f"shp_{uuid4().hex}"
    address = request.address
    arrives_on = (datetime.now(UTC) + _DELIVERY).date()
    place = (address.street, address.city, address.zip_code, address.country)
    await conn.execute(_BOOK, shipment_id, request.order_id, *place, arrives_on)
    return Outcome(
        201,
        {
            "shipment_id": shipment_id,
            "order_id": request.order_id,
            "status": "booked",
            "estimated_delivery": arrives_on.isoformat(),
        },
        (Effect(operation="book", order_id=request.order_id, quantity=1),),
    )


async def _cancel(conn: Connection, request: ShipmentReference) -> Outcome:
    if not await conn.fetchval(_EXISTS, request.shipment_id):
        return not_found("shipment")
    return await _call_off(conn, request.shipment_id, None)


async def _cancel_order(conn: Connection, request: OrderReference) -> Outcome:
    return await _call_off(conn, None, request.order_id)


async def _call_off(conn: Connection, shipment_id: str | None, order_id: str | None) -> Outcome:
    cancelled = await conn.fetch(_CALL_OFF, shipment_id, order_id)
    return Outcome(
        200,
        {
            "status": "cancelled" if cancelled else "nothing_to_cancel",
            "shipment_ids": [row["shipment_id"] for row in cancelled],
        },
        tuple(
            Effect(operation="cancel", order_id=row["order_id"], quantity=-1) for row in cancelled
        ),
    )


async def _magic_of_ship(_conn: Connection, request: Ship) -> str:
    return request.address.zip_code


async def _magic_of_cancel(conn: Connection, request: ShipmentReference) -> str | None:
    zip_code: str | None = await conn.fetchval(_ZIP, request.shipment_id, None)
    return zip_code


async def _magic_of_order(conn: Connection, request: OrderReference) -> str | None:
    zip_code: str | None = await conn.fetchval(_ZIP, None, request.order_id)
    return zip_code


SHIPPING: Final = Service(
    name="shipping",
    tables=_TABLES,
    operations=(
        Operation(
            method="POST",
            path="/shipments",
            request=Ship,
            run=_book,
            magic=_magic_of_ship,
            for_order="do",
            refusal=Outcome(422, {"error": "undeliverable"}),
        ),
        Operation(
            method="DELETE",
            path="/shipments",
            request=OrderReference,
            run=_cancel_order,
            magic=_magic_of_order,
            undo=True,
            for_order="undo",
        ),
        Operation(
            method="DELETE",
            path="/shipments/{shipment_id}",
            request=ShipmentReference,
            run=_cancel,
            magic=_magic_of_cancel,
            undo=True,
        ),
    ),
    resource="shipments",
    read_one="SELECT to_json(s) FROM shipments AS s WHERE shipment_id = $1",
    read_many="SELECT coalesce(json_agg(s), '[]') FROM shipments AS s WHERE order_id = $1",
)

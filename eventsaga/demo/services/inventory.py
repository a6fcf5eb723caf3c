"""Are the things there? They are reserved for an order, taken out of stock, and put back."""

from typing import Annotated, Final
from uuid import uuid4

from pydantic import BaseModel, Field

from eventsaga.demo.services.faults import fault_of
from eventsaga.demo.services.operation import (
    Connection,
    Effect,
    Item,
    Operation,
    OrderReference,
    Outcome,
    Service,
    Text,
    no_magic,
    not_found,
)

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS reservations (
    reservation_id text PRIMARY KEY,
    order_id text NOT NULL,
    quantity int NOT NULL,
    magic text,
    status text NOT NULL DEFAULT 'reserved',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_at timestamptz
);
CREATE INDEX IF NOT EXISTS reservations_by_order ON reservations (order_id);
CREATE TABLE IF NOT EXISTS reserved_items (
    reservation_id text NOT NULL REFERENCES reservations,
    position int NOT NULL,
    product_id text NOT NULL,
    quantity int NOT NULL,
    PRIMARY KEY (reservation_id, position)
);
"""

_RESERVE: Final = """
INSERT INTO reservations (reservation_id, order_id, quantity, magic) VALUES ($1, $2, $3, $4)
"""

_RESERVE_ITEM: Final = """
INSERT INTO reserved_items (reservation_id, position, product_id, quantity)
VALUES ($1, $2, $3, $4)
"""

_RELEASE: Final = """
UPDATE reservations
   SET status = 'released', changed_at = clock_timestamp()
 WHERE (reservation_id = $1 OR order_id = $2) AND status <> 'released'
RETURNING reservation_id, order_id, quantity
"""

_CONFIRM: Final = """
UPDATE reservations
   SET status = 'confirmed', changed_at = clock_timestamp()
 WHERE reservation_id = $1 AND status = 'reserved'
RETURNING order_id
"""

_STATUS: Final = "SELECT status FROM reservations WHERE reservation_id = $1"
_MAGIC: Final = "SELECT magic FROM reservations WHERE reservation_id = $1 OR order_id = $2 LIMIT 1"


class Reserve(OrderReference):
    """Set the items of an order aside."""

    items: Annotated[list[Item], Field(min_length=1, max_length=200)]


class ReservationReference(BaseModel):
    """One reservation."""

    reservation_id: Text


async def _reserve(conn: Connection, request: Reserve) -> Outcome:
    reservation_id = f"rsv_{uuid4().hex}"
    quantity = sum(item.quantity for item in request.items)
    magic = await _magic_of_reserve(conn, request)
    await conn.execute(_RESERVE, reservation_id, request.order_id, quantity, magic)
    await conn.executemany(
        _RESERVE_ITEM,
        [
            (reservation_id, position, item.product_id, item.quantity)
            for position, item in enumerate(request.items)
        ],
    )
    return Outcome(
        201,
        {"reservation_id": reservation_id, "order_id": request.order_id, "status": "reserved"},
        (Effect(operation="reserve", order_id=request.order_id, quantity=quantity),),
    )


async def _confirm(conn: Connection, request: ReservationReference) -> Outcome:
    reservation_id = request.reservation_id
    order_id: str | None = await conn.fetchval(_CONFIRM, reservation_id)
    if order_id is None:
        status: str | None = await conn.fetchval(_STATUS, reservation_id)
        if status is None:
            return not_found("reservation")
        if status == "released":
            return Outcome(422, {"error": "reservation_released"})
    effects = () if order_id is None else (Effect(operation="confirm", order_id=order_id),)
    return Outcome(200, {"reservation_id": reservation_id, "status": "confirmed"}, effects)


async def _release(conn: Connection, request: ReservationReference) -> Outcome:
    if await conn.fetchval(_STATUS, request.reservation_id) is None:
        return not_found("reservation")
    return await _put_back(conn, request.reservation_id, None)


async def _release_order(conn: Connection, request: OrderReference) -> Outcome:
    return await _put_back(conn, None, request.order_id)


async def _put_back(conn: Connection, reservation_id: str | None, order_id: str | None) -> Outcome:
    released = await conn.fetch(_RELEASE, reservation_id, order_id)
    return Outcome(
        200,
        {
            "status": "released" if released else "nothing_to_release",
            "reservation_ids": [row["reservation_id"] for row in released],
        },
        tuple(
            Effect(operation="release", order_id=row["order_id"], quantity=-row["quantity"])
            for row in released
        ),
    )


async def _magic_of_reserve(_conn: Connection, request: Reserve) -> str | None:
    for item in request.items:
        if any(fault_of(item.product_id, undo=undo) is not None for undo in (False, True)):
            return item.product_id
    return None


async def _magic_of_release(conn: Connection, request: ReservationReference) -> str | None:
    magic: str | None = await conn.fetchval(_MAGIC, request.reservation_id, None)
    return magic


async def _magic_of_order(conn: Connection, request: OrderReference) -> str | None:
    magic: str | None = await conn.fetchval(_MAGIC, None, request.order_id)
    return magic


INVENTORY: Final = Service(
    name="inventory",
    tables=_TABLES,
    operations=(
        Operation(
            method="POST",
            path="/reservations",
            request=Reserve,
            run=_reserve,
            magic=_magic_of_reserve,
            for_order="do",
            refusal=Outcome(422, {"error": "out_of_stock"}),
        ),
        Operation(
            method="DELETE",
            path="/reservations",
            request=OrderReference,
            run=_release_order,
            magic=_magic_of_order,
            undo=True,
            for_order="undo",
        ),
        Operation(
            method="DELETE",
            path="/reservations/{reservation_id}",
            request=ReservationReference,
            run=_release,
            magic=_magic_of_release,
            undo=True,
        ),
        Operation(
            method="POST",
            path="/reservations/{reservation_id}/confirm",
            request=ReservationReference,
            run=_confirm,
            magic=no_magic,
        ),
    ),
    resource="reservations",
    read_one="SELECT to_json(r) FROM reservations AS r WHERE reservation_id = $1",
    read_many="SELECT coalesce(json_agg(r), '[]') FROM reservations AS r WHERE order_id = $1",
)

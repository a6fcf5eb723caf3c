"""The services and how they are asked; each test brings an order of its own."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx
import pytest

from eventsaga.demo.services import (
    RunningServices,
)

SLOW = 0.5
PATIENCE = 30.0

Json = dict[str, Any]


@dataclass(frozen=True)
class Forward:
    """How one service is asked to do its thing, with a value that may be magic."""

    service: str
    path: str
    magic: str
    id_field: str
    undo_method: str
    undo_path: str

    def body(self, order_id: str, magic: str = "ordinary") -> Json:
        values = {"cust_": "ann", "prod_": "lamp", "tok_": "tok_visa", "zip_": "94102"}
        if magic != "ordinary":
            values[self.magic] = self.magic + magic
        items = [{"product_id": values["prod_"], "quantity": 2}]
        bodies: dict[str, Json] = {
            "orders": {
                "order_id": order_id,
                "customer_id": values["cust_"],
                "items": items,
                "total_amount": "59.98",
            },
            "inventory": {"order_id": order_id, "items": items},
            "payments": {
                "order_id": order_id,
                "customer_id": "ann",
                "amount": 59.98,
                "payment_method": {"type": "card", "token": values["tok_"]},
            },
            "shipping": {
                "order_id": order_id,
                "items": items,
                "address": {
                    "street": "123 Main St",
                    "city": "San Francisco",
                    "zip_code": values["zip_"],
                    "country": "US",
                },
            },
        }
        return bodies[self.service]


ORDERS = Forward("orders", "/orders", "cust_", "order_id", "POST", "/orders/{id}/cancel")
INVENTORY = Forward(
    "inventory", "/reservations", "prod_", "reservation_id", "DELETE", "/reservations/{id}"
)
PAYMENTS = Forward(
    "payments", "/payments", "tok_", "transaction_id", "POST", "/payments/{id}/refund"
)
SHIPPING = Forward("shipping", "/shipments", "zip_", "shipment_id", "DELETE", "/shipments/{id}")
ALL = (ORDERS, INVENTORY, PAYMENTS, SHIPPING)
each_service = pytest.mark.parametrize("forward", ALL, ids=lambda forward: forward.service)


@dataclass(frozen=True)
class World:
    """The services, a client of them, and a look into their database."""

    url: str
    services: RunningServices
    http: httpx.AsyncClient
    db: "asyncpg.Connection[asyncpg.Record]"

    async def send(
        self, service: str, method: str, path: str, body: Any = None, **headers: str
    ) -> httpx.Response:
        """Send a request; header names are written with underscores."""
        return await self.http.request(
            method,
            self.services.urls[service] + path,
            json=body,
            headers={name.replace("_", "-"): value for name, value in headers.items()},
        )

    async def do(
        self, forward: Forward, order_id: str, magic: str = "ordinary", *, key: str | None = None
    ) -> httpx.Response:
        body = forward.body(order_id, magic)
        key = key or f"{order_id}/do"
        return await self.send(forward.service, "POST", forward.path, body, Idempotency_Key=key)

    async def undo(self, forward: Forward, thing_id: str, key: str | None = None) -> httpx.Response:
        return await self.send(
            forward.service,
            forward.undo_method,
            forward.undo_path.format(id=thing_id),
            {"reason": "compensation"} if forward is ORDERS else None,
            Idempotency_Key=key or f"{thing_id}/undo",
        )

    async def undo_order(
        self, forward: Forward, order_id: str, key: str | None = None
    ) -> httpx.Response:
        """Undo what may have been done, knowing the order only."""
        method, path, body = {
            "orders": ("POST", f"/orders/{order_id}/cancel", {"reason": "unknown"}),
            "inventory": ("DELETE", f"/reservations?order_id={order_id}", None),
            "payments": ("POST", "/payments/refund", {"order_id": order_id}),
            "shipping": ("DELETE", f"/shipments?order_id={order_id}", None),
        }[forward.service]
        key = key or f"{order_id}/undo"
        return await self.send(forward.service, method, path, body, Idempotency_Key=key)

    async def effects(self, forward: Forward, order_id: str) -> list[str]:
        """Return the operations that were applied, in order."""
        reply = await self.http.get(
            f"{self.services.urls[forward.service]}/ledger?order_id={order_id}"
        )
        return [effect["operation"] for effect in reply.json()]

    async def until(self, sql: str, *arguments: Any) -> None:
        """Return once the query finds something."""
        async with asyncio.timeout(PATIENCE):
            while not await self.db.fetchval(sql, *arguments):
                pass

    @asynccontextmanager
    async def barrier(self, forward: Forward) -> AsyncGenerator[None]:
        """Hold every request of a service in the middle of its transaction."""
        conn = await asyncpg.connect(self.url)
        try:
            async with conn.transaction():
                await conn.execute(f"LOCK TABLE demo_{forward.service}.ledger IN EXCLUSIVE MODE")
                yield
        finally:
            await conn.close()

    async def wait_at_barrier(self, forward: Forward, count: int = 1) -> None:
        """Return once *count* requests of the service stand at the barrier."""
        await self.until(
            "SELECT count(*) = $2 FROM pg_locks WHERE NOT granted AND locktype = 'relation'"
            " AND relation = to_regclass($1)",
            f"demo_{forward.service}.ledger",
            count,
        )

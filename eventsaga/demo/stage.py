"""What do all scenes stand on? A database, four services, a worker process, and a client."""

import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from decimal import Decimal
from typing import Final
from uuid import UUID, uuid4

import asyncpg
from rich.console import Console

from eventsaga.client import Orchestrator
from eventsaga.demo.crew import SETTINGS, WorkerProcess
from eventsaga.demo.order import SLOW_PAYMENT, Order, ServiceUrls, order_saga
from eventsaga.demo.place import Connection, Place
from eventsaga.demo.services import running_services

# Each request takes this long: half of it on the way, half on the way back. Without it, nothing
# would be under way when the worker is killed.
LATENCY_SECONDS: Final = 0.25

_SAGAS: Final = """
SELECT saga_id FROM eventsaga.start_keys WHERE saga_name = 'order' AND key = ANY ($1::text[])
"""

_PRICES: Final = (("lamp", Decimal("29.99")), ("desk", Decimal("49.99")))


@dataclass(kw_only=True)
class Stage:
    """What the scenes use.

    Attributes:
        run: Part of each order id of this run, and of no other's.
        console: Where people read.
        place: The database.
        db: A connection to it, for questions.
        urls: Where the services are.
        orchestrator: Starts sagas, waits for them, and runs none itself.
        worker: The process that runs them.
        order_ids: The orders of this run.
    """

    run: str
    console: Console
    place: Place
    db: Connection
    urls: ServiceUrls
    orchestrator: Orchestrator
    worker: WorkerProcess
    order_ids: list[str]

    def order(self, name: str, *, token: str = "tok_visa_4242") -> Order:  # noqa: S107 - a test card
        """Return a new order of this run, paid with *token*."""
        order = Order.model_validate(
            {
                "order_id": f"{self.run}-{name}",
                "customer_id": "cust-123",
                "items": [
                    {"product_id": product, "quantity": number, "price": price}
                    for number, (product, price) in enumerate(_PRICES, 1)
                ],
                "total_amount": sum(n * price for n, (_, price) in enumerate(_PRICES, 1)),
                "payment_method": {"type": "card", "token": token},
                "shipping_address": {
                    "street": "123 Main St",
                    "city": "San Francisco",
                    "zip_code": "94102",
                    "country": "US",
                },
            }
        )
        self.order_ids.append(order.order_id)
        return order

    async def sagas(self) -> list[UUID]:
        """Return the sagas of this run."""
        return [row["saga_id"] for row in await self.db.fetch(_SAGAS, self.order_ids)]


@contextlib.asynccontextmanager
async def open_stage(place: Place, console: Console) -> AsyncGenerator[Stage]:
    """Start services and worker while the block runs, and stop them in the right order after it.

    Raises:
        ServiceStartError: If a service does not start.
        WorkerEndedError: If the worker does not.
    """
    async with contextlib.AsyncExitStack() as stack:
        services = await stack.enter_async_context(
            running_services(place.url, latency=LATENCY_SECONDS, slow=SLOW_PAYMENT)
        )
        urls = ServiceUrls(**services.urls)
        db = await asyncpg.connect(place.url)
        stack.callback(db.terminate)
        orchestrator = await stack.enter_async_context(
            Orchestrator(place.url, [order_saga(urls)], worker=False, settings=SETTINGS)
        )
        stage = Stage(
            run=uuid4().hex[:8],
            console=console,
            place=place,
            db=db,
            urls=urls,
            orchestrator=orchestrator,
            worker=WorkerProcess(place.url, urls),
            order_ids=[],
        )
        stack.push_async_callback(_stop_worker, stage)
        await stage.worker.start(db)
        yield stage


async def _stop_worker(stage: Stage) -> None:
    # Whichever it is by then: a scene replaces it.
    await stage.worker.stop()

"""What do the tests of the runtime run? Sagas of plain functions, and how they are watched."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg
from pydantic import BaseModel

from eventsaga import Orchestrator, Retry, Saga, SagaHandle, Settings, Step

QUICK = Settings(
    lease=timedelta(seconds=3),
    heartbeat=timedelta(seconds=0.5),
    lease_margin=timedelta(seconds=0.5),
    poll=timedelta(seconds=0.1),
    drain_timeout=timedelta(seconds=5),
)
SOON = Retry(max_attempts=3, delay=0.01)
ONCE = Retry(max_attempts=1)


class Order(BaseModel):
    """A context with room for what steps return."""

    order_id: str = "o-1"
    note: str | None = None
    amount: float | None = None
    data: Any = None


async def nothing(_order: Order) -> None:
    """Do nothing, well."""


def one_step(execute: Callable[..., Any], **options: Any) -> Saga[Order]:
    """Return a saga of one step."""
    return Saga("one", context=Order, steps=[Step("only", execute, **options)])


@asynccontextmanager
async def orchestrating(
    database: str, *sagas: Saga[Any], worker: bool = True, settings: Settings = QUICK
) -> AsyncGenerator[Orchestrator]:
    """Open an orchestrator with quick times."""
    async with Orchestrator(database, sagas=sagas, worker=worker, settings=settings) as opened:
        yield opened


async def types(handle: SagaHandle) -> list[str]:
    """Return the names of a saga's events."""
    return [stored.type for stored in await handle.history()]


async def until(database: str, query: str, *arguments: object, within: float = 20) -> Any:
    """Return what *query* gives, as soon as it is true."""
    connection = await asyncpg.connect(database)
    try:
        async with asyncio.timeout(within):
            while True:
                found = await connection.fetchval(query, *arguments)
                if found:
                    return found
    finally:
        await connection.close()


async def run_sql(database: str, *statements: str) -> None:
    """Run *statements* as the owner of the tables."""
    connection = await asyncpg.connect(database)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


def events_of(history: Sequence[Any], name: str) -> list[Any]:
    """Return the events named *name*."""
    return [stored.event for stored in history if stored.type == name]

"""What is one operation of a service? A request model in, effects and a reply out."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Generic, TypeAlias, TypeVar

import asyncpg
from pydantic import BaseModel, Field, JsonValue, StringConstraints

from eventsaga.participant import Operation as Direction

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
RequestT = TypeVar("RequestT", bound=BaseModel)

# PostgreSQL has no NUL in a text.
Text = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00]+$")]
Money = Annotated[Decimal, Field(gt=0, max_digits=12, decimal_places=2)]
Quantity = Annotated[int, Field(ge=1, le=1_000_000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One thing that was really done; a row of the ledger.

    Attributes:
        operation: What was done.
        order_id: For which order.
        amount: Money taken; negative if given back.
        quantity: Things taken; negative if given back.
    """

    operation: str
    order_id: str
    amount: Decimal = Decimal(0)
    quantity: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an operation did and says; stored under the idempotency key, and said again.

    Attributes:
        status: HTTP status. An answer that is not 2xx has no effects.
        body: The reply.
        effects: What was done, maybe nothing.
    """

    status: int
    body: dict[str, JsonValue]
    effects: tuple[Effect, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation(Generic[RequestT]):
    """An unsafe request.

    Attributes:
        method: HTTP method.
        path: Path; its ``{parameters}`` are fields of the request.
        request: Body, query and path, merged into one model.
        run: Does it, inside the transaction that also stores the reply.
        magic: Looks up the magic value of the request; see `faults`.
        undo: Whether it undoes another operation.
        for_order: Which way it goes at the barrier of its order. Whoever undoes by order id
            does not know whether the request to do it has arrived; it may still be under way.
            None if it knows the thing itself.
        refusal: The answer to a magic value that refuses.
    """

    method: str
    path: str
    request: type[RequestT]
    run: Callable[[Connection, RequestT], Awaitable[Outcome]]
    magic: Callable[[Connection, RequestT], Awaitable[str | None]]
    undo: bool = False
    for_order: Direction | None = None
    refusal: Outcome = Outcome(422, {"error": "refused"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One of the four.

    Attributes:
        name: Such as ``payments``; its schema is ``demo_payments``.
        tables: DDL of its own tables, run in its schema. May run again at any time.
        operations: What it does.
        resource: The collection that can be read, such as ``payments``.
        read_one: SQL: one thing as JSON, by its id.
        read_many: SQL: the things of an order as a JSON array, by the order id.
    """

    name: str
    tables: str
    operations: tuple[Operation[Any], ...]
    resource: str
    read_one: str
    read_many: str


class Item(BaseModel):
    """A line of an order."""

    product_id: Text
    quantity: Quantity


class OrderReference(BaseModel):
    """A request that knows the order only: nobody told the caller what was done for it."""

    order_id: Text


async def no_magic(_conn: Connection, _request: object) -> None:
    """Look up nothing: the request has no value that could be magic."""


def not_found(what: str) -> Outcome:
    """Return the answer to an id that was never given out."""
    return Outcome(404, {"error": f"{what}_not_found"})


def order_closed(order_id: str) -> Outcome:
    """Return the answer to a request for an order that was undone before it came."""
    return Outcome(410, {"error": "order_closed", "order_id": order_id})

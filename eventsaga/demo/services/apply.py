"""How is a request applied? In the transaction that also stores its key and its reply.

`eventsaga.participant` lends that transaction and commits it. A repeated request does not come
here, and what comes here may rely on being alone with its key.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, cast

from pydantic import BaseModel, JsonValue
from sqlalchemy.ext.asyncio import AsyncSession

from eventsaga.demo.services.faults import Fault, FlakyKeys, fault_of
from eventsaga.demo.services.ledger import write_effects
from eventsaga.demo.services.network import Delivery
from eventsaga.demo.services.operation import (
    Connection,
    Operation,
    OrderReference,
    Outcome,
    order_closed,
)
from eventsaga.participant import TooLateError, barrier, current

_DELIVERY: Final[Mapping[Fault | None, Delivery]] = {
    Fault.LOST_REPLY: Delivery.NEVER,
    Fault.CUT_REPLY: Delivery.CUT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One unsafe request, validated.

    Attributes:
        operation: What is asked for.
        request: Its arguments.
        correlation_id: Whose doing it is; None if the caller does not say.
    """

    operation: Operation[Any]
    request: BaseModel
    correlation_id: str | None


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a request.

    Attributes:
        status: HTTP status.
        body: JSON text.
        retry_after: Seconds after which to try again; None if there is nothing to wait for.
        delivery: What becomes of it on its way.
    """

    status: int
    body: str
    retry_after: int | None = None
    delivery: Delivery = Delivery.WHOLE


def error_reply(status: int, error: str, **details: JsonValue) -> Reply:
    """Return a reply that says what is wrong."""
    return Reply(status, json.dumps({"error": error, **details}))


class Desk:
    """Where the requests of one service are taken.

    Args:
        slow: How long a request with a ``…_slow`` value takes.
    """

    def __init__(self, *, slow: timedelta) -> None:
        self._slow = slow
        self._flaky = FlakyKeys()

    async def take(self, call: Call) -> Reply:
        """Apply *call* and return its reply."""
        lent = current()
        conn = await _driver_of(lent.session)
        operation = call.operation
        fault = fault_of(await operation.magic(conn, call.request), undo=operation.undo)
        if fault is Fault.FLAKY and self._flaky.fails_now(lent.key):
            return Reply(503, '{"error": "overloaded"}', retry_after=0)
        if fault is Fault.UNDO_REFUSED:
            return error_reply(422, "undo_refused")
        if fault is Fault.SLOW:
            await asyncio.sleep(self._slow.total_seconds())
        outcome = operation.refusal
        if fault is not Fault.REFUSED:
            outcome = await _run(lent.session, conn, call)
        await write_effects(conn, outcome.effects, key=lent.key, correlation_id=call.correlation_id)
        delivery = _DELIVERY.get(fault, Delivery.WHOLE)
        return Reply(outcome.status, json.dumps(outcome.body), delivery=delivery)


async def _run(session: AsyncSession, conn: Connection, call: Call) -> Outcome:
    operation, request = call.operation, call.request
    if operation.for_order is None:
        return await operation.run(conn, request)
    assert isinstance(request, OrderReference)
    try:
        async with barrier(
            session, group=request.order_id, step="order", operation=operation.for_order
        ):
            # Whether or not it is the first: two charges under two keys are two charges, and
            # an undo finds for itself what there is to undo.
            return await operation.run(conn, request)
    except TooLateError:
        return order_closed(request.order_id)


async def _driver_of(session: AsyncSession) -> Connection:
    """Return what the session writes with: the services' SQL is asyncpg's."""
    raw = await (await session.connection()).get_raw_connection()
    return cast("Connection", raw.driver_connection)

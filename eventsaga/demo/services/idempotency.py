"""How is a request applied once, however often it comes?

The key, the effect, its ledger rows and the reply commit in one transaction. A request whose key
is there gets the stored reply; a request whose key is being worked on is told so at once.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final

import asyncpg
from asyncpg import Record
from asyncpg.pool import Pool
from pydantic import BaseModel, JsonValue

from eventsaga.demo.services.faults import Fault, FlakyKeys, fault_of
from eventsaga.demo.services.ledger import write_effects
from eventsaga.demo.services.operation import Connection, Operation, Outcome

# The primary key makes it safe; this lock makes the second request return at once, not wait.
_TRY_LOCK: Final = """
SELECT pg_try_advisory_xact_lock(hashtextextended(current_schema() || '/' || $1, 0))
"""

_READ: Final = "SELECT request_hash, status, reply FROM idempotency WHERE key = $1"

_STORE: Final = """
INSERT INTO idempotency (key, request_hash, status, reply) VALUES ($1, $2, $3, $4)
"""


class Delivery(StrEnum):
    """What becomes of a reply on its way."""

    WHOLE = "whole"
    NEVER = "never"
    CUT = "cut"


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
        key: Its idempotency key.
        request_hash: Equal for equal requests.
        correlation_id: Whose doing it is; None if the caller does not say.
    """

    operation: Operation[Any]
    request: BaseModel
    key: str
    request_hash: str
    correlation_id: str | None


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a request.

    Attributes:
        status: HTTP status.
        body: JSON text, the same each time a stored reply is sent.
        replayed: Whether it was stored by an earlier request.
        retry_after: Seconds after which to try again; None if there is nothing to wait for.
        delivery: What becomes of it on its way.
    """

    status: int
    body: str
    replayed: bool = False
    retry_after: int | None = None
    delivery: Delivery = Delivery.WHOLE


class OutcomeUnknownError(Exception):
    """The connection broke during COMMIT: the effect may have happened or not."""


def error_reply(status: int, error: str, **details: JsonValue) -> Reply:
    """Return a reply that says what is wrong."""
    return Reply(status, json.dumps({"error": error, **details}))


class Desk:
    """Where the requests of one service are taken.

    Args:
        pool: Connections whose search path is the service's schema.
        slow: How long a request with a ``…_slow`` value takes.
    """

    def __init__(self, pool: "Pool[Record]", *, slow: timedelta) -> None:
        self._pool = pool
        self._slow = slow
        self._flaky = FlakyKeys()

    async def take(self, call: Call) -> Reply:
        """Apply *call* once and return its reply, or the reply that is stored.

        Raises:
            OutcomeUnknownError: If nobody can say whether the transaction committed.
            asyncpg.PostgresError: If it did not.
            OSError: If the database is not reachable; nothing was done.
        """
        async with self._pool.acquire() as conn:
            transaction = conn.transaction()
            await transaction.start()
            try:
                reply = await self._apply_or_replay(conn, call)
            except BaseException:
                if not conn.is_closed():
                    await transaction.rollback()
                raise
            try:
                await transaction.commit()
            except (OSError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError) as error:
                raise OutcomeUnknownError from error
            return reply

    async def _apply_or_replay(self, conn: Connection, call: Call) -> Reply:
        if not await conn.fetchval(_TRY_LOCK, call.key):
            return Reply(409, '{"error": "still_running"}', retry_after=1)
        stored = await conn.fetchrow(_READ, call.key)
        if stored is None:
            return await self._apply(conn, call)
        if stored["request_hash"] != call.request_hash:
            return error_reply(422, "idempotency_key_reused")
        return Reply(stored["status"], stored["reply"], replayed=True)

    async def _apply(self, conn: Connection, call: Call) -> Reply:
        operation = call.operation
        magic = await operation.magic(conn, call.request)
        fault = fault_of(magic, undo=operation.undo)
        if fault is Fault.FLAKY and self._flaky.fails_now(call.key):
            return Reply(503, '{"error": "overloaded"}', retry_after=0)
        if fault is Fault.UNDO_REFUSED:
            # Not stored: whoever mends the cause may try again with the same key.
            return error_reply(422, "undo_refused")
        if fault is Fault.SLOW:
            await asyncio.sleep(self._slow.total_seconds())
        outcome = await self._run(conn, call, fault)
        body = json.dumps(outcome.body)
        await conn.execute(_STORE, call.key, call.request_hash, outcome.status, body)
        await write_effects(conn, outcome.effects, key=call.key, correlation_id=call.correlation_id)
        return Reply(outcome.status, body, delivery=_DELIVERY.get(fault, Delivery.WHOLE))

    async def _run(self, conn: Connection, call: Call, fault: Fault | None) -> Outcome:
        if fault is Fault.REFUSED:
            return call.operation.refusal
        return await call.operation.run(conn, call.request)

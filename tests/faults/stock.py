"""A worker process whose steps write two rows of the user's, which others want as well.

The ledger is the user's own table: a row an operation, written in the step's transaction.
"""

import asyncio
import os
import sys
from typing import Final

from pydantic import BaseModel
from sqlalchemy import text

from eventsaga import Orchestrator, PermanentError, Retry, Saga, Step, StepContext
from eventsaga.observe.log import configure

TABLES: Final = (
    "CREATE TABLE stock (id int PRIMARY KEY, amount int NOT NULL)",
    "INSERT INTO stock VALUES (1, 0), (2, 0)",
    "CREATE TABLE taken (key text NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp())",
)

_MOVE: Final = text("UPDATE stock SET amount = amount + :amount WHERE id = :id")
_WRITE: Final = text("INSERT INTO taken (key) VALUES (:key)")


class Order(BaseModel):
    """What is taken, and whether that is put back."""

    declined: bool = False


async def _moved(step: StepContext, amount: int) -> None:
    # One after the other, so that somebody can come in between.
    for row in (1, 2):
        await step.session.execute(_MOVE, {"id": row, "amount": amount})
    await step.session.execute(_WRITE, {"key": step.idempotency_key})


async def take(_order: Order, step: StepContext) -> None:
    await _moved(step, 1)


async def put_back(_order: Order, step: StepContext) -> None:
    await _moved(step, -1)


async def confirm(order: Order) -> None:
    if order.declined:
        raise PermanentError("declined")


_ONCE: Final = Retry(max_attempts=1)

stock_saga = Saga(
    "stock",
    context=Order,
    steps=[
        # One attempt each: what the database does to them must not spend it.
        Step(
            "take",
            take,
            compensate=put_back,
            transactional=True,
            retry=_ONCE,
            compensate_retry=_ONCE,
        ),
        Step("confirm", confirm),
    ],
)


async def main() -> None:
    """Run until told to stop."""
    configure()
    async with Orchestrator(os.environ["EVENTSAGA_DATABASE_URL"], sagas=[stock_saga]) as worker:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await worker.run()


if __name__ == "__main__":
    asyncio.run(main())

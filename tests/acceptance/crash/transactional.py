"""A worker process that kills itself in and around the transactions of its steps.

The saga: a step that writes by `step.session`, one that writes by `step.connection`, and a
last one that some sagas are declined at. Each writes a row of `effects`, on the way there and
on the way back, and nothing in that table keeps a row from being written twice.

A moment that no function of a saga sees (its transaction is about to be committed, or has
just been) is met where the worker hands the transaction back and where COMMIT is sent.
"""

import asyncio
import os
import sys
from typing import Any, Final
from uuid import UUID
from weakref import WeakKeyDictionary

from pydantic import BaseModel
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from eventsaga import Orchestrator, PermanentError, Saga, Step, StepContext
from eventsaga.observe.log import configure
from eventsaga.store.ports import Append
from eventsaga.store.postgres.transact import PostgresTransaction
from tests.acceptance.crash.participant import kill
from tests.acceptance.crash.program import once

STEPS: Final = ("session", "connection")
MOMENTS: Final = {
    "begun": "before the first statement",
    "written": "after the insert; in the session it is not yet flushed",
    "flushed": "after the flush of the session",
    "returned": "after the function, before the result is appended",
    "appended": "after the result was appended, before COMMIT is sent",
    "committed": "after COMMIT has taken effect, before the worker knows",
}

TABLE: Final = (
    "CREATE TABLE effects (id bigserial PRIMARY KEY, saga_id uuid NOT NULL,"
    " step text NOT NULL, operation text NOT NULL)"
)


class Order(BaseModel):
    """Which way a saga goes, and where the processes that run it die, each point once."""

    declined: bool = False
    dies: tuple[str, ...] = ()


class _Base(DeclarativeBase):
    pass


class Effect(_Base):
    """What a step did."""

    __tablename__ = "effects"

    id: Mapped[int] = mapped_column(primary_key=True)
    saga_id: Mapped[UUID]
    step: Mapped[str]
    operation: Mapped[str]


class _Fate:
    """Where the process dies in one operation of one step."""

    def __init__(self, order: Order, step: StepContext, operation: str) -> None:
        self._order = order
        self._step = step
        self._operation = operation

    def reach(self, moment: str) -> None:
        """Die, if it is here and has not been before."""
        point = f"{self._operation}/{self._step.step}/{moment}"
        if point in self._order.dies and once(f"{self._step.saga_id}/{point}"):
            kill(os.getpid())


_fates: WeakKeyDictionary[AsyncConnection, _Fate] = WeakKeyDictionary()


def _fate(order: Order, step: StepContext, operation: str) -> _Fate:
    fate = _fates[step.connection] = _Fate(order, step, operation)
    fate.reach("begun")
    return fate


async def _by_session(order: Order, step: StepContext, operation: str) -> None:
    fate = _fate(order, step, operation)
    step.session.add(Effect(saga_id=step.saga_id, step=step.step, operation=operation))
    fate.reach("written")
    await step.session.flush()
    fate.reach("flushed")


async def _by_connection(order: Order, step: StepContext, operation: str) -> None:
    fate = _fate(order, step, operation)
    values = {"saga_id": step.saga_id, "step": step.step, "operation": operation}
    await step.connection.execute(insert(Effect).values(values))
    fate.reach("written")


async def do_by_session(order: Order, step: StepContext) -> None:
    await _by_session(order, step, "do")


async def undo_by_session(order: Order, step: StepContext) -> None:
    await _by_session(order, step, "undo")


async def do_by_connection(order: Order, step: StepContext) -> None:
    await _by_connection(order, step, "do")


async def undo_by_connection(order: Order, step: StepContext) -> None:
    await _by_connection(order, step, "undo")


async def confirm(order: Order) -> None:
    if order.declined:
        raise PermanentError("declined")


transactional_saga = Saga(
    "transactional",
    context=Order,
    steps=[
        Step("session", do_by_session, compensate=undo_by_session, transactional=True),
        Step("connection", do_by_connection, compensate=undo_by_connection, transactional=True),
        Step("confirm", confirm),
    ],
)


def meet_what_no_function_sees() -> None:
    """Reach the moments around COMMIT too, from here on and in the whole process."""
    end, send = PostgresTransaction.commit, AsyncConnection.commit

    async def commit(self: PostgresTransaction, append: Append, worker_id: UUID) -> Any:
        _fates[self.connection].reach("returned")
        return await end(self, append, worker_id)

    async def send_commit(self: AsyncConnection) -> None:
        _fates[self].reach("appended")
        await send(self)
        _fates[self].reach("committed")

    PostgresTransaction.commit = commit  # type: ignore[method-assign]
    AsyncConnection.commit = send_commit  # type: ignore[method-assign]


async def main() -> None:
    """Run until told to stop."""
    configure()
    meet_what_no_function_sees()
    url = os.environ["EVENTSAGA_DATABASE_URL"]
    async with Orchestrator(url, sagas=[transactional_saga]) as worker:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await worker.run()


if __name__ == "__main__":
    asyncio.run(main())

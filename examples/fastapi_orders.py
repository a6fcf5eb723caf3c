"""FastAPI and SQLAlchemy: a saga is started in the request's own transaction.

    EVENTSAGA_DATABASE_URL=postgresql://… python -m examples.fastapi_orders

With WORKER=0 the application only starts sagas, and a process of its own runs them:

    eventsaga worker examples.orders:order_saga
"""

import asyncio
import os
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Any
from uuid import UUID

import uvicorn
from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from eventsaga import Orchestrator
from examples.database import database
from examples.orders import Order, order_saga


class Base(DeclarativeBase):
    """The application's tables."""


class OrderRow(Base):
    """An order as the application keeps it."""

    __tablename__ = "fastapi_orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    total: Mapped[int]


def create_app(url: str, *, worker: bool) -> FastAPI:
    """Return the application; *worker* says whether it runs sagas too."""
    engine = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"))
    orchestrator = Orchestrator(engine, sagas=[order_saga], worker=worker)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with orchestrator:
            yield
        await engine.dispose()

    async def in_transaction() -> AsyncGenerator[AsyncSession]:
        async with AsyncSession(engine) as session, session.begin():
            yield session

    app = FastAPI(lifespan=lifespan)

    @app.post("/orders", status_code=201)
    async def place(
        total: int, session: Annotated[AsyncSession, Depends(in_transaction, scope="function")]
    ) -> dict[str, Any]:
        row = OrderRow(total=total)
        session.add(row)
        await session.flush()
        # There is an order if and only if there is a saga for it: one commit.
        order = Order(order_id=row.id, total=total)
        handle = await orchestrator.start("order", order, key=f"order-{row.id}", connection=session)
        if total <= 0:
            raise HTTPException(422, "an order of nothing")
        return {"order_id": row.id, "saga_id": str(handle.id)}

    @app.get("/sagas/{saga_id}")
    async def look(saga_id: str) -> dict[str, Any]:
        state = await orchestrator.wait(UUID(saga_id), timeout=30)
        return {"status": state.status, "paid": state.context.paid}

    return app


async def main() -> None:
    with database() as url, socket.socket() as listener:
        listener.bind(("127.0.0.1", int(os.environ.get("PORT", "0"))))
        listener.listen()
        app = create_app(url, worker=os.environ.get("WORKER", "1") == "1")
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        await server.serve([listener])


if __name__ == "__main__":
    asyncio.run(main())

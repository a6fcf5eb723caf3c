"""A saga over two services, which apply each request once, however often it comes.

    EVENTSAGA_DATABASE_URL=postgresql://… python -m examples.two_services

It starts both services as processes, kills one while it is being asked, starts it again, and
prints what each has done in the end.
"""

import asyncio
import os
import socket
import sys
from asyncio.subprocess import PIPE, Process

import uvicorn
from pydantic import BaseModel
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from eventsaga import Orchestrator, Retry, Saga, Step, StepContext
from eventsaga.participant import IdempotencyMiddleware, barrier, create_tables, current
from examples.database import database


class Trip(BaseModel):
    """What is booked, and where."""

    flight_url: str
    hotel_url: str


async def book_flight(trip: Trip, step: StepContext) -> None:
    (await step.http.post(f"{trip.flight_url}/bookings")).raise_for_status()


async def cancel_flight(trip: Trip, step: StepContext) -> None:
    (await step.http.post(f"{trip.flight_url}/cancellations")).raise_for_status()


async def book_hotel(trip: Trip, step: StepContext) -> None:
    (await step.http.post(f"{trip.hotel_url}/bookings")).raise_for_status()


PATIENT = Retry(max_attempts=20, delay=0.1, max_delay=0.5)
trip_saga = Saga(
    "trip",
    context=Trip,
    steps=[
        Step("book_flight", book_flight, compensate=cancel_flight, retry=PATIENT),
        Step("book_hotel", book_hotel, retry=PATIENT),
    ],
)


# -- a service ----------------------------------------------------------------------------


def service(engine: AsyncEngine, name: str) -> IdempotencyMiddleware:
    """Return a service that books, and cancels, each key once."""

    async def change(number: int) -> JSONResponse:
        mine = current()
        # The second one that is asked dies once, with its work half done.
        if name == "hotel" and number > 0 and os.environ.get("DIE") == "1":
            os._exit(1)
        async with barrier(mine.session, mine.key) as gate:
            if gate.act:
                await mine.session.execute(
                    text("INSERT INTO bookings (service, number) VALUES (:service, :number)"),
                    {"service": name, "number": number},
                )
        return JSONResponse({"booked": gate.act}, status_code=201)

    async def book(_request: Request) -> JSONResponse:
        return await change(1)

    async def cancel(_request: Request) -> JSONResponse:
        return await change(-1)

    routes = [
        Route("/bookings", book, methods=["POST"]),
        Route("/cancellations", cancel, methods=["POST"]),
    ]
    return IdempotencyMiddleware(Starlette(routes=routes), engine)


def _engine(url: str) -> AsyncEngine:
    return create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"))


async def serve(name: str, port: int) -> None:
    """Run one service until the process is stopped."""
    engine = _engine(os.environ["EVENTSAGA_DATABASE_URL"])
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        print(listener.getsockname()[1], flush=True)
        app = service(engine, name)
        await uvicorn.Server(uvicorn.Config(app, log_level="error")).serve([listener])


# -- all of it ----------------------------------------------------------------------------


async def _start(url: str, name: str, port: int = 0, **variables: str) -> tuple[Process, int]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "examples.two_services",
        name,
        str(port),
        env={**os.environ, "EVENTSAGA_DATABASE_URL": url, **variables},
        stdout=PIPE,
    )
    assert process.stdout is not None
    return process, int(await process.stdout.readline())


async def main() -> None:
    with database() as url:
        engine = _engine(url)
        await create_tables(engine)
        async with engine.begin() as connection:
            await connection.execute(
                text("CREATE TABLE IF NOT EXISTS bookings (service text, number int)")
            )
        flight, flight_port = await _start(url, "flight")
        hotel, hotel_port = await _start(url, "hotel", DIE="1")
        trip = Trip(
            flight_url=f"http://127.0.0.1:{flight_port}",
            hotel_url=f"http://127.0.0.1:{hotel_port}",
        )
        async with Orchestrator(url, sagas=[trip_saga]) as orchestrator:
            handle = await orchestrator.start("trip", trip)
            print(f"the hotel died with exit code {await hotel.wait()}")
            hotel, _ = await _start(url, "hotel", hotel_port)
            print((await handle.result(timeout=60)).status)
        async with engine.connect() as connection:
            rows = await connection.execute(
                text("SELECT service, sum(number) FROM bookings GROUP BY service ORDER BY service")
            )
            for name, number in rows:
                print(f"{name}: {number}")
        for process in (flight, hotel):
            process.terminate()
            await process.wait()
        await engine.dispose()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2])) if len(sys.argv) > 1 else main())

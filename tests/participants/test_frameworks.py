"""Does it work in Starlette, inside and outside, and behind a real server?"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from eventsaga.participant import (
    IdempotencyMiddleware,
    TooLateError,
    current,
)
from tests.participants.answers import problem
from tests.participants.world import World, ask, write


class _Passing(BaseHTTPMiddleware):
    """Runs the application in another task, as many middlewares do."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)


def _starlette(world: World, where: str, *routes: Route) -> Any:
    middleware = [Middleware(_Passing)]
    if where == "inside":
        middleware.insert(0, Middleware(IdempotencyMiddleware, database=world.engine))
        return Starlette(routes=routes, middleware=middleware)
    return IdempotencyMiddleware(Starlette(routes=routes, middleware=middleware), world.engine)


both_ways = pytest.mark.parametrize("where", ["inside", "outside"])


@both_ways
async def test_an_endpoint_takes_part_and_its_background_task_finds_it_committed(
    world: World, where: str
) -> None:
    seen: list[list[str]] = []

    async def later() -> None:
        seen.append(await world.ledger())

    async def charge(request: Request) -> Response:
        number = await write(current().session, (await request.json())["what"])
        return JSONResponse({"id": number}, 201, background=BackgroundTask(later))

    app = _starlette(world, where, Route("/charges", charge, methods=["POST"]))

    replies = [await ask(app, json={"what": "coffee"}, raises=True) for _ in range(2)]

    assert [reply.json() for reply in replies] == [{"id": 1}] * 2
    assert replies[0].headers.items() <= replies[1].headers.items()
    assert (await world.ledger(), seen) == (["coffee"], [["coffee"]])


@both_ways
async def test_a_background_task_does_not_run_for_what_was_not_committed(
    world: World, where: str
) -> None:
    ran: list[bool] = []

    async def charge(_request: Request) -> Response:
        await world.sql.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
        )
        return JSONResponse({}, 201, background=BackgroundTask(ran.append, True))  # noqa: FBT003

    app = _starlette(world, where, Route("/charges", charge, methods=["POST"]))

    assert problem(await ask(app)) == (503, "not_done", "1")
    assert ran == []


@both_ways
async def test_streams_and_files_are_stored_whole(world: World, where: str, tmp_path: Any) -> None:
    page = tmp_path / "page.txt"
    page.write_text("paper" * 20_000)

    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b"a", b"", b"bc"):
            yield piece

    async def stream(_request: Request) -> Response:
        return StreamingResponse(pieces())

    async def file(_request: Request) -> Response:
        return FileResponse(page)

    app = _starlette(
        world,
        where,
        Route("/stream", stream, methods=["POST"]),
        Route("/file", file, methods=["POST"]),
    )

    streams = [await ask(app, "s", path="/stream", raises=True) for _ in range(2)]
    files = [await ask(app, "f", path="/file", raises=True) for _ in range(2)]

    assert [reply.content for reply in streams] == [b"abc"] * 2
    assert [reply.text for reply in files] == [page.read_text()] * 2


@both_ways
async def test_errors_of_an_endpoint_roll_back(world: World, where: str) -> None:
    async def broken(_request: Request) -> Response:
        await write(current().session)
        raise ZeroDivisionError

    async def late(_request: Request) -> Response:
        raise TooLateError("order-1", "charge")

    app = _starlette(
        world,
        where,
        Route("/broken", broken, methods=["POST"]),
        Route("/late", late, methods=["POST"]),
    )

    assert (await ask(app, path="/broken")).status_code == 500
    with pytest.raises(ZeroDivisionError):
        await ask(app, path="/broken", raises=True)
    assert problem(await ask(app, path="/late", raises=True)) == (410, "too_late", None)
    assert (await world.ledger(), await world.keys()) == ([], [])


async def test_behind_a_real_server_a_cut_client_comes_again(world: World) -> None:
    """The client leaves while the request is applied, and finds the reply with its key."""
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def charge(_request: Request) -> Response:
        number = await write(current().session)
        arrived.set()
        await go_on.wait()
        return JSONResponse({"id": number}, 201)

    inner = Starlette(routes=[Route("/charges", charge, methods=["POST"])])
    app: Any = IdempotencyMiddleware(inner, world.engine)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", lifespan="off"))
    listening = server.config.bind_socket()
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}/charges"
    key = {"Idempotency-Key": "k-1"}
    async with httpx.AsyncClient() as client:
        asking = asyncio.create_task(client.post(url, headers=key))
        await arrived.wait()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        running = await client.post(url, headers=key)
        go_on.set()
        reply = running
        while reply.status_code == 409:
            reply = await client.post(url, headers=key)
    server.should_exit = True
    await serving

    assert problem(running) == (409, "still_running", "1")
    assert (reply.json(), await world.ledger()) == ({"id": 1}, ["charge"])

"""The other side: an HTTP service with a ledger of its own, which can strike at any request.

It runs in the test's process and believes nobody: what it applied, and under which key, is
held against what the database says afterwards.
"""

import asyncio
import json
import os
import signal
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


@dataclass(frozen=True)
class Call:
    """One request, as it arrived."""

    operation: str
    step: str
    number: int
    key: str
    worker_pid: int


Hook = Callable[[Call], Awaitable[None]]


async def _nothing(_call: Call) -> None:
    return None


@dataclass
class Participant:
    """What was applied, and what is to happen around it.

    Attributes:
        applied: Keys under which (operation, step, saga number) took effect.
        calls: Every request, repeated ones too.
        declined: (step, saga number) that are refused for good.
        before: Called before a request is applied.
        after: Called after it was applied and before it is answered.
    """

    url: str = ""
    applied: dict[tuple[str, str, int], list[str]] = field(
        default_factory=lambda: defaultdict(list)
    )
    calls: list[Call] = field(default_factory=list[Call])
    declined: set[tuple[str, int]] = field(default_factory=set[tuple[str, int]])
    before: Hook = _nothing
    after: Hook = _nothing

    async def answer(self, request: Request) -> Response:
        """Apply a request once per key; one that asks is told what was done."""
        path = request.path_params
        call = Call(
            operation=path["operation"],
            step=path["step"],
            number=int(path["number"]),
            key=request.headers["idempotency-key"],
            worker_pid=int(request.headers["x-worker-pid"]),
        )
        self.calls.append(call)
        await self.before(call)
        if call.operation == "do" and (call.step, call.number) in self.declined:
            return JSONResponse({"detail": "declined"}, status_code=402)
        if call.operation == "ask":
            done = bool(self.applied.get(("do", call.step, call.number)))
            return JSONResponse({"done": done})
        target = (call.operation, call.step, call.number)
        if call.key not in self.applied[target]:
            self.applied[target].append(call.key)
        await self.after(call)
        return JSONResponse({"id": call.key})


def kill(pid: int) -> None:
    """Kill a process so that it cannot say a word; one that is dead already stays dead."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


@asynccontextmanager
async def running() -> AsyncGenerator[Participant]:
    """Serve a participant on a free port of 127.0.0.1."""
    participant = Participant()
    route = Route("/{operation}/{step}/{number:int}", participant.answer, methods=["POST"])
    config = uvicorn.Config(
        Starlette(routes=[route]), host="127.0.0.1", port=0, log_level="critical", lifespan="off"
    )
    server = _Announcing(config)
    serving = asyncio.create_task(server.serve())
    await server.ready.wait()
    host, port = server.servers[0].sockets[0].getsockname()
    participant.url = f"http://{host}:{port}"
    try:
        yield participant
    finally:
        server.force_exit = True
        server.should_exit = True
        await serving


class _Announcing(uvicorn.Server):
    """Says when it listens, so that nobody has to look."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, *args: object, **kwargs: object) -> None:
        await super().startup(*args, **kwargs)  # type: ignore[arg-type]
        self.ready.set()

    def install_signal_handlers(self) -> None:
        """Leave the test runner's handlers alone."""


def dump(participant: Participant) -> str:
    """Return the ledger as text, for a message of a failed test."""
    return json.dumps({"/".join(map(str, key)): keys for key, keys in participant.applied.items()})

"""Do a saga and a participant make one effect of it, when replies and commits get lost?"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from pydantic import BaseModel

from eventsaga import Orchestrator, Retry, Saga, Status, Step, StepContext
from eventsaga.participant import barrier, current
from eventsaga.participant.asgi import App, Reply, Scope
from tests.participants.world import World, told, write
from tests.proxy import Loss, Proxy


class Order(BaseModel):
    """What the saga is about."""

    url: str


@asynccontextmanager
async def listening(app: App) -> AsyncGenerator[str]:
    """Serve *app* on a free port."""
    served: Any = app
    server = uvicorn.Server(uvicorn.Config(served, port=0, log_level="critical", lifespan="off"))
    socket = server.config.bind_socket()
    serving = asyncio.create_task(server.serve(sockets=[socket]))
    yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    server.should_exit = True
    await serving


async def _handle(scope: Scope, _body: bytes) -> Reply:
    participation = current()
    async with barrier(participation.session, participation.key) as gate:
        if gate.act:
            await write(participation.session, scope["path"])
    return told(200, gate.turn)


async def _charge(order: Order, step: StepContext) -> None:
    (await step.http.post(f"{order.url}/charge", json={})).raise_for_status()


async def _refund(order: Order, step: StepContext) -> None:
    (await step.http.post(f"{order.url}/refund", json={})).raise_for_status()


def _saga(*, attempts: int) -> Saga[Order]:
    return Saga(
        "order",
        context=Order,
        steps=[
            Step(
                "charge",
                _charge,
                compensate=_refund,
                retry=Retry(max_attempts=attempts, delay=0.01),
                compensate_retry=Retry(max_attempts=10, delay=0.01),
            )
        ],
    )


@pytest.mark.parametrize(
    ("loss", "attempts", "status", "ledger"),
    [
        (Loss.ANSWER, 3, Status.COMPLETED, ["/charge"]),
        (Loss.REQUEST, 3, Status.COMPLETED, ["/charge"]),
        # With no attempt left it is undone: what was done, and what was not.
        (Loss.ANSWER, 1, Status.COMPENSATED, ["/charge", "/refund"]),
        (Loss.REQUEST, 1, Status.COMPENSATED, []),
    ],
)
async def test_a_lost_commit_of_a_participant_costs_nobody_anything(
    world: World, loss: Loss, attempts: int, status: Status, ledger: list[str]
) -> None:
    async with Proxy(world.url) as proxy:
        app = world.serve(_handle, database=proxy.url)
        proxy.arm(loss, "COMMIT")
        async with (
            listening(app) as url,
            Orchestrator(world.url, sagas=[_saga(attempts=attempts)]) as orchestrator,
        ):
            handle = await orchestrator.start("order", Order(url=url))
            state = await handle.result(timeout=30)
        await app.engine.dispose()

    assert state.status is status
    assert await world.ledger() == ledger

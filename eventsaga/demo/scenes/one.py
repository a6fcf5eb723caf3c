"""How is one order played? Started by its key, waited for, and shown."""

from typing import Final
from uuid import UUID

from eventsaga.demo.order import Order
from eventsaga.demo.report import Scene
from eventsaga.demo.stage import Stage

PATIENCE_SECONDS: Final = 45.0
"""Longer than anything here takes: who waits for so long has found a bug, and is told."""


async def settle_one(stage: Stage, scene: Scene, order: Order) -> UUID:
    """Run the saga of *order* to its end, show its timeline and return its id.

    Raises:
        TimeoutError: If it does not come to an end.
    """
    handle = await stage.orchestrator.start("order", order, key=order.order_id)
    scene.sagas.append(handle.id)
    scene.say(f"order {order.order_id}, saga {handle.id}")
    with stage.console.status("waiting for the order…"):
        await handle.result(timeout=PATIENCE_SECONDS)
    scene.show(await handle.history())
    return handle.id

"""Scene 1: an order goes through."""

from eventsaga.core.state import Status
from eventsaga.demo.checks import check_completed, check_statuses
from eventsaga.demo.report import Scene
from eventsaga.demo.scenes.one import settle_one
from eventsaga.demo.stage import Stage


async def complete_an_order(stage: Stage, scene: Scene) -> None:
    """Start an order, and find each of its effects in the ledgers."""
    order = stage.order("completes")
    saga_id = await settle_one(stage, scene, order)
    scene.check(
        await check_statuses(stage.db, [saga_id], Status.COMPLETED),
        *await check_completed(stage.db, [order]),
    )

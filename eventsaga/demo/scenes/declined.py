"""Scene 2: the card is declined, and what was done for the order is undone."""

from eventsaga.core.state import Status
from eventsaga.demo.checks import (
    check_net_zero,
    check_nothing_twice,
    check_reverse_order,
    check_statuses,
)
from eventsaga.demo.report import Scene
from eventsaga.demo.scenes.one import settle_one
from eventsaga.demo.stage import Stage


async def decline_a_card(stage: Stage, scene: Scene) -> None:
    """Pay with a card that is declined, and find nothing left of the order."""
    order = stage.order("declined", token="tok_declined")  # noqa: S106 - a test card
    saga_id = await settle_one(stage, scene, order)
    scene.check(
        await check_statuses(stage.db, [saga_id], Status.COMPENSATED),
        check_reverse_order(await stage.orchestrator.history(saga_id)),
        await check_net_zero(stage.db, order.order_id),
        await check_nothing_twice(stage.db, [order.order_id]),
    )

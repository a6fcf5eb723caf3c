"""Scene 3: the charge goes through, its answer never comes."""

from eventsaga.core.state import Status
from eventsaga.demo.checks import check_completed, check_doubt_resolved, check_statuses
from eventsaga.demo.order import PAYMENT_TIMEOUT
from eventsaga.demo.report import Scene
from eventsaga.demo.scenes.one import settle_one
from eventsaga.demo.stage import Stage


async def lose_a_reply(stage: Stage, scene: Scene) -> None:
    """Pay with a card whose first answer is lost, and find it charged once."""
    scene.say(f"A payment may take {PAYMENT_TIMEOUT:g} s; then it is in doubt, not failed.")
    order = stage.order("in-doubt", token="tok_lost_reply")  # noqa: S106 - a test card
    saga_id = await settle_one(stage, scene, order)
    history = await stage.orchestrator.history(saga_id)
    scene.check(
        await check_statuses(stage.db, [saga_id], Status.COMPLETED),
        *await check_doubt_resolved(stage.db, history, order),
        *await check_completed(stage.db, [order]),
    )

"""Undoing what was done, what was never done, and what nobody knows of."""

import asyncio

import httpx
import pytest

from tests.acceptance.services.world import (
    INVENTORY,
    PAYMENTS,
    SHIPPING,
    Forward,
    World,
    each_service,
)

pytestmark = pytest.mark.asyncio(loop_scope="package")


@each_service
async def test_undoing_what_was_never_done_is_harmless_and_closes_the_door(
    world: World, order_id: str, forward: Forward
) -> None:
    """The request may still be under way; it must not take effect after it was undone."""
    undone = await world.undo_order(forward, order_id)
    late = await world.do(forward, order_id)

    assert (undone.status_code, undone.json()["status"][:10]) == (200, "nothing_to")
    assert (late.status_code, late.json()["error"]) == (410, "order_closed")
    assert await world.effects(forward, order_id) == []


@each_service
async def test_what_was_done_without_a_reply_is_undone_by_the_order_id(
    world: World, order_id: str, forward: Forward
) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        await world.do(forward, order_id, "cut_reply")
    undone = await world.undo_order(forward, order_id)
    again = await world.undo_order(forward, order_id, key=f"{order_id}/undo again")

    assert (undone.status_code, again.status_code) == (200, 200)
    assert len(await world.effects(forward, order_id)) == 2
    net = await world.db.fetchrow(
        f"SELECT sum(amount) AS amount, sum(quantity) AS quantity"  # noqa: S608
        f" FROM demo_{forward.service}.ledger WHERE order_id = $1",
        order_id,
    )
    assert net is not None
    assert (int(net["amount"]), net["quantity"]) == (0, 0)


@each_service
async def test_undoing_waits_for_what_is_being_done(
    world: World, order_id: str, forward: Forward
) -> None:
    async with world.barrier(forward):
        doing = asyncio.create_task(world.do(forward, order_id))
        await world.wait_at_barrier(forward)
        undoing = asyncio.create_task(world.undo_order(forward, order_id))
        await world.until(
            "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            " AND query LIKE '%participant_barriers%' AND application_name = $1",
            f"eventsaga-demo_{forward.service}",
        )
    assert (await doing).status_code == 201
    assert (await undoing).status_code == 200
    assert len(await world.effects(forward, order_id)) == 2


@pytest.mark.parametrize("forward", [INVENTORY, PAYMENTS, SHIPPING], ids=lambda f: f.service)
async def test_undoing_by_an_id_that_was_never_given_out_is_not_found(
    world: World, order_id: str, forward: Forward
) -> None:
    assert (await world.undo(forward, order_id)).status_code == 404

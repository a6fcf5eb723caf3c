"""Every way in which a service can be told to go wrong."""

import asyncio
from uuid import uuid4

import httpx
import pytest

from tests.acceptance.services.world import (
    INVENTORY,
    ORDERS,
    PATIENCE,
    PAYMENTS,
    SHIPPING,
    Forward,
    World,
    each_service,
)

pytestmark = pytest.mark.asyncio(loop_scope="package")


@pytest.mark.parametrize(
    ("forward", "magic", "answer"),
    [
        (ORDERS, "blocked", (422, "customer_blocked")),
        (INVENTORY, "out_of_stock", (422, "out_of_stock")),
        (PAYMENTS, "declined", (402, "card_declined")),
        (SHIPPING, "undeliverable", (422, "undeliverable")),
    ],
    ids=lambda value: getattr(value, "service", None),
)
async def test_a_refusal_has_no_effect_and_is_definite(
    world: World, order_id: str, forward: Forward, magic: str, answer: tuple[int, str]
) -> None:
    first = await world.do(forward, order_id, magic)
    again = await world.do(forward, order_id, magic)
    assert (first.status_code, first.json()["error"]) == answer
    assert again.content == first.content
    assert await world.effects(forward, order_id) == []


@each_service
async def test_a_lost_reply_never_comes_but_a_retry_gets_it(
    world: World, order_id: str, forward: Forward
) -> None:
    waiting = asyncio.create_task(world.do(forward, order_id, "lost_reply"))
    await world.until(
        f"SELECT count(*) FROM demo_{forward.service}.ledger WHERE order_id = $1",  # noqa: S608
        order_id,
    )
    # The effect is committed, and so is the stored reply; the first request still waits.
    retried = await world.do(forward, order_id, "lost_reply")
    assert not waiting.done()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    assert retried.status_code == 201
    assert retried.headers["Idempotent-Replayed"] == "true"
    assert len(await world.effects(forward, order_id)) == 1


async def test_a_client_with_a_timeout_gives_up_on_a_lost_reply(
    world: World, order_id: str
) -> None:
    async with httpx.AsyncClient(timeout=0.2) as impatient:
        world_of_impatience = World(world.url, world.services, impatient, world.db)
        with pytest.raises(httpx.ReadTimeout):
            await world_of_impatience.do(PAYMENTS, order_id, "lost_reply")
    assert (await world.do(PAYMENTS, order_id, "lost_reply")).status_code == 201
    assert await world.effects(PAYMENTS, order_id) == ["charge"]


@each_service
async def test_a_slow_request_is_applied_once_though_its_client_gave_up(
    world: World, order_id: str, forward: Forward
) -> None:
    first = asyncio.create_task(world.do(forward, order_id, "slow"))
    await world.until("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
    first.cancel()
    async with asyncio.timeout(PATIENCE):
        while (retried := await world.do(forward, order_id, "slow")).status_code == 409:
            pass
    assert retried.status_code == 201
    assert len(await world.effects(forward, order_id)) == 1


@each_service
async def test_a_flaky_service_fails_twice_and_then_does_it(
    world: World, order_id: str, forward: Forward
) -> None:
    replies = [await world.do(forward, order_id, "flaky") for _ in range(4)]
    assert [reply.status_code for reply in replies] == [503, 503, 201, 201]
    assert replies[0].headers["Retry-After"] == "0"
    assert len(await world.effects(forward, order_id)) == 1


@each_service
async def test_a_refused_undo_can_be_mended_and_tried_with_the_same_key(
    world: World, order_id: str, forward: Forward
) -> None:
    thing_id = (await world.do(forward, order_id, "undo_refused")).json()[forward.id_field]
    key = f"{uuid4()}/do/compensate"  # such a key tells that it is an undo
    refused = await world.undo(forward, thing_id, key)
    assert (refused.status_code, refused.json()) == (422, {"error": "undo_refused"})

    column = {"orders": "customer_id", "inventory": "magic", "payments": "token"}
    table = {"orders": "orders", "inventory": "reservations", "payments": "payments"}
    await world.db.execute(
        f"UPDATE demo_{forward.service}.{table.get(forward.service, 'shipments')}"  # noqa: S608
        f" SET {column.get(forward.service, 'zip_code')} = 'mended' WHERE order_id = $1",
        order_id,
    )
    assert (await world.undo(forward, thing_id, key)).status_code == 200
    assert len(await world.effects(forward, order_id)) == 2


@each_service
async def test_the_reply_of_an_undo_gets_lost_as_well(
    world: World, order_id: str, forward: Forward
) -> None:
    thing_id = (await world.do(forward, order_id, "undo_lost_reply")).json()[forward.id_field]
    waiting = asyncio.create_task(world.undo(forward, thing_id))
    await world.until(
        f"SELECT count(*) = 2 FROM demo_{forward.service}.ledger WHERE order_id = $1",  # noqa: S608
        order_id,
    )
    assert (await world.undo(forward, thing_id)).status_code == 200
    assert not waiting.done()
    waiting.cancel()
    assert len(await world.effects(forward, order_id)) == 2

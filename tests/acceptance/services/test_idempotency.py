"""One key, one effect: replays, conflicts and races, with a barrier in the database."""

import asyncio

import httpx
import pytest

from eventsaga.demo.services import (
    EFFECTS_APPLIED_TWICE,
    NET_BY_ORDER,
    running_services,
)
from tests.acceptance.services.world import (
    ALL,
    INVENTORY,
    ORDERS,
    PATIENCE,
    PAYMENTS,
    Forward,
    World,
    each_service,
)

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def test_an_order_goes_through_all_services_and_can_be_undone_to_net_zero(
    world: World, order_id: str
) -> None:
    ids: dict[str, str] = {}
    for forward in ALL:
        reply = await world.do(forward, order_id)
        assert reply.status_code == 201
        ids[forward.service] = reply.json()[forward.id_field]
    key = f"{order_id}/confirm"
    confirmations = [
        await world.send(
            "orders", "PATCH", f"/orders/{order_id}", {"status": "confirmed"}, Idempotency_Key=key
        ),
        # The same key as for the other service: each counts its own.
        await world.send(
            "inventory",
            "POST",
            f"/reservations/{ids['inventory']}/confirm",
            Idempotency_Key=key,
        ),
    ]
    assert [reply.json()["status"] for reply in confirmations] == ["confirmed", "confirmed"]
    order = await world.http.get(f"{world.services.orders.url}/orders/{order_id}")
    assert (order.json()["status"], order.json()["total_amount"]) == ("confirmed", 59.98)

    for forward in reversed(ALL):
        assert (await world.undo(forward, ids[forward.service])).status_code == 200

    rows = await world.db.fetch(NET_BY_ORDER)
    net = next(row for row in rows if row["order_id"] == order_id)
    assert [int(net[column]) for column in net.keys() if column != "order_id"] == [0, 0, 0, 0]  # noqa: SIM118
    assert await world.effects(ORDERS, order_id) == ["create", "confirm", "cancel"]
    assert await world.effects(INVENTORY, order_id) == ["reserve", "confirm", "release"]


async def test_no_effect_was_ever_applied_twice(world: World, order_id: str) -> None:
    """The audit finds a double charge, so its silence means something."""
    await world.do(PAYMENTS, order_id, key=f"{order_id}/1")
    assert order_id not in [row["order_id"] for row in await world.db.fetch(EFFECTS_APPLIED_TWICE)]
    await world.do(PAYMENTS, order_id, key=f"{order_id}/2")
    doubled = await world.db.fetch(EFFECTS_APPLIED_TWICE)
    assert [tuple(row) for row in doubled] == [("payments", order_id, "charge", 2)]
    await world.db.execute("DELETE FROM demo_payments.ledger WHERE order_id = $1", order_id)


@each_service
async def test_the_same_key_gets_the_stored_reply_and_no_second_effect(
    world: World, order_id: str, forward: Forward
) -> None:
    first = await world.do(forward, order_id)
    again = await world.do(forward, order_id)

    assert (first.status_code, again.status_code) == (201, 201)
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.content == first.content
    assert len(await world.effects(forward, order_id)) == 1


@each_service
async def test_the_undo_is_idempotent_by_key_and_by_what_is_left_to_undo(
    world: World, order_id: str, forward: Forward
) -> None:
    thing_id = (await world.do(forward, order_id)).json()[forward.id_field]
    first = await world.undo(forward, thing_id)
    again = await world.undo(forward, thing_id)
    other = await world.undo(forward, thing_id, key=f"{order_id}/another")

    assert [first.status_code, again.status_code, other.status_code] == [200, 200, 200]
    assert again.content == first.content
    assert again.headers["Idempotent-Replayed"] == "true"
    assert len(await world.effects(forward, order_id)) == 2


async def test_the_same_key_with_another_body_or_path_is_refused(
    world: World, order_id: str
) -> None:
    key = f"{order_id}/do"
    transaction_id = (await world.do(PAYMENTS, order_id)).json()["transaction_id"]

    other_body = await world.do(PAYMENTS, f"{order_id}-2", key=key)
    other_path = await world.undo(PAYMENTS, transaction_id, key=key)

    for reply in (other_body, other_path):
        assert (reply.status_code, reply.json()["code"]) == (422, "key_reused")
    assert await world.effects(PAYMENTS, order_id) == ["charge"]
    assert await world.effects(PAYMENTS, f"{order_id}-2") == []


@each_service
async def test_a_key_that_is_being_worked_on_gets_409_until_it_is_done(
    world: World, order_id: str, forward: Forward
) -> None:
    async with world.barrier(forward):
        first = asyncio.create_task(world.do(forward, order_id))
        await world.wait_at_barrier(forward)
        meanwhile = await world.do(forward, order_id)
    done = await first
    afterwards = await world.do(forward, order_id)

    assert (meanwhile.status_code, meanwhile.json()["code"]) == (409, "still_running")
    assert done.status_code == 201
    assert afterwards.content == done.content


async def test_of_many_requests_with_one_key_at_once_one_is_applied(
    world: World, order_id: str
) -> None:
    async with world.barrier(PAYMENTS):
        racing = [asyncio.create_task(world.do(PAYMENTS, order_id)) for _ in range(20)]
        await world.wait_at_barrier(PAYMENTS)
        # All but the one in the transaction have their answer before it commits.
        done, pending = set[asyncio.Task[httpx.Response]](), set(racing)
        async with asyncio.timeout(PATIENCE):
            while len(pending) > 1:
                finished, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                done |= finished
    statuses = sorted([(await task).status_code for task in racing])

    assert statuses == [201] + [409] * 19
    assert await world.effects(PAYMENTS, order_id) == ["charge"]


async def test_two_processes_of_a_service_share_its_keys(world: World, order_id: str) -> None:
    async with running_services(world.url) as others:
        there = World(world.url, others, world.http, world.db)
        async with world.barrier(PAYMENTS):
            first = asyncio.create_task(world.do(PAYMENTS, order_id))
            await world.wait_at_barrier(PAYMENTS)
            assert (await there.do(PAYMENTS, order_id)).status_code == 409
        # Asked before the first has its answer, the other would say 409 again.
        answer = await first
        assert (await there.do(PAYMENTS, order_id)).content == answer.content


async def test_a_key_is_needed_and_may_not_be_endless(world: World, order_id: str) -> None:
    missing = await world.send("payments", "POST", "/payments", PAYMENTS.body(order_id))
    endless = await world.do(PAYMENTS, order_id, key="k" * 256)
    assert (missing.status_code, missing.json()["code"]) == (400, "bad_key")
    assert (endless.status_code, endless.json()["code"]) == (400, "bad_key")
    assert await world.effects(PAYMENTS, order_id) == []


async def test_the_correlation_id_comes_back_and_stands_in_the_ledger(
    world: World, order_id: str
) -> None:
    reply = await world.send(
        "payments",
        "POST",
        "/payments",
        PAYMENTS.body(order_id),
        Idempotency_Key=f"{order_id}/do",
        X_Correlation_ID="corr-1",
    )
    assert reply.headers["X-Correlation-ID"] == "corr-1"
    ledger = await world.http.get(f"{world.services.payments.url}/ledger?order_id={order_id}")
    (effect,) = ledger.json()
    assert (effect["correlation_id"], effect["idempotency_key"], effect["amount"]) == (
        "corr-1",
        f"{order_id}/do",
        59.98,
    )

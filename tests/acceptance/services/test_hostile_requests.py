"""Bad requests and a broken database: an answer, and no effect."""

import asyncio
import json

import pytest

from tests.acceptance.services.world import (
    ORDERS,
    PAYMENTS,
    World,
)

pytestmark = pytest.mark.asyncio(loop_scope="package")

HOSTILE = {
    "nothing": b"",
    "not JSON": b"{",
    "a list": b"[]",
    "a number": b"1e400",
    "not UTF-8": b'{"order_id": "\xff"}',
    "a lone surrogate": b'{"order_id": "\\ud800"}',
    "nested too deep": b'{"a":' * 1000 + b"1" + b"}" * 1000,
    "a NUL": json.dumps(PAYMENTS.body("a\0b")).encode(),
    "NaN": json.dumps({**PAYMENTS.body("o"), "amount": float("nan")}).encode(),
    "infinity": json.dumps({**PAYMENTS.body("o"), "amount": float("inf")}).encode(),
    "a negative amount": json.dumps({**PAYMENTS.body("o"), "amount": -1}).encode(),
    "a fraction of a cent": json.dumps({**PAYMENTS.body("o"), "amount": "0.001"}).encode(),
    "an amount beyond all money": json.dumps({**PAYMENTS.body("o"), "amount": 1e30}).encode(),
    "an endless id": json.dumps(PAYMENTS.body("o" * 1000)).encode(),
    "no token": json.dumps({**PAYMENTS.body("o"), "payment_method": {}}).encode(),
    "null": json.dumps({**PAYMENTS.body("o"), "customer_id": None}).encode(),
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
async def test_a_bad_body_is_answered_with_422_and_has_no_effect(
    world: World, order_id: str, body: bytes
) -> None:
    reply = await world.http.post(
        world.services.payments.url + "/payments",
        content=body,
        headers={"Idempotency-Key": order_id},
    )
    assert (reply.status_code, reply.json()["error"][:7]) == (422, "invalid")
    assert not await world.db.fetchval(
        "SELECT count(*) FROM demo_payments.ledger WHERE idempotency_key = $1", order_id
    )


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/payments/%00/refund", 422),
        ("POST", "/payments/%ff/refund", 404),
        ("GET", "/payments/%00", 422),
        ("GET", "/payments/unknown", 404),
        ("GET", "/payments", 422),
        ("GET", "/nowhere", 404),
        ("PUT", "/payments", 405),
        ("GET", "/health", 200),
        ("GET", "/payments?order_id=unknown", 200),
    ],
)
async def test_an_odd_path_is_answered_in_json(
    world: World, order_id: str, method: str, path: str, status: int
) -> None:
    reply = await world.send("payments", method, path, Idempotency_Key=order_id)
    assert reply.status_code == status
    assert reply.json() is not None


async def test_a_body_that_is_too_large_is_not_read_to_its_end(world: World, order_id: str) -> None:
    body = {**PAYMENTS.body(order_id), "padding": "x" * 2_000_000}
    reply = await world.send("payments", "POST", "/payments", body, Idempotency_Key=order_id)
    assert (reply.status_code, reply.json()["code"]) == (413, "too_large")


async def test_an_order_number_is_taken_once(world: World, order_id: str) -> None:
    await world.do(ORDERS, order_id)
    again = await world.do(ORDERS, order_id, key=f"{order_id}/another")
    assert (again.status_code, again.json()["error"]) == (422, "order_exists")


async def test_a_database_connection_that_breaks_leaves_no_effect_and_can_be_retried(
    world: World, order_id: str
) -> None:
    async with world.barrier(PAYMENTS):
        doing = asyncio.create_task(world.do(PAYMENTS, order_id))
        await world.wait_at_barrier(PAYMENTS)
        await world.db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'eventsaga-demo_payments'"
        )
        broken = await doing
    assert (broken.status_code, broken.headers["Retry-After"]) == (503, "1")
    assert await world.effects(PAYMENTS, order_id) == []
    assert (await world.do(PAYMENTS, order_id)).status_code == 201

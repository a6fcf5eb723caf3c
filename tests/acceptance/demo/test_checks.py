"""A check that cannot fail proves nothing: each is run on what really happened, and on a lie."""

import json
from dataclasses import replace
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from eventsaga.core.events import StepStarted
from eventsaga.demo import checks
from eventsaga.demo.auditing import QUESTIONS
from eventsaga.demo.order import Order
from eventsaga.settings import Settings
from eventsaga.store.ports import StoredEvent
from eventsaga.store.postgres.store import PostgresStore
from tests.acceptance.demo.process import Json, scene

TAMPERED = {
    "a second charge": (
        """
        INSERT INTO demo_payments.ledger (idempotency_key, operation, order_id, amount, quantity)
        SELECT idempotency_key, operation, order_id, amount, quantity FROM demo_payments.ledger
        WHERE order_id = $1 || '-in-doubt'
        """,
        {"twice", "each", "charged", "ask 0", "ask 1", "ask 2"},
    ),
    "a shipment that was never booked": (
        "DELETE FROM demo_shipping.ledger WHERE order_id = $1 || '-bulk-07'",
        {"each", "ask 1"},
    ),
    "another amount": (
        "UPDATE demo_payments.ledger SET amount = amount + 0.01 WHERE order_id = $1 || '-in-doubt'",
        {"charged", "ask 1"},
    ),
    "an effect nobody asked for": (
        """
        INSERT INTO demo_shipping.ledger (idempotency_key, operation, order_id, amount, quantity)
        VALUES ('?', 'gift', $1 || '-bulk-01', 0, 0)
        """,
        {"each"},
    ),
    "a release that never was": (
        """
        DELETE FROM demo_inventory.ledger
        WHERE order_id = $1 || '-declined' AND operation = 'release'
        """,
        {"zero", "ask 1"},
    ),
    "a saga that says it went back": (
        """
        UPDATE eventsaga.sagas SET status = 'COMPENSATED'
        WHERE context->>'order_id' = $1 || '-bulk-11'
        """,
        {"status", "ask 1"},
    ),
    "a saga that is gone": (
        "DELETE FROM eventsaga.sagas WHERE context->>'order_id' = $1 || '-bulk-12'",
        {"status"},
    ),
    "another time in the history": (
        """
        UPDATE eventsaga.events e SET occurred_at = occurred_at + interval '1 s'
        FROM eventsaga.sagas s WHERE s.saga_id = e.saga_id AND e.seq = 3
        AND s.context->>'order_id' = $1 || '-bulk-13'
        """,
        {"ask 3"},
    ),
    "an event less": (
        """
        DELETE FROM eventsaga.events e USING eventsaga.sagas s WHERE s.saga_id = e.saga_id
        AND e.seq = 5 AND s.context->>'order_id' = $1 || '-bulk-14'
        """,
        {"ask 3"},
    ),
}


@pytest.mark.parametrize("what", TAMPERED)
async def test_a_check_that_has_something_to_find_finds_it(
    what: str, played: Json, db: "asyncpg.Connection[Any]"
) -> None:
    """The checks pass on what really happened, and fail if it is changed under them."""
    assert await _failing(played, db) == set()
    statement, expected = TAMPERED[what]
    await db.execute("ALTER TABLE eventsaga.events DISABLE TRIGGER USER")
    await db.execute(statement.replace("$1", f"'{played['run']}'"))
    assert await _failing(played, db) == expected


async def _failing(played: Json, db: "asyncpg.Connection[Any]") -> set[str]:
    """Return which checks of the demo fail on the database as it is."""
    run = played["run"]
    names = ["completes", "in-doubt", *(f"bulk-{number:02}" for number in range(1, 51))]
    template = json.loads(
        await db.fetchval(
            "SELECT context FROM eventsaga.sagas WHERE context->>'order_id' = $1", f"{run}-in-doubt"
        )
    )
    orders = [Order.model_validate({**template, "order_id": f"{run}-{name}"}) for name in names]
    sagas = [UUID(saga_id) for saga_id in scene(played, 4)["sagas"]]
    asked = {
        f"ask {number}": question.judge(await question.ask(db, run))
        for number, question in enumerate(QUESTIONS)
    }
    all_checks = {
        "twice": await checks.check_nothing_twice(db, [order.order_id for order in orders]),
        "each": await checks.check_each_effect_once(db, orders),
        "charged": await checks.check_charged(db, orders),
        "zero": await checks.check_net_zero(db, f"{run}-declined"),
        "status": await checks.check_statuses(db, sagas, "COMPLETED"),
        **asked,
    }
    return {name for name, check in all_checks.items() if not check.ok}


@pytest.fixture
async def histories(played: Json) -> dict[int, tuple[StoredEvent, ...]]:
    """The histories of the first three scenes."""
    async with PostgresStore(played["database_url"], Settings()) as store:
        return {
            number: await store.history(UUID(scene(played, number)["sagas"][0]))
            for number in (1, 2, 3)
        }


async def test_the_order_of_compensation_is_looked_at(
    server: object, histories: dict[int, tuple[StoredEvent, ...]]
) -> None:
    history = histories[2]
    undone = [stored for stored in history if stored.type == "StepCompensated"]
    assert checks.check_reverse_order(history).ok
    assert not checks.check_reverse_order([*history, *undone]).ok
    others = [stored for stored in history if stored.type != "StepCompensated"]
    assert not checks.check_reverse_order([*others, *reversed(undone)]).ok


async def test_a_doubt_is_resolved_under_its_own_key_or_not_at_all(
    played: Json,
    db: "asyncpg.Connection[Any]",
    histories: dict[int, tuple[StoredEvent, ...]],
) -> None:
    history = histories[3]
    template = json.loads(
        await db.fetchval(
            "SELECT context FROM eventsaga.sagas WHERE saga_id = $1", history[0].saga_id
        )
    )
    order = Order.model_validate(template)

    async def failing(told: list[StoredEvent]) -> set[str]:
        found = await checks.check_doubt_resolved(db, told, order)
        return {check.what for check in found if not check.ok}

    assert await failing([*history]) == set()
    assert await failing([*histories[1]]), "no doubt, no resolution"
    assert await failing([s for s in history if s.type != "StepInDoubt"])
    assert await failing([s for s in history if s.type != "StepSucceeded"])
    assert await failing([_with_another_key(stored) for stored in history])
    await db.execute("UPDATE demo_payments.ledger SET applied_at = applied_at + interval '1 h'")
    assert await failing([*history]) == {"charges in the ledger from before the doubt"}


def _with_another_key(stored: StoredEvent) -> StoredEvent:
    event = stored.event
    if isinstance(event, StepStarted) and event.attempt == 2:
        return replace(stored, event=replace(event, idempotency_key="another"))
    return stored

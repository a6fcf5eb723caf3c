"""Did it happen as it should? Questions to the ledgers and to the history, and what must come out.

Nothing here looks at what the engine or a service says of itself: effects are read from the
ledgers, decisions from the events. A check says what was expected and what was found.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple
from uuid import UUID

from eventsaga.core.events import Operation, SagaRecovered, StepInDoubt, StepStarted, StepSucceeded
from eventsaga.demo.order import Order
from eventsaga.demo.place import Connection
from eventsaga.demo.services import EFFECTS_APPLIED_TWICE, NET_BY_ORDER
from eventsaga.store.ports import StoredEvent

# What a completed order leaves behind, each of it once.
EFFECTS_OF_A_COMPLETED_ORDER: Final = (
    "inventory.confirm",
    "inventory.reserve",
    "orders.confirm",
    "orders.create",
    "payments.charge",
    "shipping.book",
)

_OF_ORDERS: Final = "SELECT * FROM (%s) AS found WHERE order_id = ANY ($1::text[])"
_TWICE: Final = _OF_ORDERS % EFFECTS_APPLIED_TWICE
_NET: Final = _OF_ORDERS % NET_BY_ORDER

_EFFECTS: Final = """
SELECT service, operation, order_id, idempotency_key, amount, applied_at
  FROM (SELECT 'orders' AS service, * FROM demo_orders.ledger
        UNION ALL SELECT 'inventory', * FROM demo_inventory.ledger
        UNION ALL SELECT 'payments', * FROM demo_payments.ledger
        UNION ALL SELECT 'shipping', * FROM demo_shipping.ledger) AS effects
 WHERE order_id = ANY ($1::text[])
 ORDER BY applied_at
"""

_CHARGED: Final = """
SELECT coalesce(sum(amount), 0) FROM demo_payments.ledger WHERE order_id = ANY ($1::text[])
"""

_STATUSES: Final = """
SELECT status, count(*) AS sagas
  FROM eventsaga.sagas
 WHERE saga_id = ANY ($1::uuid[])
 GROUP BY status
 ORDER BY status
"""


@dataclass(frozen=True, slots=True)
class Check:
    """One question with its answer.

    Attributes:
        what: What was asked.
        expected: What must come out; plain JSON data.
        found: What came out.
    """

    what: str
    expected: Any
    found: Any

    @property
    def ok(self) -> bool:
        """Whether it came out as it must."""
        return bool(self.expected == self.found)

    def to_json(self) -> dict[str, Any]:
        """Return the check as JSON data."""
        return {"ok": self.ok, **asdict(self)}


class Effect(NamedTuple):
    """One row of a ledger."""

    service: str
    operation: str
    order_id: str
    idempotency_key: str
    amount: Decimal
    applied_at: datetime

    @property
    def name(self) -> str:
        """Such as ``payments.charge``."""
        return f"{self.service}.{self.operation}"


async def effects_of(db: Connection, order_ids: Sequence[str]) -> list[Effect]:
    """Return what the ledgers of all services say of some orders, oldest first."""
    return [Effect(*row) for row in await db.fetch(_EFFECTS, list(order_ids))]


async def check_nothing_twice(db: Connection, order_ids: Sequence[str]) -> Check:
    """No service applied an effect of any of the orders more than once."""
    rows = await db.fetch(_TWICE, list(order_ids))
    found = [
        f"{row['order_id']}: {row['service']}.{row['operation']}, {row['times']} times"
        for row in rows
    ]
    return Check("effects applied twice, over all four ledgers", [], found)


async def check_each_effect_once(db: Connection, orders: Sequence[Order]) -> Check:
    """Every completed order has each of its effects exactly once, and none besides."""
    expected = dict.fromkeys(EFFECTS_OF_A_COMPLETED_ORDER, 1)
    counted = {order.order_id: Counter[str]() for order in orders}
    for effect in await effects_of(db, list(counted)):
        counted[effect.order_id][effect.name] += 1
    wrong = {order_id: dict(found) for order_id, found in counted.items() if found != expected}
    return Check(
        f"orders whose ledger rows are not each of {len(expected)} effects once", {}, wrong
    )


async def check_charged(db: Connection, orders: Sequence[Order]) -> Check:
    """What was taken for the orders, as the ledger has it, is what they cost."""
    charged = await db.fetchval(_CHARGED, [order.order_id for order in orders])
    total = sum((order.total_amount for order in orders), Decimal(0))
    return Check("charged, by the ledger of payments", f"{total:.2f}", f"{charged:.2f}")


async def check_completed(db: Connection, orders: Sequence[Order]) -> list[Check]:
    """Each effect of the orders was applied, and applied once."""
    return [
        await check_nothing_twice(db, [order.order_id for order in orders]),
        await check_each_effect_once(db, orders),
        await check_charged(db, orders),
    ]


async def check_net_zero(db: Connection, order_id: str) -> Check:
    """The order was taken, and nothing of it is left in any service."""
    row = await db.fetchrow(_NET, [order_id])
    names = ("orders", "items_reserved", "charged", "shipments")
    found = None if row is None else {name: float(row[name] or 0) for name in names}
    return Check("left behind in the four services", dict.fromkeys(names, 0.0), found)


async def check_statuses(db: Connection, saga_ids: Sequence[UUID], status: str) -> Check:
    """All the sagas stand where they should."""
    rows = await db.fetch(_STATUSES, list(saga_ids))
    found = {row["status"]: row["sagas"] for row in rows}
    return Check("sagas by status", {status: len(saga_ids)}, found)


def check_reverse_order(history: Sequence[StoredEvent]) -> Check:
    """What succeeded was compensated, last first."""
    done = [e.event.step for e in history if isinstance(e.event, StepSucceeded)]
    undone = [e.data["step"] for e in history if e.type == "StepCompensated"]
    return Check("steps compensated, in order", done[::-1], undone)


async def check_doubt_resolved(
    db: Connection, history: Sequence[StoredEvent], order: Order
) -> list[Check]:
    """The payment took effect, then was in doubt, then was resolved with the key it had before."""
    events = [(stored, stored.event) for stored in history]
    doubts = [s for s, e in events if isinstance(e, StepInDoubt) and e.step == "process_payment"]
    attempts = [e for _, e in events if isinstance(e, StepStarted) and e.step == "process_payment"]
    resolved = [
        s for s, e in events if isinstance(e, StepSucceeded) and e.step == "process_payment"
    ]
    charges = [
        effect
        for effect in await effects_of(db, [order.order_id])
        if effect.name == "payments.charge"
    ]
    before = [c for c in charges if doubts and c.applied_at < doubts[0].recorded_at]
    keys = {attempt.idempotency_key for attempt in attempts}
    return [
        Check("times the payment was in doubt", 1, len(doubts)),
        Check("charges in the ledger from before the doubt", 1, len(before)),
        Check("attempts of the payment, and their keys", [2, 1], [len(attempts), len(keys)]),
        Check("the doubt was resolved by a later answer", 1, len(resolved)),
        Check(
            "charges in the ledger under that key", [*keys], [c.idempotency_key for c in charges]
        ),
    ]


def interrupted_keys(history: Iterable[StoredEvent]) -> list[str]:
    """Return the idempotency keys of the attempts that a killed worker left behind."""
    keys = dict[tuple[str, int], str]()
    found: list[str] = []
    for stored in history:
        match stored.event:
            case StepStarted(step=step, attempt=attempt, idempotency_key=key):
                keys[step, attempt] = key
            case StepInDoubt(operation=Operation.EXECUTE, interrupted=True) as doubt:
                found.append(keys[doubt.step, doubt.attempt])
            case _:
                pass
    return found


def recovered_at(history: Iterable[StoredEvent]) -> datetime | None:
    """Return when another worker took the saga over, by the database's clock; None if none did."""
    return next((s.recorded_at for s in history if isinstance(s.event, SagaRecovered)), None)

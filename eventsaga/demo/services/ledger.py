"""What has a service done, and for which orders may it still do something?"""

from collections.abc import Sequence
from typing import Final

from eventsaga.demo.services.operation import Connection, Effect

TABLES: Final = """
CREATE TABLE IF NOT EXISTS idempotency (
    key text PRIMARY KEY,
    request_hash text NOT NULL,
    status int NOT NULL,
    reply json NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE IF NOT EXISTS ledger (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    idempotency_key text NOT NULL,
    operation text NOT NULL,
    order_id text NOT NULL,
    amount numeric(14, 2) NOT NULL,
    quantity int NOT NULL,
    correlation_id text,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX IF NOT EXISTS ledger_by_order ON ledger (order_id);
CREATE TABLE IF NOT EXISTS order_gate (
    order_id text PRIMARY KEY,
    closed_at timestamptz
);
"""

READ_LEDGER: Final = """
SELECT coalesce(json_agg(ledger ORDER BY id), '[]')
  FROM ledger
 WHERE $1::text IS NULL OR order_id = $1
"""

_WRITE: Final = """
INSERT INTO ledger (idempotency_key, operation, order_id, amount, quantity, correlation_id)
VALUES ($1, $2, $3, $4, $5, $6)
"""

# The update that changes nothing locks the row: an order is done and undone one at a time.
_ENTER: Final = """
INSERT INTO order_gate (order_id) VALUES ($1)
    ON CONFLICT (order_id) DO UPDATE SET order_id = excluded.order_id
RETURNING closed_at IS NULL
"""

_CLOSE: Final = """
INSERT INTO order_gate (order_id, closed_at) VALUES ($1, clock_timestamp())
    ON CONFLICT (order_id)
    DO UPDATE SET closed_at = coalesce(order_gate.closed_at, excluded.closed_at)
"""


async def write_effects(
    conn: Connection, effects: Sequence[Effect], *, key: str, correlation_id: str | None
) -> None:
    """Write one row for each effect, in the transaction that applied it."""
    await conn.executemany(
        _WRITE,
        [(key, e.operation, e.order_id, e.amount, e.quantity, correlation_id) for e in effects],
    )


async def enter_gate(conn: Connection, order_id: str) -> bool:
    """Return whether something may still be done for the order, and hold off its undoing."""
    return bool(await conn.fetchval(_ENTER, order_id))


async def close_gate(conn: Connection, order_id: str) -> None:
    """Refuse from now on to do anything for the order.

    Whoever undoes by order id does not know whether the request to do it has arrived. It may
    still be under way: without this it would take effect after it was undone.
    """
    await conn.execute(_CLOSE, order_id)

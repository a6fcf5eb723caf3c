"""What has a service done?"""

from collections.abc import Sequence
from typing import Final

from eventsaga.demo.services.operation import Connection, Effect

TABLES: Final = """
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


async def write_effects(
    conn: Connection, effects: Sequence[Effect], *, key: str, correlation_id: str | None
) -> None:
    """Write one row for each effect, in the transaction that applied it."""
    await conn.executemany(
        _WRITE,
        [(key, e.operation, e.order_id, e.amount, e.quantity, correlation_id) for e in effects],
    )

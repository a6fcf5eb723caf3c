"""What would an auditor ask? Four questions in SQL, about the orders of one run.

They read the tables and nothing else, and can be pasted into psql as they are; there
``-v run=`` without a value asks about all orders that were ever placed.
"""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from eventsaga.demo.checks import Check
from eventsaga.demo.place import Connection, Place
from eventsaga.demo.services import EFFECTS_APPLIED_TWICE

Rows = Sequence[dict[str, Any]]

# psql puts the run in here, quoted.
_RUN: Final = ":'run'"

_TWICE: Final = f"""
SELECT * FROM ({EFFECTS_APPLIED_TWICE}) AS twice WHERE starts_with(order_id, :'run')
"""  # noqa: S608 - a constant

_ENDINGS: Final = """
WITH effects AS (
    SELECT order_id, 'orders' AS service, quantity, amount FROM demo_orders.ledger
     UNION ALL SELECT order_id, 'inventory', quantity, amount FROM demo_inventory.ledger
     UNION ALL SELECT order_id, 'payments', quantity, amount FROM demo_payments.ledger
     UNION ALL SELECT order_id, 'shipping', quantity, amount FROM demo_shipping.ledger
), held AS (
    SELECT s.saga_id, s.status, s.context->>'order_id' AS order_id,
           (s.context->>'total_amount')::numeric AS total,
           coalesce(sum(e.quantity) FILTER (WHERE e.service = 'orders'), 0) AS orders,
           coalesce(sum(e.quantity) FILTER (WHERE e.service = 'inventory'), 0) AS items,
           coalesce(sum(e.amount) FILTER (WHERE e.service = 'payments'), 0) AS charged,
           coalesce(sum(e.quantity) FILTER (WHERE e.service = 'shipping'), 0) AS shipments
      FROM eventsaga.sagas s
      LEFT JOIN effects e ON e.order_id = s.context->>'order_id'
     WHERE s.status IN ('COMPLETED', 'COMPENSATED')
       AND starts_with(s.context->>'order_id', :'run')
     GROUP BY s.saga_id
)
SELECT status, count(*) AS sagas, sum(total) AS ordered, sum(charged) AS charged,
       count(*) FILTER (WHERE NOT CASE status
           WHEN 'COMPLETED' THEN (orders, charged, shipments) = (1, total, 1) AND items > 0
           ELSE (orders, items, charged, shipments) = (0, 0, 0, 0) END) AS disagreeing
  FROM held
 GROUP BY status
 ORDER BY status
"""

# What settles a doubt: it turned out to have happened, or not, or a person knew. A later
# attempt that failed by itself does not. docs/operating.md asks by the same condition.
DOUBT_IS_SETTLED: Final = """
(later.type IN ('StepSucceeded', 'StepCompensated', 'StepResolved')
 OR (later.type = 'StepFailed' AND later.data->>'effect_happened' = 'false'))
"""

_DOUBTS: Final = f"""
WITH doubts AS (
    SELECT e.saga_id, e.data->>'step' AS step, max(e.seq) AS seq
      FROM eventsaga.events e
      JOIN eventsaga.sagas s USING (saga_id)
     WHERE e.type = 'StepInDoubt' AND e.data->>'operation' = 'execute'
       AND starts_with(s.context->>'order_id', :'run')
     GROUP BY e.saga_id, e.data->>'step'
), applied AS (
    SELECT idempotency_key, operation FROM demo_orders.ledger
     UNION ALL SELECT idempotency_key, operation FROM demo_inventory.ledger
     UNION ALL SELECT idempotency_key, operation FROM demo_payments.ledger
     UNION ALL SELECT idempotency_key, operation FROM demo_shipping.ledger
), traced AS (
    SELECT d.step,
           EXISTS (
               SELECT FROM eventsaga.events later
                WHERE later.saga_id = d.saga_id AND later.data->>'step' = d.step
                  AND later.seq > d.seq
                  AND {DOUBT_IS_SETTLED.strip()}) AS resolved,
           (SELECT count(*) FROM applied a
             WHERE a.idempotency_key = d.saga_id || '/' || d.step) AS times
      FROM doubts d
)
SELECT step, count(*) AS in_doubt, count(*) FILTER (WHERE resolved) AS resolved,
       max(times) AS applied_at_most
  FROM traced
 GROUP BY step
 ORDER BY step
"""  # noqa: S608 - a constant

_CHAIN: Final = """
SELECT saga_id, seq, type
  FROM (SELECT *, row_number() OVER one_saga AS expected_seq,
               coalesce(lag(hash) OVER one_saga, decode(repeat('00', 32), 'hex')) AS previous
          FROM eventsaga.events
         WHERE saga_id IN (SELECT s.saga_id FROM eventsaga.sagas s
                            WHERE starts_with(s.context->>'order_id', :'run'))
        WINDOW one_saga AS (PARTITION BY saga_id ORDER BY seq)) AS e
 WHERE seq <> expected_seq
    OR hash IS DISTINCT FROM sha256(previous || uuid_send(saga_id) || int4send(seq)
         || convert_to(type, 'UTF8') || timestamptz_send(occurred_at)
         || sha256(salt || convert_to(data::text, 'UTF8')))
 ORDER BY saga_id, seq
"""


@dataclass(frozen=True, slots=True)
class Question:
    """One question of an auditor.

    Attributes:
        text: In words.
        sql: In SQL, for psql with the variable ``run``.
        judge: Turns the answer into a check.
    """

    text: str
    sql: str
    judge: Callable[[Rows], Check]

    def command(self, place: Place, run: str) -> str:
        """Return what to paste into a shell."""
        variable = shlex.quote(f"run={run}")
        return f"{place.psql_command()} -v {variable} <<'SQL'\n{self.sql.strip()};\nSQL"

    async def ask(self, db: Connection, run: str) -> Rows:
        """Return the answer for the orders of *run*."""
        return [dict(row) for row in await db.fetch(self.sql.replace(_RUN, "$1::text"), run)]


def _judge_twice(rows: Rows) -> Check:
    return Check("effects applied twice", 0, len(rows))


def _judge_endings(rows: Rows) -> Check:
    disagreeing = sum(row["disagreeing"] for row in rows)
    return Check("orders whose ending and ledgers disagree", 0, disagreeing)


def _judge_doubts(rows: Rows) -> Check:
    doubts = sum(row["in_doubt"] for row in rows)
    resolved = sum(row["resolved"] for row in rows)
    most = max((row["applied_at_most"] for row in rows), default=1)
    expected = {"in doubt": doubts, "resolved": doubts, "applied at most": 1}
    return Check(
        "doubts and what became of them",
        expected,
        {"in doubt": doubts, "resolved": resolved, "applied at most": most},
    )


def _judge_chain(rows: Rows) -> Check:
    return Check("events that break the chain of hashes", 0, len(rows))


QUESTIONS: Final = (
    Question("Was anything done twice?", _TWICE, _judge_twice),
    Question("Do the services hold what the orders' endings say?", _ENDINGS, _judge_endings),
    Question("Which effects were in doubt, and what became of them?", _DOUBTS, _judge_doubts),
    Question("Was the history changed after the fact?", _CHAIN, _judge_chain),
)

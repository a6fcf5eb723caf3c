"""What really happened? Two questions to the ledgers of all four services, in plain SQL.

The ledgers have no constraint that would make the answers true by themselves: a service that
charged twice would have two rows, and an order that was half undone a sum that is not zero.
"""

from typing import Final

# No row: every effect was applied once.
EFFECTS_APPLIED_TWICE: Final = """
SELECT service, order_id, operation, count(*) AS times
  FROM (SELECT 'orders' AS service, order_id, operation FROM demo_orders.ledger
        UNION ALL SELECT 'inventory', order_id, operation FROM demo_inventory.ledger
        UNION ALL SELECT 'payments', order_id, operation FROM demo_payments.ledger
        UNION ALL SELECT 'shipping', order_id, operation FROM demo_shipping.ledger) AS effects
 GROUP BY service, order_id, operation
HAVING count(*) > 1
 ORDER BY service, order_id, operation
"""

# One row an order: what it has left behind in each service. An order that was undone: all zero.
NET_BY_ORDER: Final = """
SELECT order_id,
       sum(quantity) FILTER (WHERE service = 'orders') AS orders,
       sum(quantity) FILTER (WHERE service = 'inventory') AS items_reserved,
       sum(amount) FILTER (WHERE service = 'payments') AS charged,
       sum(quantity) FILTER (WHERE service = 'shipping') AS shipments
  FROM (SELECT 'orders' AS service, order_id, quantity, amount FROM demo_orders.ledger
        UNION ALL
        SELECT 'inventory', order_id, quantity, amount FROM demo_inventory.ledger
        UNION ALL SELECT 'payments', order_id, quantity, amount FROM demo_payments.ledger
        UNION ALL SELECT 'shipping', order_id, quantity, amount FROM demo_shipping.ledger
       ) AS effects
 GROUP BY order_id
 ORDER BY order_id
"""

"""Which slot comes next? One row a schedule; who holds its lock starts the slot.

The saga and the row's next slot are one commit: there is no crash between the two. The
statements name the slot that they are about, so whoever comes late finds nothing to do.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from eventsaga.store.ports import Start, StartResult
from eventsaga.store.postgres.connect import Connection
from eventsaga.store.postgres.start import start_within
from eventsaga.store.slots import Planned

PLAN: Final = """
INSERT INTO eventsaga.schedules AS s (name, saga_name, cron, timezone, next_at, worker_id)
VALUES ($1::text, $2::text, $3::text, $4::text, $5::timestamptz, $6::uuid)
ON CONFLICT (name) DO UPDATE
   SET saga_name = excluded.saga_name,
       worker_id = excluded.worker_id,
       cron = excluded.cron,
       timezone = excluded.timezone,
       next_at = CASE WHEN s.cron = excluded.cron AND s.timezone = excluded.timezone
                      THEN s.next_at ELSE excluded.next_at END
"""

PLANNED: Final = """
SELECT s.name, s.cron, s.timezone, s.next_at AS slot, clock_timestamp() AS now,
       EXISTS (SELECT FROM eventsaga.workers w
                WHERE w.worker_id = s.worker_id AND w.lease_until > clock_timestamp()) AS is_kept
  FROM eventsaga.schedules s
 WHERE s.name = ANY($1::text[])
"""

# Another worker that holds the row is starting this very slot: no need to wait for it.
LOCK: Final = """
SELECT next_at
  FROM eventsaga.schedules
 WHERE name = $1::text AND cron = $2::text AND timezone = $3::text
   AND next_at = $4::timestamptz AND next_at <= clock_timestamp()
   FOR UPDATE SKIP LOCKED
"""

ADVANCE: Final = """
UPDATE eventsaga.schedules
   SET next_at = $5::timestamptz
 WHERE name = $1::text AND cron = $2::text AND timezone = $3::text
   AND next_at = $4::timestamptz
RETURNING next_at
"""


async def planned(connection: Connection, statement: str, names: Sequence[str]) -> list[Planned]:
    """Return the next slot of each schedule of *names*."""
    return [Planned(**row) for row in await connection.fetch(statement, list(names))]


async def start_slot(
    connection: Connection,
    statements: tuple[str, str, str, str],
    planned: Planned,
    start: Start,
    following: datetime,
) -> StartResult | None:
    """Start what is due at a slot and go on to the *following* one, in one transaction.

    Args:
        connection: Outside of a transaction.
        statements: `LOCK`, `ADVANCE`, and those of `start_within`, for the store's schema.
        planned: The slot.
        start: Unowned; its key is the slot's.
        following: The slot after it.

    Returns:
        What became of the start: refused or not, the schedule goes on. None if the slot is
        not due yet, or another worker has started it or is about to.
    """
    lock, advance, begin, read_back = statements
    slot = (planned.name, planned.cron, planned.timezone, planned.slot)
    async with connection.transaction():
        if await connection.fetchval(lock, *slot) is None:
            return None
        result = await start_within(connection, begin, read_back, start)
        await connection.execute(advance, *slot, following)
    return result


async def skip(
    connection: Connection, statement: str, planned: Planned, following: datetime
) -> bool:
    """Go on to the *following* slot without a start; False if another worker did."""
    found = await connection.fetchval(
        statement, planned.name, planned.cron, planned.timezone, planned.slot, following
    )
    return found is not None

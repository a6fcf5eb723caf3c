"""How many attempts may begin, over all workers? A rate, a number at a time, or both.

The rate is kept by the generic cell rate algorithm (ITU-T I.371, 1996): one instant a limit,
at which the next attempt would be exactly on time. Attempts under way are counted per
worker; those of a worker whose lease has ended do not count.
"""

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from eventsaga.store.ports import Grant
from eventsaga.store.postgres.connect import Connection

# Locked first, in a statement of its own: the next one sees what others were granted.
LOCK: Final = """
INSERT INTO eventsaga.limits (key) VALUES ($1::text)
ON CONFLICT (key) DO UPDATE SET free_at = limits.free_at
RETURNING CASE WHEN isfinite(free_at) THEN free_at END AS free_at, clock_timestamp() AS now
"""

HELD: Final = """
SELECT coalesce(sum(p.held), 0)
  FROM eventsaga.permits p
  JOIN eventsaga.workers w USING (worker_id)
 WHERE p.key = $1::text AND w.lease_until > clock_timestamp()
"""

HOLD: Final = """
INSERT INTO eventsaga.permits (key, worker_id, held) VALUES ($1::text, $2::uuid, $3::int)
ON CONFLICT (key, worker_id) DO UPDATE SET held = permits.held + excluded.held
"""

ADVANCE: Final = "UPDATE eventsaga.limits SET free_at = $2::timestamptz WHERE key = $1::text"

RELEASE: Final = """
UPDATE eventsaga.permits SET held = greatest(held - $3::int, 0)
 WHERE key = $1::text AND worker_id = $2::uuid
"""

# Of workers that are gone: their permits count no more.
SWEEP: Final = """
DELETE FROM eventsaga.permits p
 WHERE NOT EXISTS (SELECT FROM eventsaga.workers w
                    WHERE w.worker_id = p.worker_id AND w.lease_until > clock_timestamp())
"""


async def acquire(
    connection: Connection,
    statements: tuple[str, str, str, str],
    worker_id: UUID,
    key: str,
    wanted: int,
    *,
    concurrency: int | None,
    interval: timedelta | None,
    burst: int,
) -> Grant:
    """Grant at most *wanted* permits in one short transaction; see `Store.acquire`."""
    lock, held, hold, pass_on = statements
    async with connection.transaction():
        row = await connection.fetchrow(lock, key)
        assert row is not None
        permits, retry_at = wanted, None
        if concurrency is not None:
            permits = max(0, min(permits, concurrency - await connection.fetchval(held, key)))
        if interval is not None and permits:
            permits, free_at = conforming(row["free_at"], row["now"], interval, burst, permits)
            if free_at != row["free_at"]:
                await connection.execute(pass_on, key, free_at)
            if not permits:
                retry_at = free_at - interval * (burst - 1)
        if permits and concurrency is not None:
            await connection.execute(hold, key, worker_id, permits)
    return Grant(permits=permits, retry_at=retry_at)


def conforming(
    free_at: datetime | None, now: datetime, interval: timedelta, burst: int, wanted: int
) -> tuple[int, datetime]:
    """Return how many of *wanted* are in time, and when the one after them is."""
    # Never further ahead than a full burst: the clock may have been set back since, and the
    # rate made faster.
    at = now if free_at is None else min(max(free_at, now), now + interval * burst)
    latest = now + interval * (burst - 1)
    granted = 0
    while granted < wanted and at <= latest:
        at += interval
        granted += 1
    return granted, at

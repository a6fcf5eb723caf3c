"""What is to be known across sagas? Start keys, and who goes on with what has not settled."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from eventsaga.store.invariants import Due, Keyed, StartKey
from eventsaga.store.postgres.sql import qualify
from eventsaga.store.postgres.store import PostgresStore

# A report of so many says enough.
_MOST: Final = 1000
_NEVER_LATE: Final = timedelta(days=100 * 365)

SAGAS_BY_KEY: Final = """
SELECT k.saga_name, k.key, k.saga_id
  FROM unnest($1::text[], $2::text[]) AS g(saga_name, key)
  JOIN eventsaga.start_keys k USING (saga_name, key)
"""

# One snapshot: a start writes its key and its saga by one statement. The key of an archived
# saga stays, so that it starts nothing again.
LOST_KEYS: Final = """
SELECT k.saga_id, k.saga_name, k.key
  FROM eventsaga.start_keys k
 WHERE NOT EXISTS (SELECT FROM eventsaga.sagas s WHERE s.saga_id = k.saga_id)
   AND NOT EXISTS (SELECT FROM eventsaga.archived_sagas a WHERE a.saga_id = k.saga_id)
 LIMIT $1
"""

# Only what might be late. A worker is registered before it owns anything, and its row is
# kept as long as it does.
DUE: Final = """
SELECT s.saga_id, s.owner,
       CASE WHEN s.wake_at > '0001-01-02' THEN s.wake_at END AS wake_at,
       CASE WHEN w.lease_until > '0001-01-02' THEN w.lease_until
            WHEN w.worker_id IS NOT NULL THEN '0001-01-02' END AS lease_until
  FROM eventsaga.sagas s
  LEFT JOIN eventsaga.workers w ON w.worker_id = s.owner
 WHERE s.status NOT IN ('COMPLETED', 'COMPENSATED', 'FAILED')
   AND s.status <> 'PARKED'
   AND CASE WHEN s.owner IS NULL THEN s.wake_at < statement_timestamp() - $1::interval
            ELSE w.worker_id IS NULL
                 OR w.lease_until < statement_timestamp() - $1::interval END
   AND ($3::uuid[] IS NULL OR s.saga_id = ANY ($3::uuid[]))
 ORDER BY s.saga_id
 LIMIT $2
"""


async def sagas_by_key(
    store: PostgresStore, start_keys: Sequence[StartKey]
) -> dict[StartKey, UUID]:
    """Return which saga each of *start_keys* stands for; those that are not kept are left out."""
    names, keys = [name for name, _ in start_keys], [key for _, key in start_keys]
    async with store.connection() as connection:
        rows = await connection.fetch(qualify(SAGAS_BY_KEY, store.settings.schema), names, keys)
    return {(row["saga_name"], row["key"]): row["saga_id"] for row in rows}


async def lost_keys(store: PostgresStore) -> list[Keyed]:
    """Return start keys that stand for a saga which does not exist, at most a thousand."""
    async with store.connection() as connection:
        rows = await connection.fetch(qualify(LOST_KEYS, store.settings.schema), _MOST)
    return [Keyed(row["saga_id"], (row["saga_name"], row["key"])) for row in rows]


async def due(
    store: PostgresStore, grace: timedelta | None = None, saga_ids: Sequence[UUID] | None = None
) -> tuple[list[Due], datetime]:
    """Return sagas that nobody may be going on with, at most a thousand, and the time.

    Args:
        store: An open store.
        grace: Those that are late by more; None for those that nobody ever goes on with.
        saga_ids: Only these; None for all.
    """
    late = _NEVER_LATE if grace is None else grace
    async with store.connection() as connection:
        rows = await connection.fetch(qualify(DUE, store.settings.schema), late, _MOST, saga_ids)
    now = await store.now()
    return [Due(*row) for row in rows], now

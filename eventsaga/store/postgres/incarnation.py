"""Has the database lost commits? Another system or timeline means that it may have.

After an asynchronous failover, or when an old backup was restored, effects may have happened
that the tables know nothing of. Sagas that go forward and are older than such a change are
not claimed until somebody has accepted it. Those that go back, are settled, or were started
since, are. See `eventsaga recover`.
"""

from typing import Final

from eventsaga.store.ports import Incarnation
from eventsaga.store.postgres.connect import Connection

SEE: Final = """
INSERT INTO eventsaga.incarnations (system_identifier, timeline)
SELECT system_identifier, timeline FROM eventsaga.incarnation()
ON CONFLICT DO NOTHING
"""

SHOW: Final = """
SELECT here.system_identifier, here.timeline, i.seen_at, i.accepted_at, i.accepted_by, i.reason,
       -- Nobody counts where nothing is held.
       CASE WHEN i.accepted_at IS NOT NULL THEN 0
            ELSE (SELECT count(*)
                    FROM eventsaga.sagas s
                   WHERE s.status IN ('PENDING', 'RUNNING')
                     AND s.created_at < (SELECT eventsaga.held_before())) END AS held
  FROM eventsaga.incarnation() here
  LEFT JOIN eventsaga.incarnations i USING (system_identifier, timeline)
"""

ACCEPT: Final = """
WITH accepted AS (
    INSERT INTO eventsaga.incarnations AS i
           (system_identifier, timeline, accepted_at, accepted_by, reason)
    SELECT system_identifier, timeline, clock_timestamp(), $1::text, $2::text
      FROM eventsaga.incarnation()
    ON CONFLICT (system_identifier, timeline) DO UPDATE
       SET accepted_at = excluded.accepted_at, accepted_by = excluded.accepted_by,
           reason = excluded.reason
     WHERE i.accepted_at IS NULL
    RETURNING 1
)
SELECT count(*)
  FROM eventsaga.sagas s
 WHERE EXISTS (SELECT FROM accepted)
   AND s.status IN ('PENDING', 'RUNNING')
   -- As it was when the statement began.
   AND s.created_at < (SELECT eventsaga.held_before())
"""


async def show(connection: Connection, statement: str) -> Incarnation:
    """Return the present one."""
    row = await connection.fetchrow(statement)
    assert row is not None
    return Incarnation(**dict(row))

"""Who is alive? One row a worker, renewed by one statement, by the database's clock."""

import os
import socket
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from eventsaga.store.ports import DefinitionKey, Renewal
from eventsaga.store.postgres.connect import Connection

REGISTER: Final = """
INSERT INTO eventsaga.workers (worker_id, host, pid, definitions, lease_until, process)
VALUES ($1::uuid, $2::text, $3::int, $4::text[], clock_timestamp() + $5::interval, $6::text)
ON CONFLICT (worker_id) DO UPDATE SET lease_until = excluded.lease_until
RETURNING clock_timestamp() AS now
"""

# A lease that has ended is never extended: somebody may have acted on its end already. The
# row is locked before the clock is read: a claim may hold it, and the lease end meanwhile.
# A failover that came between two statements is noted as well: no error may have told of it.
RENEW: Final = """
WITH seen AS (
    INSERT INTO eventsaga.incarnations (system_identifier, timeline)
    SELECT system_identifier, timeline FROM eventsaga.incarnation()
    ON CONFLICT DO NOTHING
), held AS MATERIALIZED (
    SELECT worker_id, lease_until
      FROM eventsaga.workers
     WHERE worker_id = $1::uuid
       FOR NO KEY UPDATE
), renewed AS (
    UPDATE eventsaga.workers w
       SET heartbeat_at = clock_timestamp(), lease_until = clock_timestamp() + $2::interval
      FROM held
     WHERE w.worker_id = held.worker_id AND held.lease_until > clock_timestamp()
 RETURNING w.worker_id
)
SELECT EXISTS (SELECT FROM renewed) AS granted, clock_timestamp() AS now
"""

# The sagas first: a lease that ends before its sagas are free would look like a crash.
# Claims that end by an orderly leave are not counted: see `GIVE_UP` in `claim`.
RELEASE: Final = """
WITH freed AS (
    UPDATE eventsaga.sagas
       SET owner = NULL, wake_at = clock_timestamp(), claims = greatest(claims - 1, 0)
     WHERE owner = $1::uuid
 RETURNING saga_id
), returned AS (
    DELETE FROM eventsaga.permits WHERE worker_id = $1::uuid
), ended AS (
    UPDATE eventsaga.workers SET lease_until = clock_timestamp()
     WHERE worker_id = $1::uuid AND lease_until > clock_timestamp()
)
SELECT count(*) FROM freed
"""

NEIGHBOURS: Final = """
SELECT w.worker_id, w.process
  FROM eventsaga.workers w
 WHERE starts_with(w.process, $1::text || '/') AND w.lease_until > clock_timestamp()
"""

END: Final = """
UPDATE eventsaga.workers SET lease_until = clock_timestamp()
 WHERE worker_id = ANY($1::uuid[]) AND lease_until > clock_timestamp()
"""

# Who wrote an event can be looked up for a month.
SWEEP: Final = """
DELETE FROM eventsaga.workers w
 WHERE w.lease_until < clock_timestamp() - interval '30 days'
   AND NOT EXISTS (SELECT FROM eventsaga.sagas s WHERE s.owner = w.worker_id)
"""


def registration(
    worker_id: UUID,
    lease: timedelta,
    definitions: Sequence[DefinitionKey],
    process: str | None,
) -> tuple[Any, ...]:
    """Return what `REGISTER` takes; it answers with the database's clock."""
    brought = [":".join(map(str, definition)) for definition in definitions]
    return worker_id, socket.gethostname(), os.getpid(), brought, lease, process


async def renew(
    connection: Connection, statement: str, worker_id: UUID, lease: timedelta
) -> Renewal:
    """Extend the lease of *worker_id*, unless it has ended."""
    row = await connection.fetchrow(statement, worker_id, lease)
    assert row is not None
    return Renewal(granted=row["granted"], now=row["now"])


async def release(connection: Connection, statement: str, worker_id: UUID) -> int:
    """Give up all that *worker_id* owns, end its lease, and return the number of sagas."""
    count: int = await connection.fetchval(statement, worker_id)
    return count

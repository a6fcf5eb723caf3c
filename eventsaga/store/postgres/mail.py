"""How does the outside reach a saga? By rows that only its owner turns into events.

An insert takes no lock on the saga's row, so a caller's long transaction holds up nobody.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast
from uuid import UUID

from eventsaga.store.ports import Message
from eventsaga.store.postgres.connect import Connection
from eventsaga.wire.payload import dump, load

# The same id is taken once, however often it is sent.
POST: Final = """
INSERT INTO eventsaga.inbox (saga_id, id, kind, data, actor)
SELECT s.saga_id, $2::uuid, $3::text, $4::json, $5::text
  FROM eventsaga.sagas s WHERE s.saga_id = $1::uuid
ON CONFLICT DO NOTHING
"""

READ: Final = """
SELECT i.saga_id, i.id, i.kind, i.data, i.actor
  FROM eventsaga.inbox i
  JOIN eventsaga.sagas s USING (saga_id)
 WHERE s.owner = $1::uuid
 ORDER BY i.created_at
 LIMIT $2
"""

DISCARD: Final = """
DELETE FROM eventsaga.inbox i
 USING unnest($1::uuid[], $2::uuid[]) AS d(saga_id, id)
 WHERE i.saga_id = d.saga_id AND i.id = d.id
"""

# What was written to a saga that settled meanwhile, or that nobody would ever read.
SWEEP: Final = """
DELETE FROM eventsaga.inbox i
 USING eventsaga.sagas s
 WHERE s.saga_id = i.saga_id AND s.owner IS NULL AND s.wake_at IS NULL
"""


async def post(  # noqa: PLR0917 - a row of the inbox, in its order
    connection: Connection,
    statement: str,
    saga_id: UUID,
    message_id: UUID,
    kind: str,
    data: Mapping[str, Any],
    actor: str,
) -> None:
    """Leave a request for the owner of *saga_id*."""
    await connection.execute(statement, saga_id, message_id, kind, dump(data), actor)


async def read(
    connection: Connection, statement: str, worker_id: UUID, limit: int
) -> list[Message]:
    """Return at most *limit* requests to sagas of *worker_id*, oldest first."""
    return [
        Message(
            saga_id=row["saga_id"],
            message_id=row["id"],
            kind=row["kind"],
            data=_data(row["data"]),
            actor=row["actor"],
        )
        for row in await connection.fetch(statement, worker_id, limit)
    ]


def _data(text: str) -> Mapping[str, Any]:
    """Return the data of a request; empty if whoever inserted it wrote no JSON object.

    PostgreSQL takes more for json than there is data for, such as a lone surrogate.
    """
    try:
        data = load(text)
    except ValueError:
        return {}
    return cast("dict[str, Any]", data) if isinstance(data, dict) else {}


async def discard(
    connection: Connection, statement: str, message_ids: Sequence[tuple[UUID, UUID]]
) -> None:
    """Delete requests that cause no event."""
    saga_ids = [saga_id for saga_id, _ in message_ids]
    ids = [message_id for _, message_id in message_ids]
    await connection.execute(statement, saga_ids, ids)

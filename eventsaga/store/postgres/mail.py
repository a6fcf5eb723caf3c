"""How does the outside reach a saga? By rows that only its owner turns into events.

An insert takes no lock on the saga's row, so a caller's long transaction holds up nobody.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast
from uuid import UUID

from eventsaga.store.ports import Answer, Message, Reply
from eventsaga.store.postgres.connect import Connection
from eventsaga.wire.payload import dump, load

# The same id is taken once, however often it is sent; one that was refused is asked anew.
POST: Final = """
WITH saga AS (
    SELECT s.saga_id FROM eventsaga.sagas s WHERE s.saga_id = $1::uuid
), posted AS (
    INSERT INTO eventsaga.inbox (saga_id, id, kind, data, actor)
    SELECT saga_id, $2::uuid, $3::text, $4::text::json, $5::text FROM saga
    ON CONFLICT (saga_id, id) DO UPDATE
       SET kind = excluded.kind, data = excluded.data, actor = excluded.actor,
           created_at = excluded.created_at, refused = NULL
     WHERE inbox.refused IS NOT NULL
)
SELECT count(*) AS sagas FROM saga
"""

READ: Final = """
SELECT i.saga_id, i.id, i.kind, i.data, i.actor, i.created_at
  FROM eventsaga.inbox i
  JOIN eventsaga.sagas s USING (saga_id)
 WHERE s.owner = $1::uuid AND i.refused IS NULL
 ORDER BY i.created_at
 LIMIT $2
"""

DISCARD: Final = """
DELETE FROM eventsaga.inbox i
 USING unnest($1::uuid[], $2::uuid[]) AS d(saga_id, id)
 WHERE i.saga_id = d.saga_id AND i.id = d.id
"""

# The answer stays in place of the request, for an hour from now on: the request may be old.
REFUSE: Final = """
UPDATE eventsaga.inbox i
   SET refused = r.reason, created_at = clock_timestamp()
  FROM unnest($1::uuid[], $2::uuid[], $3::text[]) AS r(saga_id, id, reason)
 WHERE i.saga_id = r.saga_id AND i.id = r.id
"""

# A request that is taken is deleted with the commit of its events. A refusal stays when it
# is told: the answer may be lost, and whoever asks again must not take it for taken.
ANSWER: Final = """
SELECT (SELECT refused FROM eventsaga.inbox
         WHERE saga_id = $1::uuid AND id = $2::uuid) AS refused,
       EXISTS (SELECT FROM eventsaga.inbox
                WHERE saga_id = $1::uuid AND id = $2::uuid) AS is_open
"""

# Refusals that whoever asked has had the time to read.
SWEEP: Final = """
DELETE FROM eventsaga.inbox
 WHERE refused IS NOT NULL AND created_at < clock_timestamp() - interval '1 hour'
"""


def post_arguments(message: Message) -> tuple[Any, ...]:
    """Return what `POST` takes for *message*."""
    return (
        message.saga_id,
        message.message_id,
        message.kind,
        dump(message.data),
        message.actor,
    )


async def post(connection: Connection, statement: str, message: Message) -> bool:
    """Leave *message* in its saga's inbox, and return whether there is such a saga."""
    return bool(await connection.fetchval(statement, *post_arguments(message)))


async def refuse(
    connection: Connection, statement: str, refusals: Sequence[tuple[UUID, UUID, str]]
) -> None:
    """Answer requests that their sagas do not take."""
    saga_ids, ids, reasons = ([refusal[part] for refusal in refusals] for part in range(3))
    await connection.execute(statement, saga_ids, ids, reasons)


async def answer(connection: Connection, statement: str, saga_id: UUID, message_id: UUID) -> Answer:
    """Return what became of a request; a refusal is told for an hour."""
    row = await connection.fetchrow(statement, saga_id, message_id)
    assert row is not None
    if row["refused"] is not None:
        return Answer(reply=Reply.REFUSED, reason=row["refused"])
    return Answer(reply=Reply.OPEN if row["is_open"] else Reply.TAKEN)


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
            posted_at=row["created_at"],
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

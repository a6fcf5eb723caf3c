"""How does the outside reach a saga? By rows that only its owner turns into events.

An insert takes no lock on the saga's row, so a caller's long transaction holds up nobody.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast
from uuid import UUID

from eventsaga.store.ports import MAIL_OF_ONE, Answer, Dismissal, Message, Reply
from eventsaga.store.postgres.connect import Connection
from eventsaga.store.postgres.rows import columns
from eventsaga.wire.payload import dump, load
from eventsaga.wire.sealing import opened, sealed

# The same id is taken once, however often it is sent: the answer stays in place of the
# request for an hour. One that was refused is asked anew.
POST: Final = """
WITH saga AS (
    SELECT s.saga_id FROM eventsaga.sagas s WHERE s.saga_id = $1::uuid
), posted AS (
    INSERT INTO eventsaga.inbox (saga_id, id, kind, data, actor)
    SELECT saga_id, $2::uuid, $3::text, $4::text::json, $5::text FROM saga
    ON CONFLICT (saga_id, id) DO UPDATE
       SET kind = excluded.kind, data = excluded.data, actor = excluded.actor,
           created_at = excluded.created_at, answered_at = NULL, refused = NULL
     WHERE inbox.refused IS NOT NULL
)
SELECT count(*) AS sagas FROM saga
"""

# Some of each saga: one that cannot take its requests now must not stop those of the others.
READ: Final = f"""
SELECT m.saga_id, m.id, m.kind, m.data, m.actor, m.created_at
  FROM (SELECT i.*, row_number() OVER (PARTITION BY i.saga_id ORDER BY i.created_at, i.id) AS turn
          FROM eventsaga.inbox i
          JOIN eventsaga.sagas s USING (saga_id)
         WHERE s.owner = $1::uuid AND i.answered_at IS NULL) m
 WHERE m.turn <= {MAIL_OF_ONE}
 ORDER BY m.created_at
 LIMIT $2
"""  # noqa: S608 - a number

READ_OF: Final = """
SELECT i.saga_id, i.id, i.kind, i.data, i.actor, i.created_at
  FROM eventsaga.inbox i
 WHERE i.saga_id = $1::uuid AND i.answered_at IS NULL
 ORDER BY i.created_at
 LIMIT $2
"""

# Only what was read is dismissed, not what was posted anew since; whoever has to be told of it
# is told in the same commit. Fenced: a worker that was paused may have decided on a state that
# is not the last one, and to another owner the same request may mean everything.
DISMISS: Final = """
WITH dismissed AS (
    UPDATE eventsaga.inbox i
       SET refused = d.reason, answered_at = clock_timestamp()
      FROM unnest($2::uuid[], $3::uuid[], $4::text[], $5::int[], $6::timestamptz[])
           AS d(saga_id, id, reason, seq, posted_at)
      JOIN eventsaga.sagas s ON s.saga_id = d.saga_id
     WHERE i.saga_id = d.saga_id AND i.id = d.id AND i.answered_at IS NULL
       AND i.created_at = coalesce(d.posted_at, i.created_at)
       AND (s.owner = $1::uuid OR s.last_seq = d.seq)
 RETURNING i.saga_id
), told AS (
    INSERT INTO eventsaga.inbox (saga_id, id, kind, data, actor)
    SELECT o.saga_id, o.id, o.kind, o.data::json, o.actor
      FROM unnest($7::uuid[], $8::uuid[], $9::uuid[], $10::text[], $11::text[], $12::text[])
           AS o(sender, saga_id, id, kind, data, actor)
      JOIN eventsaga.sagas s ON s.saga_id = o.saga_id
     WHERE o.sender IN (SELECT saga_id FROM dismissed)
    ON CONFLICT DO NOTHING
)
SELECT count(*) FROM dismissed
"""

ANSWER: Final = """
SELECT refused, answered_at IS NULL AS is_open
  FROM eventsaga.inbox
 WHERE saga_id = $1::uuid AND id = $2::uuid
"""

# Answers that whoever asked has had the time to read.
SWEEP: Final = """
DELETE FROM eventsaga.inbox WHERE answered_at < clock_timestamp() - interval '1 hour'
"""


def post_arguments(message: Message) -> tuple[Any, ...]:
    """Return what `POST` takes for *message*."""
    return (
        message.saga_id,
        message.message_id,
        message.kind,
        sealed(dump(message.data), message.saga_id),
        message.actor,
    )


async def post(connection: Connection, statement: str, message: Message) -> bool:
    """Leave *message* in its saga's inbox, and return whether there is such a saga."""
    return bool(await connection.fetchval(statement, *post_arguments(message)))


async def dismiss(
    connection: Connection, statement: str, worker_id: UUID, dismissals: Sequence[Dismissal]
) -> None:
    """Answer requests that cause no event, and tell whom it concerns."""
    told = [
        (dismissal.saga_id, *post_arguments(message))
        for dismissal in dismissals
        for message in dismissal.outbox
    ]
    rows = [dismissal[:5] for dismissal in dismissals]
    await connection.execute(statement, worker_id, *columns(rows, 5), *columns(told, 6))


async def answer(connection: Connection, statement: str, saga_id: UUID, message_id: UUID) -> Answer:
    """Return what became of a request; the answer is known for an hour."""
    row = await connection.fetchrow(statement, saga_id, message_id)
    if row is not None and row["refused"] is not None:
        return Answer(reply=Reply.REFUSED, reason=row["refused"])
    is_open = row is not None and row["is_open"]
    return Answer(reply=Reply.OPEN if is_open else Reply.TAKEN)


async def read(connection: Connection, statement: str, of: UUID, limit: int) -> list[Message]:
    """Return at most *limit* requests to a saga, or to the sagas of a worker, oldest first."""
    return [
        Message(
            saga_id=row["saga_id"],
            message_id=row["id"],
            kind=row["kind"],
            data=_data(row["data"], row["saga_id"]),
            actor=row["actor"],
            posted_at=row["created_at"],
        )
        for row in await connection.fetch(statement, of, limit)
    ]


def _data(text: str, saga_id: UUID) -> Mapping[str, Any]:
    """Return the data of a request; empty if whoever inserted it wrote no JSON object.

    PostgreSQL takes more for json than there is data for, such as a lone surrogate.
    """
    try:
        data = load(opened(text, saga_id))
    except ValueError:
        return {}
    return cast("dict[str, Any]", data) if isinstance(data, dict) else {}

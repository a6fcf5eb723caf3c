"""Does a database hold what it must? Invariants 1, 3 and 19, computed without our own SQL.

Nothing of `eventsaga.store.postgres` is used here, so a statement that is wrong there does not
excuse itself. `tests/store/postgres/test_mutants.py` shows that the checker can fail.
"""

import json
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Final
from uuid import UUID

import asyncpg

from eventsaga.store.projection import project
from eventsaga.wire.chain import GENESIS
from eventsaga.wire.codec import decode

_EVENTS: Final = """
SELECT *, sha256(lag(hash, 1, $1::bytea) OVER (PARTITION BY saga_id ORDER BY seq)
                 || uuid_send(saga_id) || int4send(seq) || convert_to(type, 'UTF8')
                 || timestamptz_send(occurred_at)
                 || sha256(salt || convert_to(data::text, 'UTF8'))) AS computed
  FROM eventsaga.events
 ORDER BY saga_id, seq
"""

_PLAIN_COLUMNS: Final = (
    "name",
    "version",
    "fingerprint",
    "status",
    "correlation_id",
    "last_seq",
    "created_at",
    "updated_at",
    "parent_id",
    "parent_step",
)


async def flaws(connection: asyncpg.Connection) -> list[str]:
    """Return what is wrong with the sagas of a database; [] if nothing is."""
    rows = {row["saga_id"]: row for row in await connection.fetch("SELECT * FROM eventsaga.sagas")}
    events = await connection.fetch(_EVENTS, GENESIS)
    histories = {
        saga_id: list(group) for saga_id, group in groupby(events, key=itemgetter("saga_id"))
    }
    found = [f"{saga_id}: events without a row" for saga_id in histories.keys() - rows.keys()]
    for saga_id, row in rows.items():
        found += _flaws_of(saga_id, row, histories.get(saga_id, []))
    return found


def _flaws_of(saga_id: UUID, row: Any, events: Sequence[Any]) -> list[str]:
    sequence = [event["seq"] for event in events]
    if sequence != list(range(1, row["last_seq"] + 1)) or not sequence:
        return [f"{saga_id}: events {sequence}, but last_seq {row['last_seq']}"]
    found = [
        f"{saga_id}: the chain breaks at {event['seq']}"
        for event in events
        if event["hash"] != event["computed"]
    ]
    if events[-1]["hash"] != row["last_hash"]:
        found.append(f"{saga_id}: the head is not the last event's hash")
    history = (
        decode(event["type"], event["schema_version"], event["occurred_at"], event["data"])
        for event in events
    )
    expected = project(saga_id, history)
    found += [
        f"{saga_id}: {column} is {row[column]!r}"
        for column in _PLAIN_COLUMNS
        if row[column] != getattr(expected, column)
    ]
    if tuple(row["current_steps"]) != expected.current_steps:
        found.append(f"{saga_id}: current_steps is {row['current_steps']}")
    for column, text in (("context", expected.context), ("error", expected.error)):
        if row[column] != text:
            found.append(f"{saga_id}: {column} is {row[column]}, not {text}")
    return found


async def event_types(connection: asyncpg.Connection, saga_id: UUID) -> list[str]:
    """Return the stored names of a saga's events, in order."""
    rows = await connection.fetch(
        "SELECT type FROM eventsaga.events WHERE saga_id = $1 ORDER BY seq", saga_id
    )
    return [row["type"] for row in rows]


async def saga_row(connection: asyncpg.Connection, saga_id: UUID) -> dict[str, Any]:
    """Return a saga's row, its JSON columns parsed."""
    row = await connection.fetchrow("SELECT * FROM eventsaga.sagas WHERE saga_id = $1", saga_id)
    assert row is not None
    return dict(row) | {"context": json.loads(row["context"])}

"""How do archived sagas come back? As they were, in the tables that they left or in others.

A file is checked as a whole before anything is written. What is there already is left alone,
so a run that was cut off is simply repeated. The row of a saga is folded from its events, as
everywhere. Events come back under the oldest place of the feed: they are no news.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import UUID

from eventsaga.errors import ArchiveError
from eventsaga.store.archive.check import Flaw, check
from eventsaga.store.archive.lines import Archived
from eventsaga.store.examine import read_history
from eventsaga.store.postgres.connect import Connection
from eventsaga.store.postgres.rebuild import CREATE, REPAIR, row_arguments
from eventsaga.store.postgres.rows import columns
from eventsaga.store.postgres.sql import qualify
from eventsaga.store.postgres.store import PostgresStore

_BATCH: Final = 100

# Rows that are there are locked: nobody appends between the look and the write.
STANDING: Final = """
WITH bounded AS MATERIALIZED (
    SELECT set_config('lock_timeout', '5s', true)
)
SELECT s.saga_id, s.last_seq, s.last_hash
  FROM eventsaga.sagas s, bounded
 WHERE s.saga_id = ANY ($1::uuid[])
 ORDER BY s.saga_id
   FOR UPDATE OF s
"""

HASHES: Final = """
SELECT e.hash
  FROM eventsaga.events e
 WHERE e.saga_id = $1::uuid AND e.seq = $2::int
"""

INSERT: Final = """
INSERT INTO eventsaga.events
       (saga_id, seq, type, schema_version, data, occurred_at, recorded_at, worker_id, salt, hash,
        digest, txid)
SELECT e.saga_id, e.seq, e.type, e.schema_version, e.data::json, e.occurred_at, e.recorded_at,
       e.worker_id, e.salt, e.hash, e.digest, '0'
  FROM unnest($1::uuid[], $2::int[], $3::text[], $4::smallint[], $5::text[], $6::timestamptz[],
              $7::timestamptz[], $8::uuid[], $9::bytea[], $10::bytea[], $11::bytea[])
       AS e(saga_id, seq, type, schema_version, data, occurred_at, recorded_at, worker_id, salt,
            hash, digest)
"""

KEEP_KEY: Final = """
INSERT INTO eventsaga.start_keys (saga_name, key, saga_id, input_digest)
VALUES ($1::text, $2::text, $3::uuid, $4::bytea)
ON CONFLICT (saga_name, key) DO NOTHING
"""

KEPT: Final = """
SELECT saga_id FROM eventsaga.start_keys WHERE saga_name = $1::text AND key = $2::text
"""


class Standing(NamedTuple):
    """Where a saga stands that is there already."""

    last_seq: int
    last_hash: bytes


class Brought(NamedTuple):
    """What came back.

    Attributes:
        sagas: How many were written.
        events: How many events they have.
        known: How many were there already.
    """

    sagas: int
    events: int
    known: int


async def bring_back(
    store: PostgresStore, path: Path, progress: Callable[[int, int], None] | None = None
) -> Brought:
    """Write the sagas of an archive into the tables.

    Args:
        store: An open store.
        path: The file.
        progress: Called with the sagas done and all that there are.

    Raises:
        ArchiveError: If the file is not what was written, or a saga has gone another way here
            since; that batch, and those behind it, are not written.
        DatabaseUnavailableError: If the database cannot be reached; repeat it.
    """
    total = _sound(path)
    sagas = events = known = 0
    for batch in _batches(_archived(path)):
        async with (
            store.connection() as connection,
            connection.transaction(isolation="read_committed"),
        ):
            for saga in batch:
                written = await _write(connection, store, path, saga)
                sagas, known = sagas + bool(written), known + (not written)
                events += written
        if progress is not None:
            progress(sagas + known, total)
    return Brought(sagas, events, known)


def _sound(path: Path) -> int:
    """Return how many sagas the file has, if it may be believed."""
    count = 0
    for found in check(path):
        if isinstance(found, Flaw):
            raise ArchiveError(str(path), f"{found}; nothing was imported")
        count += 1
    return count


def _archived(path: Path) -> Iterator[Archived]:
    for found in check(path):
        if isinstance(found, Flaw):
            # It was sound a moment ago.
            raise ArchiveError(str(path), f"{found}; somebody changes it")
        yield found


def _batches(sagas: Iterable[Archived]) -> Iterator[list[Archived]]:
    iterator = iter(sagas)
    while batch := list(islice(iterator, _BATCH)):
        yield batch


async def _write(connection: Connection, store: PostgresStore, path: Path, saga: Archived) -> int:
    """Write what is missing of *saga*, and return how many events that are."""
    schema, saga_id = store.settings.schema, saga.saga_id
    rows = await connection.fetch(qualify(STANDING, schema), [saga_id])
    standing = Standing(rows[0]["last_seq"], rows[0]["last_hash"]) if rows else None
    if standing is not None and not await _follows(connection, schema, standing, saga):
        reason = f"saga {saga_id} is here already, and has gone another way"
        raise ArchiveError(str(path), reason)
    missing = saga.records[0 if standing is None else standing.last_seq :]
    if not missing:
        return 0
    await _keep_key(connection, schema, path, saga)
    arguments = columns(_as_rows(missing), 11)
    await connection.execute(qualify(INSERT, schema), *arguments)
    statement = qualify(CREATE if standing is None else REPAIR, schema)
    await connection.execute(
        statement, *row_arguments(saga_id, read_history(saga_id, saga.records))
    )
    return len(missing)


async def _follows(connection: Connection, schema: str, standing: Standing, saga: Archived) -> bool:
    """Whether what is here and what is in the file are one history, however far each is."""
    if standing.last_seq <= len(saga.records):
        return saga.records[standing.last_seq - 1].hash == standing.last_hash
    here: bytes | None = await connection.fetchval(
        qualify(HASHES, schema), saga.saga_id, len(saga.records)
    )
    return here == saga.records[-1].hash


async def _keep_key(connection: Connection, schema: str, path: Path, saga: Archived) -> None:
    key = saga.start_key
    if key is None:
        return
    kept = (key.saga_name, key.key, saga.saga_id, key.input_digest)
    await connection.execute(qualify(KEEP_KEY, schema), *kept)
    owner: UUID = await connection.fetchval(qualify(KEPT, schema), key.saga_name, key.key)
    if owner != saga.saga_id:
        reason = f"the start key {key.key!r} of saga {saga.saga_id} stands for {owner} here"
        raise ArchiveError(str(path), reason)


def _as_rows(records: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    return (
        (
            record.saga_id,
            record.seq,
            record.type,
            record.schema_version,
            record.data,
            record.occurred_at,
            record.recorded_at,
            record.worker_id,
            record.salt,
            record.hash,
            record.digest,
        )
        for record in records
    )

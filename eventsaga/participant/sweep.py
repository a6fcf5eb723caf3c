"""When is a key forgotten? When nobody comes with it any more; then it is deleted here."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sqlalchemy import Column, Table, delete, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from eventsaga.participant.tables import tables_in

_BATCH: Final = 5_000


@dataclass(frozen=True, slots=True)
class Swept:
    """What was deleted.

    Attributes:
        keys: Stored replies.
        barriers: Records of what was done and undone.
    """

    keys: int
    barriers: int


async def sweep(engine: AsyncEngine, older_than: timedelta, *, schema: str | None = None) -> Swept:
    """Delete keys and barriers that are older, in short transactions of their own.

    A request whose key was deleted is applied again, and a request that comes after the
    barrier of its undo was deleted is done. So *older_than* must be longer than any caller
    still sends the same request: longer than ``Step(key_ttl=…)`` of every saga that calls,
    and longer than any queue or proxy on the way may hold a request back. Days, not minutes.

    Args:
        engine: The participant's database.
        older_than: Age by the database's clock: of a key since it was answered, of a barrier
            since it was last asked.
        schema: Schema of the tables; None for the search path.

    Raises:
        ValueError: If *older_than* is not positive.
    """
    if older_than <= timedelta(0):
        raise ValueError(f"older_than={older_than} would delete keys that are in use")
    tables = tables_in(schema)
    keys, barriers = tables.keys, tables.barriers
    return Swept(
        await _delete(engine, keys, keys.c.created_at, older_than),
        await _delete(engine, barriers, barriers.c.touched_at, older_than),
    )


async def forget(
    connection: AsyncConnection | AsyncSession,
    key: str,
    *,
    caller: str = "",
    schema: str | None = None,
) -> bool:
    """Delete the stored reply of one key, so that the next request with it is applied.

    For a refusal whose cause was mended. Does not commit.

    Args:
        connection: Where to delete it.
        key: The key, as the caller sent it.
        caller: Whose key it is, see ``caller_of`` of the middleware.
        schema: Schema of the tables; None for the search path.

    Returns:
        Whether there was one.
    """
    keys = tables_in(schema).keys
    deleting = delete(keys).where(keys.c.caller == caller, keys.c.key == key)
    found = await connection.execute(deleting.returning(keys.c.key))
    return found.first() is not None


async def _delete(
    engine: AsyncEngine, table: Table, instant: "Column[object]", older_than: timedelta
) -> int:
    keys = tuple(table.primary_key.columns)
    # Whoever holds a row's lock is at work with it, so the row is not old.
    old = (
        select(*keys)
        .where(instant < func.clock_timestamp() - older_than)
        .limit(_BATCH)
        .with_for_update(skip_locked=True)
    )
    total, deleted = 0, _BATCH
    while deleted == _BATCH:
        async with engine.begin() as connection:
            result = await connection.execute(delete(table).where(tuple_(*keys).in_(old)))
            deleted = result.rowcount
        total += deleted
    return total

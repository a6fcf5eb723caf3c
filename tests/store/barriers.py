"""How is an interleaving forced? By waiting until PostgreSQL itself says who waits for whom."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final
from uuid import UUID

import asyncpg

_BLOCKED: Final = """
SELECT count(*) FROM pg_stat_activity
 WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE $1
"""

PATIENCE: Final = 30.0
"""Seconds after which a test gives up; none of them comes near."""


async def until(sql: asyncpg.Connection, condition: str, *arguments: Any) -> None:
    """Return as soon as *condition*, a query for one boolean, is true."""
    async with asyncio.timeout(PATIENCE):
        while not await sql.fetchval(condition, *arguments):
            pass  # the query is the wait


async def until_blocked(sql: asyncpg.Connection, text: str, count: int = 1) -> None:
    """Return when *count* statements with *text* in them wait for somebody's lock."""
    await until(sql, f"SELECT ({_BLOCKED}) >= $2", f"%{text}%", count)


async def until_alone(sql: asyncpg.Connection) -> None:
    """Return when no other client is connected: a closed one takes a moment to be gone."""
    await until(
        sql,
        "SELECT count(*) = 1 FROM pg_stat_activity"
        " WHERE datname = current_database() AND backend_type = 'client backend'",
    )


@contextmanager
def logged(text: str) -> Generator[asyncio.Event]:
    """Set the event as soon as eventsaga logs a line with *text* in it."""
    loop, seen = asyncio.get_running_loop(), asyncio.Event()

    class Watcher(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if text in record.getMessage():
                loop.call_soon_threadsafe(seen.set)

    watcher, log = Watcher(), logging.getLogger("eventsaga")
    log.addHandler(watcher)
    try:
        yield seen
    finally:
        log.removeHandler(watcher)


@asynccontextmanager
async def transaction(url: str) -> AsyncGenerator[asyncpg.Connection]:
    """Open a transaction of somebody else; it is committed at the end of the block."""
    stranger = await asyncpg.connect(url)
    try:
        async with stranger.transaction():
            yield stranger
    finally:
        await stranger.close()


@asynccontextmanager
async def locked(url: str, saga_id: UUID) -> AsyncGenerator[asyncpg.Connection]:
    """Hold the row of *saga_id* in a transaction of somebody else, until the block ends."""
    async with transaction(url) as stranger:
        await stranger.execute("SELECT FROM eventsaga.sagas WHERE saga_id = $1 FOR UPDATE", saga_id)
        yield stranger

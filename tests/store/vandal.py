"""Who changes what must not change? Somebody with the owner's password, past every trigger."""

from typing import Any
from uuid import UUID

import asyncpg

from eventsaga.store.ports import Committed
from eventsaga.store.postgres.store import PostgresStore
from tests.store.builders import Held, advance, failure_of, new_worker, start_saga


class Vandal:
    """Edits rows of one database, by statements that take the saga's id as ``$1``."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def edit(self, statement: str, *arguments: Any) -> None:
        """Run *statement* on tables whose triggers are silenced meanwhile."""
        connection = await asyncpg.connect(self._url)
        try:
            async with connection.transaction():
                await connection.execute("ALTER TABLE eventsaga.events DISABLE TRIGGER USER")
                await connection.execute(statement, *arguments)
                await connection.execute(
                    "ALTER TABLE eventsaga.events ENABLE ALWAYS TRIGGER events_append_only"
                )
                await connection.execute(
                    "ALTER TABLE eventsaga.events ENABLE ALWAYS TRIGGER events_no_truncate"
                )
        finally:
            await connection.close()

    async def row(self, saga_id: UUID) -> dict[str, Any]:
        """Return the row of a saga as it is, apart from its lease; {} if there is none."""
        connection = await asyncpg.connect(self._url)
        try:
            row = await connection.fetchrow(
                "SELECT * FROM eventsaga.sagas WHERE saga_id = $1", saga_id
            )
            return {} if row is None else dict(row)
        finally:
            await connection.close()


async def run_to_the_end(store: PostgresStore, owner: UUID, *, failing: str | None = None) -> Held:
    """Start a saga and drive it until it has ended; *failing* names a step that fails."""
    held = await start_saga(store, owner)
    while not held.state.status.is_settled:
        fails = failing is not None and failing in held.state.open_steps
        result = await advance(
            store, held, owner, failure_of(failing) if fails and failing else None
        )
        assert isinstance(result, Committed)
        failing = None if fails else failing
    return held


async def all_sorts(store: PostgresStore) -> list[Held]:
    """Return sagas of every kind: waiting, running, completed, compensated."""
    owner = await new_worker(store)
    return [
        await start_saga(store),
        await start_saga(store, owner),
        await run_to_the_end(store, owner),
        await run_to_the_end(store, owner, failing="ship"),
    ]

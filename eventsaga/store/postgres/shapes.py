"""Which shape does a saga have that is not at hand as code? Those that were recorded."""

from collections.abc import Mapping
from typing import Any, Final

from eventsaga.core.graph import SagaDefinition
from eventsaga.core.shape import nodes_from
from eventsaga.store.ports import DefinitionKey
from eventsaga.store.postgres.sql import qualify
from eventsaga.store.postgres.store import PostgresStore
from eventsaga.wire.payload import load

NEWEST: Final = """
SELECT name, version, graph
  FROM eventsaga.definitions
 WHERE name = $1::text
   AND ($2::int IS NULL OR version = $2::int)
   AND ($3::text IS NULL OR fingerprint = $3::text)
 ORDER BY version DESC, first_seen_at DESC
 LIMIT 1
"""

ALL: Final = """
SELECT name, version, fingerprint, graph FROM eventsaga.definitions
"""


async def all_recorded(store: PostgresStore) -> dict[DefinitionKey, Mapping[str, Any]]:
    """Return every shape that was ever recorded; there are as many as there were versions."""
    async with store.connection() as connection:
        rows = await connection.fetch(qualify(ALL, store.settings.schema))
    return {(row["name"], row["version"], row["fingerprint"]): load(row["graph"]) for row in rows}


async def recorded(
    store: PostgresStore, name: str, version: int | None = None, fingerprint: str | None = None
) -> SagaDefinition | None:
    """Return a definition from its recorded shape; None if there is none that fits.

    Args:
        store: An open store.
        name: Name of the saga.
        version: None for the highest.
        fingerprint: None for the one that was brought last.

    Raises:
        DefinitionError: If a newer eventsaga recorded it.
    """
    statement = qualify(NEWEST, store.settings.schema)
    async with store.connection() as connection:
        row: Any = await connection.fetchrow(statement, name, version, fingerprint)
    if row is None:
        return None
    nodes = nodes_from(load(row["graph"]))
    return SagaDefinition(name=row["name"], version=row["version"], nodes=nodes)

"""Which shapes of sagas were ever brought? Recorded once, by the first worker that has one."""

from collections.abc import Mapping
from typing import Any, Final

from eventsaga.store.ports import DefinitionKey
from eventsaga.store.postgres.connect import Connection
from eventsaga.wire.payload import dump

RECORD: Final = """
INSERT INTO eventsaga.definitions (name, version, fingerprint, graph)
SELECT * FROM unnest($1::text[], $2::int[], $3::text[], $4::json[])
ON CONFLICT DO NOTHING
"""


async def record(
    connection: Connection, statement: str, graphs: Mapping[DefinitionKey, Mapping[str, Any]]
) -> None:
    """Record *graphs* by name, version and fingerprint; known ones stay as they are."""
    names, versions, fingerprints = ([key[part] for key in graphs] for part in range(3))
    texts = [dump(graph) for graph in graphs.values()]
    await connection.execute(statement, names, versions, fingerprints, texts)

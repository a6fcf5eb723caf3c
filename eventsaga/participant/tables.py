"""Which tables does a participant need? One for replies under their keys, one for barriers."""

from dataclasses import dataclass
from functools import cache
from typing import Final

from sqlalchemy import (
    JSON,
    Column,
    DateTime,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    func,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.schema import CreateSchema

_KEYS: Final = "participant_keys"
_BARRIERS: Final = "participant_barriers"
_INSTANT: Final = DateTime(timezone=True)
_LOCK: Final = 0x6573_7061_7274  # any number that others are unlikely to lock


@dataclass(frozen=True, slots=True)
class ParticipantTables:
    """The tables of one participant.

    Attributes:
        keys: A row for each key that was answered: the request's fingerprint and the reply.
        barriers: A row for each thing that was done or undone.
    """

    keys: Table
    barriers: Table


def participant_tables(
    metadata: MetaData | None = None, *, schema: str | None = None
) -> ParticipantTables:
    """Return the tables, and describe them in *metadata*.

    Give it the metadata of your models, and Alembic autogenerates the tables with yours.

    Args:
        metadata: Where they are described; None for a new one.
        schema: Schema of the tables; None for the first one on the search path.
    """
    metadata = MetaData() if metadata is None else metadata
    return ParticipantTables(_keys(metadata, schema), _barriers(metadata, schema))


def _keys(metadata: MetaData, schema: str | None) -> Table:
    return Table(
        _KEYS,
        metadata,
        Column("caller", Text, nullable=False, comment="whose key it is; empty if all share them"),
        Column("key", Text, nullable=False),
        Column("fingerprint", LargeBinary, nullable=False, comment="SHA-256 of the request"),
        Column("status", SmallInteger, nullable=False),
        Column("headers", JSON, nullable=False, comment="[[name, value], ...] as latin-1"),
        Column("body", LargeBinary, nullable=False),
        Column("created_at", _INSTANT, nullable=False, server_default=text("clock_timestamp()")),
        # The wall against applying a request twice.
        PrimaryKeyConstraint("caller", "key", name=f"{_KEYS}_pkey"),
        Index(f"{_KEYS}_by_age", "created_at"),
        comment="requests that were answered, and how",
        schema=schema,
    )


def _barriers(metadata: MetaData, schema: str | None) -> Table:
    return Table(
        _BARRIERS,
        metadata,
        Column("group_id", Text, nullable=False, comment="the saga, or the order"),
        Column("step", Text, nullable=False),
        Column("done", ARRAY(Integer), nullable=False, comment="parts that were done"),
        Column("undone", ARRAY(Integer), nullable=False, comment="parts that were undone"),
        Column("touched_at", _INSTANT, nullable=False, server_default=text("clock_timestamp()")),
        # One row for both directions: its lock is what puts them in order.
        PrimaryKeyConstraint("group_id", "step", name=f"{_BARRIERS}_pkey"),
        Index(f"{_BARRIERS}_by_age", "touched_at"),
        comment="what was done and undone, so that each happens once and none too late",
        schema=schema,
    )


@cache  # SQLAlchemy caches statements by the tables that they are made of
def tables_in(schema: str | None) -> ParticipantTables:
    """Return the tables of *schema* for statements."""
    return participant_tables(schema=schema)


async def create_tables(engine: AsyncEngine, schema: str | None = None) -> None:
    """Create what is missing of the tables, and of the schema. May run again, and at once.

    Args:
        engine: The participant's database.
        schema: Schema of the tables; None for the first one on the search path.

    Raises:
        sqlalchemy.exc.DBAPIError: If the user may not create them.
    """
    tables = tables_in(schema)
    async with engine.begin() as connection:
        # IF NOT EXISTS does not keep two processes that start together apart.
        await connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
        if schema is not None:
            await connection.execute(CreateSchema(schema, if_not_exists=True))
        await connection.run_sync(tables.keys.metadata.create_all)

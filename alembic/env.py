"""How does the schema change? Alembic's entry, for the command line and for `eventsaga db`.

The scripts write the schema's default name; another one is put in its place by
`eventsaga.store.postgres.sql.qualify`.
"""

import asyncio
import os
from collections.abc import Sequence
from typing import Any

from alembic import context
from alembic.util.exc import CommandError
from sqlalchemy import Connection, pool, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.schema import CreateSchema

from eventsaga.errors import SettingsError
from eventsaga.settings import Settings
from eventsaga.store.postgres.connect import sqlalchemy_url
from eventsaga.store.postgres.contract import CREATE, DROP
from eventsaga.store.postgres.sql import qualify
from eventsaga.store.postgres.tables import metadata_in

config = context.config
_arguments = context.get_x_argument(as_dictionary=True)


def _checked(schema: str) -> str:
    try:
        return Settings(schema=schema).schema
    except SettingsError as error:
        raise CommandError(str(error)) from error


_schema = _checked(config.attributes.get("schema") or _arguments.get("schema") or "eventsaga")


def _url() -> str:
    url = (
        config.attributes.get("url")
        or _arguments.get("url")
        or os.environ.get("EVENTSAGA_DATABASE_URL")
    )
    if not url:
        raise CommandError("set EVENTSAGA_DATABASE_URL, or pass -x url=postgresql://…")
    return str(url)


def _is_ours(name: str | None, kind: str, _parents: object) -> bool:
    # Tables of the user's application in the same database are none of our business.
    return kind != "schema" or name == _schema


def _configure(connection: Connection | None) -> None:
    options: dict[str, Any] = {
        "target_metadata": metadata_in(_schema),
        "version_table_schema": _schema,
        "include_schemas": True,
        "include_name": _is_ours,
        "compare_server_default": True,
        "compare_type": True,
        "schema": _schema,
    }
    if connection is None:
        context.configure(
            dialect_name="postgresql",
            # Another style would write every "%" of a function's body twice.
            dialect_opts={"paramstyle": "named"},
            literal_binds=True,
            output_buffer=config.output_buffer,
            **options,
        )
    else:
        context.configure(connection=connection, **options)


def _migrate() -> None:
    """Change the tables; the views and functions on them are those of the newest revision."""
    migration, newest = context.get_context(), context.get_head_revision()
    if "destination_rev" not in migration.opts:  # somebody only looks
        context.run_migrations()
        return
    is_to_be_newest = context.get_revision_argument() == newest
    if not is_to_be_newest:
        _execute(DROP)
    context.run_migrations()
    if is_to_be_newest if context.is_offline_mode() else migration.get_current_revision() == newest:
        _execute(CREATE)


def _execute(statements: Sequence[str]) -> None:
    for statement in statements:
        context.execute(qualify(statement, _schema))


def _run_offline() -> None:
    _configure(None)
    with context.begin_transaction():
        context.execute(f'CREATE SCHEMA IF NOT EXISTS "{_schema}"')
        _migrate()


def _run(connection: Connection) -> None:
    _configure(connection)
    # Two processes that migrate at once would both find nothing: one waits for the other.
    connection.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"),
        {"name": f"eventsaga:{_schema}"},
    )
    connection.execute(CreateSchema(_schema, if_not_exists=True))
    with context.begin_transaction():
        _migrate()


async def _run_online() -> None:
    role = os.environ.get("EVENTSAGA_ROLE")
    engine = create_async_engine(
        sqlalchemy_url(_url()),
        poolclass=pool.NullPool,
        connect_args={"server_settings": {"role": role}} if role else {},
    )
    try:
        async with engine.begin() as connection:
            await connection.run_sync(_run)
    finally:
        await engine.dispose()


if context.is_offline_mode():
    _run_offline()
elif (given := config.attributes.get("connection")) is not None:
    _run(given)
else:
    asyncio.run(_run_online())

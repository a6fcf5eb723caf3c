"""Where do the examples run? On the database of the environment, or on an embedded one."""

import os
from collections.abc import Generator
from contextlib import contextmanager

from eventsaga.store.postgres import migrate


@contextmanager
def database() -> Generator[str]:
    """Lend the URL of a migrated database."""
    url = os.environ.get("EVENTSAGA_DATABASE_URL")
    if url is not None:
        yield url
        return
    from eventsaga.embedded import embedded_postgres

    with embedded_postgres(ephemeral=True) as server:
        migrate.upgrade(server.url, schema="eventsaga")
        yield server.url

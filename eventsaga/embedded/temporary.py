"""How do tests get a server of their own, and who deletes what a killed test run left?"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from eventsaga.embedded.lock import exclusive
from eventsaga.embedded.server import Server, Settings

_PREFIX: Final = "eventsaga-pg-"
# The disk need not hold what is deleted at the end anyway.
_FAST: Final[Settings] = {"fsync": False, "full_page_writes": False}


def create_temporary_server(programs: Path, settings: Settings) -> Server:
    """Return a server in a new temporary directory, entered but not started.

    Directories whose processes were killed are deleted first, their servers stopped.
    """
    base = Path(tempfile.gettempdir()).resolve()
    # Nobody may take a directory for abandoned between its creation and its first user.
    with exclusive(base / f"{_PREFIX}{os.geteuid()}.lock"):
        for path in base.glob(f"{_PREFIX}*/"):
            _delete_if_abandoned(path, programs)
        server = Server(
            Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base)), programs, {**_FAST, **settings}
        )
        server.enter()
    return server


def _delete_if_abandoned(path: Path, programs: Path) -> None:
    if path.is_symlink() or path.stat().st_uid != os.geteuid():
        return
    if not (path / "users.lock").exists():
        shutil.rmtree(path, ignore_errors=True)
        return
    Server(path, programs, {}).delete_if_unused()

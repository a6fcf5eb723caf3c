"""How is SQL written here? As constants that name the default schema.

Statements say ``eventsaga.events``; a store with another schema has the prefix replaced
once, when it is built. The name is a strict identifier (see `Settings`), so quotes are all
that it needs (it may be a word of SQL), and nothing is put together from parts at run time.
"""

import re
from typing import Final

from eventsaga.store.postgres.tables import SCHEMA

_PREFIX: Final = re.compile(rf"\b{SCHEMA}\.(?=[a-z])")


def qualify(statement: str, schema: str) -> str:
    """Return *statement* for tables that live in *schema*."""
    return statement if schema == SCHEMA else _PREFIX.sub(f'"{schema}".', statement)

"""What is in a schema? Everything that PostgreSQL's catalog says of it, as sorted lines."""

from typing import Final

import asyncpg

_QUERIES: Final = {
    "column": """
        SELECT format('%s.%s %s%s default %s collation %s # %s', c.relname, a.attname,
                      format_type(a.atttypid, a.atttypmod),
                      CASE WHEN a.attnotnull THEN ' not null' ELSE '' END,
                      pg_get_expr(d.adbin, d.adrelid), a.attcollation::regcollation,
                      col_description(c.oid, a.attnum))
          FROM pg_attribute a
          JOIN pg_class c ON c.oid = a.attrelid
          LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
         WHERE c.relnamespace = $1::regnamespace AND c.relkind IN ('r', 'p', 'v')
           AND a.attnum > 0 AND NOT a.attisdropped
    """,
    "relation": """
        SELECT format('%s %s %s # %s', c.relkind, c.relname, c.reloptions,
                      obj_description(c.oid, 'pg_class'))
          FROM pg_class c
         WHERE c.relnamespace = $1::regnamespace
    """,
    "constraint": """
        SELECT format('%s on %s: %s', k.conname, k.conrelid::regclass, pg_get_constraintdef(k.oid))
          FROM pg_constraint k
         WHERE k.connamespace = $1::regnamespace
    """,
    "index": "SELECT indexdef FROM pg_indexes WHERE schemaname = $1",
    "trigger": """
        SELECT format('%s %s', pg_get_triggerdef(t.oid), t.tgenabled)
          FROM pg_trigger t
          JOIN pg_class c ON c.oid = t.tgrelid
         WHERE c.relnamespace = $1::regnamespace AND NOT t.tgisinternal
    """,
    "function": """
        SELECT pg_get_functiondef(p.oid) FROM pg_proc p WHERE p.pronamespace = $1::regnamespace
    """,
}


async def describe(url: str, schema: str) -> list[str]:
    """Return the catalog of *schema*, with its name written as the default one."""
    connection = await asyncpg.connect(url)
    try:
        # Names are shown with their schema only if it is not on the path.
        await connection.execute("SET search_path = pg_catalog")
        lines = [
            f"{kind}: {row[0]}"
            for kind, query in _QUERIES.items()
            for row in await connection.fetch(query, schema)
        ]
    finally:
        await connection.close()
    # The bodies of functions quote it.
    return sorted(
        line.replace(f'"{schema}"', schema).replace(f"{schema}.", "eventsaga.") for line in lines
    )

"""Who may do what? Six roles with exactly the rights that their work takes, and a check of them.

The roles have no login: those who log in are made members. They belong to the whole server,
so their names begin with that of the schema. The owner's rights are those of `SECURITY
DEFINER`: clients and erasers act through functions, and touch no table.
"""

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from eventsaga.store.postgres.connect import Connection
from eventsaga.store.postgres.sql import qualify
from eventsaga.store.postgres.tables import SCHEMA

OWNER: Final = "owner"
WORKER: Final = "worker"
CLIENT: Final = "client"
AUDITOR: Final = "auditor"
ERASER: Final = "eraser"
ARCHIVIST: Final = "archivist"

ROLES: Final[Mapping[str, str]] = {
    OWNER: "owns the tables; migrations run as it",
    WORKER: "runs sagas, and everything an operator does but redact",
    CLIENT: "starts, signals and cancels sagas by functions; reads nothing",
    AUDITOR: "reads the views; writes nothing",
    ERASER: "takes values out of histories; reads and writes nothing else",
    ARCHIVIST: "moves sagas that have ended out of the tables; starts and changes none",
}
"""Each role, without the name of the schema before it, and what it is for."""

_READ: Final = "SELECT"
_ADD: Final = "SELECT, INSERT"
_CHANGE: Final = "SELECT, INSERT, UPDATE"
_ALL: Final = "SELECT, INSERT, UPDATE, DELETE"

_TABLES: Final[Mapping[str, str]] = {
    "alembic_version": _READ,
    "archived_sagas": _READ,
    "definitions": _ADD,
    "events": _ADD,
    "feeds": _ALL,
    "inbox": _ALL,
    "incarnations": _CHANGE,
    "limits": _CHANGE,
    "permits": _ALL,
    "sagas": _CHANGE,
    "schedules": _CHANGE,
    "start_keys": _ADD,
    "workers": _ALL,
}
_ARCHIVED: Final[Mapping[str, str]] = {
    "alembic_version": _READ,
    "archived_events": _ADD,
    "archived_sagas": _READ,
    "events": _READ,
    "feeds": _READ,
    "inbox": _READ,
    "sagas": _READ,
    "start_keys": _READ,
}
_VIEWS: Final = (
    "chain",
    "compensations",
    "heads",
    "history",
    "in_doubt",
    "saga_list",
    "step_attempts",
    "stuck",
    "workers_live",
)
_ACTING: Final = (
    "cancel_saga(uuid, text, uuid, text)",
    "signal_saga(uuid, text, jsonb, uuid, text)",
    "start_saga(text, jsonb, text, text, integer)",
)
_LOOKING: Final = (
    "context_at(uuid, integer)",
    "context_at(uuid, timestamp with time zone)",
    "digest(bytea, text)",
    "link(bytea, uuid, integer, text, timestamp with time zone, bytea)",
    "tenant()",
    "verify_chain(uuid)",
)
_WORKING: Final = ("held_before()", "incarnation()", "is_numbered()")
_ARCHIVING: Final = ("remove_archived(uuid[], bytea[])",)
_ERASING: Final = ("redact(uuid, text, text, text)",)


class Grant(NamedTuple):
    """One role's rights on one thing.

    Attributes:
        role: One of `ROLES`.
        kind: ``SCHEMA``, ``TABLE`` or ``FUNCTION``.
        name: A table or view, or a function with the types of its arguments; "" for the schema.
        rights: As SQL has them, with commas between.
    """

    role: str
    kind: str
    name: str
    rights: str


GRANTS: Final = (
    *(Grant(role, "SCHEMA", "", "USAGE") for role in ROLES if role != OWNER),
    *(Grant(WORKER, "TABLE", table, rights) for table, rights in _TABLES.items()),
    *(Grant(ARCHIVIST, "TABLE", table, rights) for table, rights in _ARCHIVED.items()),
    *(Grant(role, "TABLE", view, _READ) for role in (WORKER, AUDITOR) for view in _VIEWS),
    Grant(ERASER, "TABLE", "alembic_version", _READ),
    *(Grant(WORKER, "FUNCTION", name, "EXECUTE") for name in (*_WORKING, *_ACTING, *_LOOKING)),
    *(Grant(CLIENT, "FUNCTION", name, "EXECUTE") for name in _ACTING),
    *(Grant(AUDITOR, "FUNCTION", name, "EXECUTE") for name in _LOOKING),
    *(Grant(ERASER, "FUNCTION", name, "EXECUTE") for name in _ERASING),
    *(Grant(ARCHIVIST, "FUNCTION", name, "EXECUTE") for name in _ARCHIVING),
)
"""What everybody but the owner may, and nothing else."""

# Not by the function of this name: policies would keep it from being replaced.
_WHOSE: Final = "(SELECT nullif(current_setting('eventsaga' || '.tenant', true), ''))"

# Tables of which each tenant has rows, and how to tell whose a row is.
_OF_TENANTS: Final[Mapping[str, str]] = {
    "sagas": f"tenant IS NOT DISTINCT FROM {_WHOSE}",
    "events": (
        "EXISTS (SELECT FROM eventsaga.sagas s WHERE s.saga_id = events.saga_id"  # noqa: S608
        f" AND s.tenant IS NOT DISTINCT FROM {_WHOSE})"
    ),
}

# The owner's rights are those of every view, so it is the one who looks that counts.
_ALL_TENANTS: Final = (
    "(SELECT pg_has_role(current_user, '{owner}', 'MEMBER')"
    " OR pg_has_role(current_user, '{worker}', 'MEMBER')"
    " OR pg_has_role(current_user, 'pg_read_all_data', 'MEMBER'))"
)

# One name a line in what PostgreSQL's catalog says of owners and rights; PUBLIC is 0.
_FOUND: Final = """
WITH things AS (
    SELECT 'SCHEMA' AS kind, '' COLLATE "C" AS name, nspowner AS owner,
           coalesce(nspacl, acldefault('n', nspowner)) AS acl
      FROM pg_namespace WHERE nspname = $1
     UNION ALL
    SELECT 'TABLE', relname::text, relowner, coalesce(relacl, acldefault('r', relowner))
      FROM pg_class WHERE relnamespace = $1::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f')
     UNION ALL
    SELECT 'TABLE', c.relname || '.' || a.attname, c.relowner, a.attacl
      FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
     WHERE c.relnamespace = $1::regnamespace AND a.attacl IS NOT NULL
     UNION ALL
    SELECT 'FUNCTION', format('%s(%s)', proname, oidvectortypes(proargtypes)), proowner,
           coalesce(proacl, acldefault('f', proowner))
      FROM pg_proc WHERE pronamespace = $1::regnamespace
)
SELECT t.kind, t.name, pg_get_userbyid(t.owner) AS owner,
       CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee) END AS grantee,
       a.privilege_type AS right
  FROM things t
  LEFT JOIN LATERAL aclexplode(t.acl) a ON a.grantee <> t.owner
"""

_ATTRIBUTES: Final = """
SELECT r.rolname AS role,
       r.rolsuper OR r.rolbypassrls OR r.rolcreaterole
           OR (r.rolname <> $2 AND pg_has_role(r.oid, o.oid, 'MEMBER')) AS is_mighty
  FROM pg_roles r
  LEFT JOIN pg_roles o ON o.rolname = $2
 WHERE r.rolname = ANY ($1)
"""

_TRIGGERS: Final = """
SELECT count(*)
  FROM pg_trigger
 WHERE tgrelid = 'eventsaga.events'::regclass AND tgenabled = 'A'
   AND tgname IN ('events_append_only', 'events_no_truncate')
"""

_SECURED: Final = """
SELECT count(*)
  FROM pg_class c
 WHERE relnamespace = $1::regnamespace AND relname = ANY ($2)
   AND relrowsecurity AND relforcerowsecurity
   AND (SELECT array_agg(polname::text ORDER BY polname) FROM pg_policy p WHERE p.polrelid = c.oid)
       = '{tenants,workers}'
"""

_CREATE_ROLE: Final = """\
DO $$ BEGIN
    CREATE ROLE {role} NOLOGIN;
EXCEPTION WHEN duplicate_object THEN NULL;
END $$;"""

# Whoever may create the owner's role may become it, and give things to it.
_OWN: Final = """\
DO $$ DECLARE thing text; BEGIN
    IF NOT pg_has_role({owner!r}, 'MEMBER') THEN
        GRANT {owner} TO CURRENT_USER;
    END IF;
    ALTER SCHEMA {schema} OWNER TO {owner};
    FOR thing IN SELECT oid::regclass::text FROM pg_class
                  WHERE relnamespace = {schema_name!r}::regnamespace AND relkind IN ('r', 'p')
    LOOP EXECUTE format('ALTER TABLE %s OWNER TO {owner}', thing); END LOOP;
    FOR thing IN SELECT oid::regclass::text FROM pg_class
                  WHERE relnamespace = {schema_name!r}::regnamespace AND relkind = 'v'
    LOOP EXECUTE format('ALTER VIEW %s OWNER TO {owner}', thing); END LOOP;
    FOR thing IN SELECT oid::regprocedure::text FROM pg_proc
                  WHERE pronamespace = {schema_name!r}::regnamespace
    LOOP EXECUTE format('ALTER FUNCTION %s OWNER TO {owner}', thing); END LOOP;
END $$;"""


def role_name(role: str, schema: str = SCHEMA) -> str:
    """Return the name that *role* has on the server."""
    return f"{schema}_{role}"


def script(schema: str = SCHEMA) -> str:
    """Return the SQL that creates the roles, and gives them what they need and nothing else."""
    return "\n".join(_statements(schema)) + "\n"


def _statements(schema: str) -> Iterator[str]:
    quoted, owner = f'"{schema}"', role_name(OWNER, schema)
    others = ", ".join(f'"{role_name(role, schema)}"' for role in ROLES if role != OWNER)
    yield "BEGIN;"
    for role, purpose in ROLES.items():
        yield f"-- {role_name(role, schema)}: {purpose}."
        yield _CREATE_ROLE.format(role=role_name(role, schema))
    yield _OWN.format(owner=owner, schema=quoted, schema_name=schema)
    yield f"REVOKE ALL ON SCHEMA {quoted} FROM PUBLIC, {others};"
    for kind in ("TABLES", "FUNCTIONS"):
        yield f"REVOKE ALL ON ALL {kind} IN SCHEMA {quoted} FROM PUBLIC, {others};"
    for grant in GRANTS:
        thing = f"{quoted}.{grant.name}" if grant.name else quoted
        role = role_name(grant.role, schema)
        yield f'GRANT {grant.rights} ON {grant.kind} {thing} TO "{role}";'
    worker, archivist = role_name(WORKER, schema), role_name(ARCHIVIST, schema)
    everything = _ALL_TENANTS.format(owner=owner, worker=worker)
    for table, theirs in _OF_TENANTS.items():
        thing = f"{quoted}.{table}"
        yield f"DROP POLICY IF EXISTS tenants ON {thing};"
        yield f"DROP POLICY IF EXISTS workers ON {thing};"
        yield f'CREATE POLICY workers ON {thing} TO "{worker}", "{archivist}" USING (true);'
        yield (
            f'CREATE POLICY tenants ON {thing} TO "{owner}"'
            f" USING ({everything} OR {qualify(theirs, schema)});"
        )
        yield f"ALTER TABLE {thing} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
    yield "COMMIT;"


async def apply(connection: Connection, schema: str = SCHEMA) -> None:
    """Run `script`; needs the rights of the tables' present owner, and to create roles."""
    await connection.execute(script(schema))


async def check(connection: Connection, schema: str = SCHEMA) -> list[str]:
    """Return where owners and rights are not what `script` makes them; [] if they are."""
    owner = role_name(OWNER, schema)
    names = [role_name(role, schema) for role in ROLES]
    attributes = {row["role"]: row for row in await connection.fetch(_ATTRIBUTES, names, owner)}
    problems = [f"there is no role {name}" for name in names if name not in attributes]
    problems += [
        f"role {name} has the rights of a superuser, of the owner or of who makes roles"
        for name, row in attributes.items()
        if row["is_mighty"]
    ]
    found = await connection.fetch(_FOUND, schema)
    problems += sorted(
        {
            f"{_thing(row['kind'], row['name'])} belongs to {row['owner']}, not to {owner}"
            for row in found
            if row["owner"] != owner
        }
    )
    given = {
        (row["grantee"], row["kind"], row["name"], row["right"]) for row in found if row["grantee"]
    }
    wanted = {
        (role_name(grant.role, schema), grant.kind, grant.name, right)
        for grant in GRANTS
        for right in grant.rights.split(", ")
    }
    problems += [f"{_said(right)} is missing" for right in sorted(wanted - given)]
    problems += [f"{_said(right)} is too much" for right in sorted(given - wanted)]
    if await connection.fetchval(qualify(_TRIGGERS, schema)) != 2:  # noqa: PLR2004
        problems.append("the triggers that keep events as they are do not always fire")
    if await connection.fetchval(_SECURED, schema, list(_OF_TENANTS)) != len(_OF_TENANTS):
        problems.append("rows of one tenant are not kept from another")
    return problems


def _thing(kind: str, name: str) -> str:
    return f"{kind.lower()} {name}".rstrip() if name else "the schema"


def _said(right: tuple[str, str, str, str]) -> str:
    role, kind, name, what = right
    return f"{what} on {_thing(kind, name)} for {role}"

"""May everybody do what they should, and nothing else? Each role tries it, for real."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from eventsaga import Orchestrator, Saga, Settings, Step
from eventsaga.core.state import Status
from eventsaga.errors import DatabaseUnavailableError
from eventsaga.store.archive.file import ArchiveFile
from eventsaga.store.postgres import grants, migrate
from eventsaga.store.postgres.archive import IntoFile, archive
from eventsaga.store.postgres.bring_back import bring_back
from eventsaga.store.postgres.redact import redact
from tests.conftest import execute
from tests.runtime.sagas import QUICK, Order, orchestrating

ALL = ("worker", "client", "auditor", "eraser", "archivist")
VIEWS = (
    "saga_list",
    "history",
    "step_attempts",
    "in_doubt",
    "stuck",
    "compensations",
    "workers_live",
    "chain",
    "heads",
)
TABLES = (
    "events",
    "sagas",
    "workers",
    "definitions",
    "start_keys",
    "inbox",
    "limits",
    "permits",
    "incarnations",
    "schedules",
)


async def note(order: Order) -> dict[str, str]:
    return {"note": f"{order.note}+"}


AS_WORKER = replace(QUICK, role="eventsaga_worker")
PLAIN = Saga("plain", context=Order, steps=[Step("note", note)])


@pytest.fixture
def guarded(database: str) -> str:
    """URL of a database whose roles have their rights."""
    asyncio.run(execute(database, grants.script()))
    return database


@pytest.fixture
async def ended(guarded: str) -> UUID:
    """A saga that a worker, who is nothing more, has brought to its end."""
    async with orchestrating(guarded, PLAIN, settings=AS_WORKER) as orchestrator:
        handle = await orchestrator.start(PLAIN, Order(), key="o-1")
        assert (await handle.result(timeout=20)).status is Status.COMPLETED
    return handle.id


@pytest.fixture
async def sql(guarded: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(guarded)
    yield connection
    await connection.close()


async def may(sql: asyncpg.Connection, role: str, statement: str, *arguments: object) -> bool:
    """Return whether *role* is allowed *statement*; nothing is left of it."""
    transaction = sql.transaction()
    await transaction.start()
    try:
        await sql.execute(f"SET LOCAL ROLE eventsaga_{role}")
        await sql.execute(statement, *arguments)
    except asyncpg.InsufficientPrivilegeError:
        return False
    except asyncpg.RestrictViolationError:
        return True
    finally:
        await transaction.rollback()
    return True


@pytest.mark.parametrize("view", VIEWS)
async def test_views_are_for_auditors_and_workers(
    ended: UUID, sql: asyncpg.Connection, view: str
) -> None:
    assert {role for role in ALL if await may(sql, role, f"TABLE eventsaga.{view}")} == {
        "auditor",
        "worker",
    }


@pytest.mark.parametrize("table", TABLES)
async def test_tables_are_for_workers(ended: UUID, sql: asyncpg.Connection, table: str) -> None:
    for role in ("client", "auditor", "eraser"):
        for statement in ("TABLE", "DELETE FROM", "TRUNCATE", "INSERT INTO"):
            values = " DEFAULT VALUES" if statement == "INSERT INTO" else ""
            assert not await may(sql, role, f"{statement} eventsaga.{table}{values}")
        assert not await may(sql, role, f"LOCK TABLE eventsaga.{table}")
    assert await may(sql, "worker", f"TABLE eventsaga.{table}")
    assert not await may(sql, "worker", f"TRUNCATE eventsaga.{table}")
    assert not await may(sql, "worker", f"ALTER TABLE eventsaga.{table} DISABLE TRIGGER ALL")
    assert not await may(sql, "worker", f"DROP TABLE eventsaga.{table}")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE eventsaga.events SET data = '{}'",
        "DELETE FROM eventsaga.events",
        "DELETE FROM eventsaga.sagas",
        "DELETE FROM eventsaga.start_keys",
        "UPDATE eventsaga.start_keys SET saga_id = gen_random_uuid()",
        "SELECT eventsaga.redact(gen_random_uuid(), 'a', 'b')",
        "SELECT eventsaga.write_to(gen_random_uuid(), 'undo', '{}', NULL, NULL)",
        "CREATE TABLE eventsaga.mine ()",
        "CREATE FUNCTION eventsaga.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "SET session_replication_role = replica",
        "SET ROLE eventsaga_owner",
    ],
)
async def test_nobody_rewrites_history(
    ended: UUID, sql: asyncpg.Connection, statement: str
) -> None:
    redacts = "redact(" in statement
    for role in ALL:
        if redacts and role == "eraser":
            continue
        if statement.startswith("SET ROLE"):
            # Who has become one role may, as the one who logged in, become another: so log in.
            assert not await sql.fetchval(
                "SELECT pg_has_role($1, 'eventsaga_owner', 'MEMBER')", f"eventsaga_{role}"
            )
            continue
        assert not await may(sql, role, statement), role


async def test_a_client_starts_signals_and_cancels_and_sees_nothing(
    ended: UUID, sql: asyncpg.Connection
) -> None:
    start = "SELECT eventsaga.start_saga('plain', '{}', key => 'o-2')"
    assert {role for role in ALL if await may(sql, role, start)} == {"client", "worker"}
    await sql.execute("SET ROLE eventsaga_client")

    saga_id = await sql.fetchval(start)
    signal = await sql.fetchval("SELECT eventsaga.signal_saga($1, 'said', '{}')", saga_id)
    cancel = await sql.fetchval("SELECT eventsaga.cancel_saga($1, 'no more')", saga_id)

    await sql.execute("RESET ROLE")
    written = await sql.fetch("SELECT id, kind, actor FROM eventsaga.inbox ORDER BY kind")
    assert [(row["id"], row["kind"]) for row in written] == [(cancel, "cancel"), (signal, "signal")]
    # The one who logged in, not the owner, with whose rights the function runs.
    assert {row["actor"] for row in written} == {await sql.fetchval("SELECT session_user::text")}


async def test_a_function_with_the_owners_rights_takes_no_names_from_its_caller(
    ended: UUID, sql: asyncpg.Connection
) -> None:
    """A table, an operator or a type of the caller's stands before no other."""
    await sql.execute("CREATE SCHEMA eve; GRANT ALL ON SCHEMA eve TO eventsaga_client")
    await sql.execute("SET ROLE eventsaga_client")
    await sql.execute(
        "CREATE FUNCTION eve.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE 'run by %', current_user; END $$"
    )
    await sql.execute("SET search_path = eve, pg_catalog")

    assert await sql.fetchval("SELECT eventsaga.start_saga('plain', '{}')")


async def test_an_auditor_asks_what_was_known_and_whether_it_is_whole(
    ended: UUID, sql: asyncpg.Connection
) -> None:
    await sql.execute("SET ROLE eventsaga_auditor")

    context = await sql.fetchval("SELECT eventsaga.context_at($1, 1)", ended)
    assert '"note"' in context
    assert await sql.fetchval("SELECT eventsaga.context_at($1, now())", ended) != context
    assert await sql.fetch("SELECT * FROM eventsaga.verify_chain($1)", ended) == []


async def test_an_eraser_redacts_and_sees_nothing(ended: UUID, guarded: str) -> None:
    settings = Settings(role="eventsaga_eraser")
    async with Orchestrator(guarded, worker=False, settings=settings) as orchestrator:
        with pytest.raises(DatabaseUnavailableError, match="permission denied"):
            await orchestrator.get(ended)
        changed = await redact(orchestrator.store, ended, "note", reason="r", actor="dpo")
    assert changed == 1


async def test_an_archivist_archives_and_nobody_else_can(
    ended: UUID, guarded: str, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    await sql.execute("UPDATE eventsaga.sagas SET owner = NULL, wake_at = NULL")
    for role in ALL:
        by_hand = await may(sql, role, "SELECT eventsaga.remove_archived('{}', '{}')")
        assert by_hand == (role == "archivist")
        assert not await may(sql, role, "SELECT eventsaga.renumber_events()")
        assert not await may(sql, role, "DELETE FROM eventsaga.archived_sagas")
        assert not await may(sql, role, "DELETE FROM eventsaga.archived_events")
    settings = Settings(role="eventsaga_archivist")
    async with Orchestrator(guarded, worker=False, settings=settings) as orchestrator:
        with ArchiveFile(tmp_path / "sagas.jsonl.gz") as file:
            moving = archive(orchestrator.store, IntoFile(file), older_than=timedelta(0))
            assert sum([outcome.sagas async for outcome in moving]) == 1
    async with Orchestrator(guarded, worker=False, settings=AS_WORKER) as orchestrator:
        brought = await bring_back(orchestrator.store, tmp_path / "sagas.jsonl.gz")
        assert brought.sagas == 1
        assert (await orchestrator.get(ended)).status is Status.COMPLETED


async def test_the_rights_are_those_that_are_checked(guarded: str) -> None:
    connection = await asyncpg.connect(guarded)
    try:
        assert await grants.check(connection) == []
    finally:
        await connection.close()


# Each mistake of a DBA, and what is said of it.
MISTAKES = {
    "REVOKE INSERT ON eventsaga.events FROM eventsaga_worker": (
        "INSERT on table events for eventsaga_worker is missing"
    ),
    "GRANT UPDATE ON eventsaga.events TO eventsaga_worker": (
        "UPDATE on table events for eventsaga_worker is too much"
    ),
    "GRANT SELECT ON eventsaga.sagas TO PUBLIC": "SELECT on table sagas for PUBLIC is too much",
    "GRANT UPDATE (data) ON eventsaga.events TO eventsaga_auditor": (
        "UPDATE on table events.data for eventsaga_auditor is too much"
    ),
    "GRANT EXECUTE ON FUNCTION eventsaga.redact TO eventsaga_client": (
        "EXECUTE on function redact(uuid, text, text, text) for eventsaga_client is too much"
    ),
    "GRANT CREATE ON SCHEMA eventsaga TO eventsaga_worker": (
        "CREATE on the schema for eventsaga_worker is too much"
    ),
    "ALTER TABLE eventsaga.events OWNER TO CURRENT_USER": "table events belongs to postgres",
    "ALTER TABLE eventsaga.events DISABLE TRIGGER events_append_only": "do not always fire",
    "ALTER TABLE eventsaga.events ENABLE TRIGGER events_append_only": "do not always fire",
    "CREATE FUNCTION eventsaga.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'": (
        "EXECUTE on function mine() for PUBLIC is too much"
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_a_mistake_of_a_dba_is_named(
    guarded: str, sql: asyncpg.Connection, mistake: str
) -> None:
    await sql.execute(mistake)

    assert any(MISTAKES[mistake] in problem for problem in await grants.check(sql))


async def test_what_was_given_too_much_is_taken_back_by_the_next_time(
    guarded: str, sql: asyncpg.Connection
) -> None:
    for mistake in MISTAKES:
        if "TRIGGER" not in mistake:
            await sql.execute(mistake)

    await grants.apply(sql)

    assert await grants.check(sql) == []


async def test_a_database_without_roles_is_told_so(empty_database: str) -> None:
    await asyncio.to_thread(migrate.upgrade, empty_database, schema="other_sagas")
    connection = await asyncpg.connect(empty_database)
    try:
        problems = await grants.check(connection, "other_sagas")
        assert "there is no role other_sagas_owner" in problems
        await grants.apply(connection, "other_sagas")
        assert await grants.check(connection, "other_sagas") == []
    finally:
        await connection.execute("DROP SCHEMA other_sagas CASCADE")
        for role in grants.ROLES:
            await connection.execute(f"DROP ROLE other_sagas_{role}")
        await connection.close()


async def test_an_owner_who_is_no_superuser_migrates_and_everything_still_works(
    guarded: str, sql: asyncpg.Connection
) -> None:
    await asyncio.to_thread(migrate.downgrade, guarded, schema="eventsaga", revision="0004")
    await asyncio.to_thread(migrate.upgrade, guarded, schema="eventsaga")

    # What is new belongs to whoever made it, until the rights are given again.
    assert any("belongs to postgres" in problem for problem in await grants.check(sql))
    await grants.apply(sql)
    assert await grants.check(sql) == []

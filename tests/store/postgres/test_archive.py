"""Do sagas that ended leave whole, come back whole, and does nothing else ever leave?"""

import asyncio
import gzip
import json
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy import make_url

from eventsaga import failpoints
from eventsaga.client.feed import Feed
from eventsaga.client.verify import verify
from eventsaga.errors import ArchiveError
from eventsaga.settings import Settings
from eventsaga.store.archive.check import Flaw, check
from eventsaga.store.archive.file import ArchiveFile
from eventsaga.store.ports import GivenUp
from eventsaga.store.postgres import migrate
from eventsaga.store.postgres.archive import (
    Destination,
    IntoFile,
    IntoTable,
    Outcome,
    archive,
    held_for,
)
from eventsaga.store.postgres.bring_back import bring_back
from eventsaga.store.postgres.redact import redact
from eventsaga.store.postgres.store import PostgresStore
from tests.store.builders import Held, new_start, new_worker, queue_start, start_saga
from tests.store.vandal import Vandal, run_to_the_end

pytestmark = pytest.mark.mighty  # what an archivist may, and no more, is tried below

NOW = timedelta(0)

EVENTS = """
SELECT saga_id, seq, type, schema_version, data::text, occurred_at, recorded_at, worker_id, salt,
       hash, digest
  FROM eventsaga.events ORDER BY saga_id, seq
"""
ROWS = "SELECT * FROM eventsaga.sagas ORDER BY saga_id"


async def ended(store: PostgresStore, owner: UUID, **options: Any) -> Held:
    """Run a saga to its end, after which nobody has it."""
    held = await run_to_the_end(store, owner, **options)
    await store.give_up(owner, [GivenUp(held.saga_id, None)])
    return held


async def archived(
    store: PostgresStore, into: Destination, older_than: timedelta = NOW, **options: Any
) -> Outcome:
    """Archive, and return what became of all batches together."""
    sagas = events = 0
    refused: list[Any] = []
    outcomes = archive(store, into, older_than=older_than, **options)
    async with aclosing(outcomes):
        async for outcome in outcomes:
            sagas, events = sagas + outcome.sagas, events + outcome.events
            refused += outcome.refused
    return Outcome(sagas, events, refused)


async def to_file(store: PostgresStore, path: Path, **options: Any) -> Outcome:
    with ArchiveFile(path) as file:
        return await archived(store, IntoFile(file), **options)


async def there(sql: asyncpg.Connection, query: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await sql.fetch(query)]


def in_file(path: Path) -> list[UUID]:
    found = list(check(path))
    assert not [flaw for flaw in found if isinstance(flaw, Flaw)]
    return [saga.saga_id for saga in found if not isinstance(saga, Flaw)]


@pytest.fixture
async def owner(store: PostgresStore) -> UUID:
    return await new_worker(store)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sagas.jsonl.gz"


def lines_of(path: Path) -> list[bytes]:
    return gzip.decompress(path.read_bytes()).splitlines(keepends=True)


def pack(path: Path, lines: list[bytes]) -> None:
    path.write_bytes(gzip.compress(b"".join(lines)))


def tear(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 2])


async def sound(store: PostgresStore) -> bool:
    return not [violation async for violation in verify(store)]


async def test_what_ended_goes_and_comes_back_as_it_was(
    store: PostgresStore, owner: UUID, sql: asyncpg.Connection, path: Path
) -> None:
    done = [await ended(store, owner), await ended(store, owner, failing="charge")]
    under_way = await start_saga(store, owner)
    before = [await there(sql, query) for query in (EVENTS, ROWS)]

    outcome = await to_file(store, path)

    assert (outcome.sagas, outcome.refused) == (2, [])
    assert in_file(path) == sorted(held.saga_id for held in done)
    assert await there(sql, "SELECT saga_id FROM eventsaga.sagas") == [(under_way.saga_id,)]
    assert await sound(store)
    brought = await bring_back(store, path)
    assert (brought.sagas, brought.events, brought.known) == (2, outcome.events, 0)
    assert [await there(sql, query) for query in (EVENTS, ROWS)] == before
    assert await sound(store)
    assert await bring_back(store, path) == (0, 0, 2)


async def test_what_was_redacted_stays_so_in_the_archive_and_on_its_way_back(
    store: PostgresStore, owner: UUID, sql: asyncpg.Connection, path: Path
) -> None:
    held = await ended(store, owner)
    assert await redact(store, held.saga_id, "order_id", reason="asked", actor="dpo")
    before = [await there(sql, query) for query in (EVENTS, ROWS)]

    assert (await to_file(store, path)).refused == []

    assert not [line for line in lines_of(path) if b"o-1" in line]
    assert in_file(path) == [held.saga_id]
    await bring_back(store, path)
    assert [await there(sql, query) for query in (EVENTS, ROWS)] == before
    assert await sound(store)
    assert (await archived(store, IntoTable("archived_events", "eventsaga"))).sagas == 1
    assert await there(sql, EVENTS.replace(".events", ".archived_events")) == before[0]


async def test_an_archive_is_read_by_anybody(store: PostgresStore, owner: UUID, path: Path) -> None:
    held = await ended(store, owner)
    await to_file(store, path)

    lines = [json.loads(line) for line in lines_of(path)]

    assert lines[0]["type"] == "SagaStarted"
    assert lines[0]["data"]["context"] == {"order_id": "o-1"}
    assert [line["seq"] for line in lines[:-2]] == list(range(1, held.state.seq + 1))
    assert lines[-2]["head"] == held.last_hash.hex()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE eventsaga.sagas SET owner = gen_random_uuid()",
        "UPDATE eventsaga.sagas SET wake_at = now() + interval '1 h'",
        (
            "INSERT INTO eventsaga.inbox (saga_id, id, kind, data, actor)"
            " SELECT saga_id, gen_random_uuid(), 'undo', '{}', 'ada' FROM eventsaga.sagas"
        ),
    ],
)
async def test_who_is_owed_something_stays(
    store: PostgresStore, owner: UUID, vandal: Vandal, path: Path, change: str
) -> None:
    held = await ended(store, owner)
    await vandal.edit(change)

    assert (await to_file(store, path)).sagas == 0
    assert not await removed(store, held)


async def removed(store: PostgresStore, held: Held, head: bytes | None = None) -> Sequence[Any]:
    """Ask for *held* to be removed, and return what was."""
    async with store.connection() as connection:
        return await connection.fetch(
            "SELECT * FROM eventsaga.remove_archived($1, $2)",
            [held.saga_id],
            [held.last_hash if head is None else head],
        )


async def test_who_has_not_ended_or_stands_elsewhere_is_not_removed(
    store: PostgresStore, owner: UUID, vandal: Vandal
) -> None:
    under_way, done = await start_saga(store, owner), await ended(store, owner)
    await store.give_up(owner, [GivenUp(under_way.saga_id, None)])

    assert not await removed(store, under_way)
    assert not await removed(store, done, head=bytes(32))
    await vandal.edit("UPDATE eventsaga.sagas SET last_seq = last_seq - 1")
    assert not await removed(store, done)


async def test_who_is_young_stays(store: PostgresStore, owner: UUID, path: Path) -> None:
    await ended(store, owner)

    assert (await to_file(store, path, older_than=timedelta(hours=1))).sagas == 0


async def test_a_family_goes_together_or_not_at_all(
    store: PostgresStore, owner: UUID, sql: asyncpg.Connection, vandal: Vandal, path: Path
) -> None:
    parent, child = await ended(store, owner), await ended(store, owner)
    family = "UPDATE eventsaga.sagas SET parent_id = $1, parent_step = 'part' WHERE saga_id = $2"
    await vandal.edit(family, parent.saga_id, child.saga_id)
    await vandal.edit("UPDATE eventsaga.sagas SET status = 'PARKED' WHERE parent_id IS NULL")
    assert (await to_file(store, path)).sagas == 0
    assert not await removed(store, child)

    await vandal.edit("UPDATE eventsaga.sagas SET status = 'COMPLETED' WHERE parent_id IS NULL")
    await vandal.edit("UPDATE eventsaga.sagas SET status = 'PARKED' WHERE parent_id IS NOT NULL")
    assert (await to_file(store, path)).sagas == 0
    assert not await removed(store, parent)

    await vandal.edit("UPDATE eventsaga.sagas SET status = 'COMPLETED'")
    outcome = await to_file(store, path)
    # The edited child is not the fold of its events any more; it was its turn, though.
    assert outcome.sagas == 1
    assert [refused.saga_id for refused in outcome.refused] == [child.saga_id]
    await sql.execute("UPDATE eventsaga.sagas SET parent_id = NULL, parent_step = NULL")
    assert (await to_file(store, path)).sagas == 1


async def test_what_a_consumer_has_not_read_stays(
    store: PostgresStore, owner: UUID, path: Path
) -> None:
    first = await ended(store, owner)
    async with Feed(store, "slow") as slow, Feed(store, "fast"):
        while not (batch := await slow.take()):
            pass  # the query is the wait
        await batch.commit()
        assert await held_for(store, NOW) == {"fast": 1}
        assert (await to_file(store, path)).sagas == 0

        async with Feed(store, "fast") as fast:
            batch = await fast.take()
            await batch.commit()
        second = await ended(store, owner)
        assert (await to_file(store, path)).sagas == 1
        assert in_file(path) == [first.saga_id]

        assert (await to_file(store, path, ignore_feeds=True)).sagas == 1
        assert in_file(path) == [first.saga_id, second.saga_id]

        await bring_back(store, path)
        assert not await slow.take(), "what comes back is no news"


async def test_a_start_key_stays_taken(
    store: PostgresStore, owner: UUID, sql: asyncpg.Connection, path: Path
) -> None:
    held = await ended(store, owner)
    start = new_start(key="o-1")
    digest = start.digest
    await sql.execute(
        "INSERT INTO eventsaga.start_keys VALUES ('order', 'o-1', $1, $2)", held.saga_id, digest
    )
    await to_file(store, path)

    result: Any = await queue_start(store, start)

    assert (result.saga_id, result.created) == (held.saga_id, False)
    assert await sound(store)


async def test_a_broken_history_stays_as_evidence(
    store: PostgresStore, owner: UUID, vandal: Vandal, path: Path, sql: asyncpg.Connection
) -> None:
    good, bad = await ended(store, owner), await ended(store, owner)
    edit = "UPDATE eventsaga.events SET salt = sha256('') WHERE saga_id = $1 AND seq = 3"
    await vandal.edit(edit, bad.saga_id)

    outcome = await to_file(store, path)

    assert in_file(path) == [good.saga_id]
    assert [(each.saga_id, each.seq) for each in outcome.refused] == [(bad.saga_id, 3)]
    await vandal.edit("DELETE FROM eventsaga.events")
    await vandal.edit("DELETE FROM eventsaga.sagas")


async def test_who_goes_on_while_it_is_written_stays(
    store: PostgresStore, owner: UUID, vandal: Vandal, sql: asyncpg.Connection, path: Path
) -> None:
    stays, goes = await ended(store, owner), await ended(store, owner)

    async def claimed(_place: str, _text: str) -> None:
        take = "UPDATE eventsaga.sagas SET wake_at = now() + interval '1 h' WHERE saga_id = $1"
        await vandal.edit(take, stays.saga_id)

    with failpoints.calling("before_archive_remove", claimed, at=1):
        assert (await to_file(store, path)).sagas == 1
    await vandal.edit("UPDATE eventsaga.sagas SET wake_at = NULL")
    assert await there(sql, "SELECT saga_id FROM eventsaga.sagas") == [(stays.saga_id,)]

    assert (await to_file(store, path)).sagas == 1
    # It was in the file already, and is not written again.
    assert sorted(in_file(path)) == sorted([stays.saga_id, goes.saga_id])


async def test_two_who_write_one_file_are_one_too_many(path: Path) -> None:
    with ArchiveFile(path), pytest.raises(ArchiveError, match="another process"), ArchiveFile(path):
        pass


def test_a_file_that_is_no_archive_is_not_touched(path: Path) -> None:
    path.write_text("dear diary")

    with pytest.raises(ArchiveError, match="no archive"), ArchiveFile(path):
        pass

    assert path.read_text() == "dear diary"


# -- tampering -----------------------------------------------------------------------------

Lines = list[bytes]


def edited(lines: Lines) -> Lines:
    return [*lines[:3], lines[3].replace(b'"data":{', b'"data":{"more":1,'), *lines[4:]]


def taken_out(lines: Lines) -> Lines:
    return [*lines[:3], *lines[4:]]


def put_in(lines: Lines) -> Lines:
    return [*lines[:4], lines[3], *lines[4:]]


def turned_round(lines: Lines) -> Lines:
    return [*lines[:3], lines[4], lines[3], *lines[5:]]


def cut_off(lines: Lines) -> Lines:
    head = next(index for index, line in enumerate(lines) if b'"head"' in line)
    return [*lines[: head - 1], *lines[head:]]


def saga_taken_out(lines: Lines) -> Lines:
    head = next(index for index, line in enumerate(lines) if b'"head"' in line)
    return lines[head + 1 :]


def not_json(lines: Lines) -> Lines:
    return [*lines[:3], b"{\n", *lines[4:]]


@pytest.mark.parametrize(
    ("change", "seq"),
    [
        (edited, 4),
        (taken_out, 4),
        (put_in, 4),
        (turned_round, 4),
        (cut_off, 8),
        (saga_taken_out, None),
        (not_json, 4),
    ],
)
async def test_what_was_done_to_a_file_is_found_and_refused(  # noqa: PLR0917 - fixtures
    store: PostgresStore,
    owner: UUID,
    sql: asyncpg.Connection,
    path: Path,
    change: Callable[[Lines], Lines],
    seq: int | None,
) -> None:
    sagas = sorted([(await ended(store, owner)).saga_id for _ in range(2)])
    await to_file(store, path)
    pack(path, change(lines_of(path)))

    flaws = [found for found in check(path) if isinstance(found, Flaw)]

    assert flaws
    if seq is not None:
        assert (sagas[0], seq) in {(flaw.saga_id, flaw.seq) for flaw in flaws}
        assert not [flaw for flaw in flaws if flaw.saga_id == sagas[1]]
    assert any("is not as it was written" in flaw.message for flaw in flaws)
    with pytest.raises(ArchiveError, match="nothing was imported"):
        await bring_back(store, path)
    assert await there(sql, EVENTS) == []


async def test_a_torn_file_is_found_and_mended_by_the_next_run(
    store: PostgresStore, owner: UUID, path: Path
) -> None:
    first = await ended(store, owner)
    await to_file(store, path)
    tear(path)
    assert [found for found in check(path) if isinstance(found, Flaw)]

    second = await ended(store, owner)
    await to_file(store, path)

    assert in_file(path) == [first.saga_id, second.saga_id]


async def test_a_saga_that_went_another_way_is_not_overwritten(
    store: PostgresStore, owner: UUID, vandal: Vandal, sql: asyncpg.Connection, path: Path
) -> None:
    held = await ended(store, owner)
    await to_file(store, path)
    await bring_back(store, path)
    await vandal.edit("UPDATE eventsaga.sagas SET last_hash = sha256('')")

    with pytest.raises(ArchiveError, match=f"{held.saga_id} is here already"):
        await bring_back(store, path)
    await vandal.edit("UPDATE eventsaga.sagas SET last_hash = $1", held.last_hash)


# -- the way past the trigger -----------------------------------------------------------------

_CLAIM_IT = (
    "INSERT INTO eventsaga.archived_sagas (saga_id, last_seq, last_hash)"
    " SELECT saga_id, last_seq, last_hash FROM eventsaga.sagas"
)
TRICKS = (
    "SELECT 1",
    "SET eventsaga.archiving = 'on'",
    "SET session_replication_role = origin",
    _CLAIM_IT,
    # An operator of the same name, found first: every name is the owner's.
    "CREATE FUNCTION mine.yes(name, name) RETURNS boolean LANGUAGE sql AS 'SELECT true';"
    " CREATE OPERATOR mine.= (LEFTARG = name, RIGHTARG = name, FUNCTION = mine.yes);"
    " SET search_path = mine, pg_catalog;" + _CLAIM_IT,
)


@pytest.mark.parametrize("trick", TRICKS)
async def test_a_plain_role_cannot_remove_events_whatever_it_was_granted(
    store: PostgresStore, owner: UUID, server_url: str, database: str, trick: str
) -> None:
    held = await ended(store, owner)
    role = f"plain_{uuid4().hex[:8]}"
    async with store.connection() as admin:
        # Policies would hide the rows from it: the trigger is to hold by itself.
        await admin.execute(f"CREATE ROLE {role} LOGIN BYPASSRLS")
        await admin.execute(f"CREATE SCHEMA mine AUTHORIZATION {role}")
        await admin.execute(f"GRANT USAGE ON SCHEMA eventsaga TO {role}")
        await admin.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA eventsaga TO {role}")
    url = make_url(database).set(username=role)
    plain = await asyncpg.connect(url.render_as_string(hide_password=False))
    try:
        transaction = plain.transaction()
        await transaction.start()
        try:
            await plain.execute(trick)
        except asyncpg.InsufficientPrivilegeError:
            await transaction.rollback()
            transaction = plain.transaction()
            await transaction.start()
        with pytest.raises(asyncpg.RestrictViolationError):
            await plain.execute("DELETE FROM eventsaga.events")
        await transaction.rollback()
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await plain.execute(
                "SELECT eventsaga.remove_archived($1, $2)", [held.saga_id], [held.last_hash]
            )
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await plain.execute("SELECT eventsaga.renumber_events()")
    finally:
        await plain.close()
        async with store.connection() as admin:
            await admin.execute("DROP SCHEMA mine CASCADE")
            await admin.execute(f"DROP OWNED BY {role}")
            await admin.execute(f"DROP ROLE {role}")


async def test_the_owner_cannot_remove_events_by_hand(
    store: PostgresStore, owner: UUID, sql: asyncpg.Connection
) -> None:
    await ended(store, owner)

    with pytest.raises(asyncpg.RestrictViolationError):
        await sql.execute("DELETE FROM eventsaga.events")


# -- into a table ----------------------------------------------------------------------------


async def test_sagas_move_into_a_table(
    store: PostgresStore, owner: UUID, sql: asyncpg.Connection
) -> None:
    await ended(store, owner)
    under_way = await start_saga(store, owner)
    before = await there(sql, EVENTS)

    outcome = await archived(store, IntoTable("archived_events", "eventsaga"))

    assert outcome.sagas == 1
    moved = await there(sql, EVENTS.replace(".events", ".archived_events"))
    assert moved == [row for row in before if row[0] != under_way.saga_id]
    assert await there(sql, EVENTS) == [row for row in before if row[0] == under_way.saga_id]
    assert await sound(store)


async def test_a_table_of_ones_own_takes_them_as_well(
    store: PostgresStore, owner: UUID, sql: asyncpg.Connection
) -> None:
    await sql.execute("CREATE SCHEMA audit")
    await sql.execute('CREATE TABLE audit."order" (LIKE eventsaga.archived_events INCLUDING ALL)')
    held = await ended(store, owner)

    await archived(store, IntoTable("audit.order", "eventsaga"))

    assert await sql.fetchval('SELECT count(*) FROM audit."order"') == held.state.seq


@pytest.mark.parametrize(
    "name", ["", "a b", 'a"; DROP TABLE x; --', "a.b.c", ".a", "A", "pg_catalog.x", "x" * 51]
)
def test_a_table_that_would_need_care_is_refused(name: str) -> None:
    with pytest.raises(ArchiveError, match="name or schema"):
        IntoTable(name, "eventsaga")


async def test_a_table_that_is_not_there_is_named_and_nothing_is_removed(
    store: PostgresStore, owner: UUID, sql: asyncpg.Connection
) -> None:
    await ended(store, owner)
    before = await there(sql, EVENTS)

    with pytest.raises(ArchiveError, match=r"eventsaga\.nowhere: there is no such table"):
        await archived(store, IntoTable("nowhere", "eventsaga"))

    assert await there(sql, EVENTS) == before


async def test_an_archive_of_a_schema_of_another_name(empty_database: str, path: Path) -> None:
    await asyncio.to_thread(migrate.upgrade, empty_database, schema="orders_sagas")
    async with PostgresStore(empty_database, replace(Settings(), schema="orders_sagas")) as store:
        owner = await new_worker(store)
        held = await ended(store, owner)
        async with Feed(store, "one") as feed:
            while not (batch := await feed.take()):
                pass  # the query is the wait
            await batch.commit()
        assert (await to_file(store, path)).sagas == 1
        assert (await bring_back(store, path)).sagas == 1
        assert (await archived(store, IntoTable("archived_events", "orders_sagas"))).sagas == 1
    assert in_file(path) == [held.saga_id]


def test_a_few_bytes_that_unpack_to_more_than_there_is_memory_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.jsonl.gz"
    with gzip.open(path, "wb") as file:
        for _ in range(100):
            file.write(b"0" * (1 << 20))

    [flaw] = check(path)

    assert "a line is longer than 67,108,864 bytes" in str(flaw)

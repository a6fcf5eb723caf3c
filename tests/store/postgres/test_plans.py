"""Does it stay fast with many sagas? Every statement finds its rows by an index."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventsaga.pytest_plugin import in_database
from eventsaga.settings import Settings
from eventsaga.store.ports import Committed
from eventsaga.store.postgres import append, claim, feed, lease, mail, read
from eventsaga.store.postgres import start as starting
from eventsaga.store.postgres.rows import columns
from eventsaga.store.postgres.store import PostgresStore
from eventsaga.wire.chain import GENESIS
from tests.conftest import execute
from tests.store.barriers import until
from tests.store.builders import (
    ORDER,
    Held,
    advance,
    definition_of,
    new_append,
    new_start,
    new_worker,
    start_saga,
)

SAGAS: Final = 100_000
_ANY: Final = UUID(int=5)
_LISTED: Final[tuple[Any, ...]] = (
    None,
    None,
    None,
    _ANY,
    100,
    None,
    None,
    None,
    None,
    [],
    [],
    None,
)
_NAMES: Final = ["order"], [1], ["f"]

# Nearly all sagas are over; a few hundred sleep, are due, owned or orphaned.
_CROWD: Final = (
    """
    INSERT INTO eventsaga.workers (worker_id, host, pid, definitions, lease_until)
    SELECT md5(n::text)::uuid, 'host', n, '{}', now() + (n - 190) * interval '1 minute'
      FROM generate_series(1, 200) n
    """,
    """
    INSERT INTO eventsaga.sagas
           (saga_id, name, version, fingerprint, status, current_steps, context, correlation_id,
            last_seq, last_hash, created_at, updated_at, owner, wake_at)
    SELECT gen_random_uuid(), 'order', 1, 'f', 'COMPLETED', '{}', '{}', n::text, 1, '', now(),
           now(),
           CASE WHEN n % 500 = 0 THEN md5((1 + n / 500)::text)::uuid END,
           CASE WHEN n % 500 = 1 THEN now() + (n - 90000) * interval '1 s' END
      FROM generate_series(1, 100000) n
    """,
    """
    INSERT INTO eventsaga.events
           (saga_id, seq, type, schema_version, data, occurred_at, salt, hash)
    SELECT saga_id, 1, 'SagaStarted', 1, '{}', now(), '', '' FROM eventsaga.sagas
    """,
    """
    INSERT INTO eventsaga.start_keys
    SELECT name, correlation_id, saga_id, '' FROM eventsaga.sagas
    """,
    """
    INSERT INTO eventsaga.inbox (saga_id, id, kind, data, actor)
    SELECT saga_id, gen_random_uuid(), 'cancel', '{}', 'ada'
      FROM eventsaga.sagas WHERE owner IS NOT NULL LIMIT 50
    """,
    "VACUUM ANALYZE",
)


@pytest.fixture(scope="module")
def crowded(server_url: str, template: str) -> Iterator[str]:
    """URL of a database with many sagas."""
    name = f"eventsaga_crowd_{uuid4().hex[:12]}"
    url = in_database(server_url, name)
    asyncio.run(execute(server_url, f"CREATE DATABASE {name} TEMPLATE {template}"))
    asyncio.run(execute(url, *_CROWD))
    yield url
    asyncio.run(execute(server_url, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture(params=["force_custom_plan", "force_generic_plan"])
async def planner(
    crowded: str, request: pytest.FixtureRequest
) -> AsyncIterator[asyncpg.Connection]:
    """A connection whose plans know their arguments, or are made once for all."""
    connection = await asyncpg.connect(crowded)
    await connection.execute(f"SET plan_cache_mode = {request.param}")
    yield connection
    await connection.close()


def _append_arguments() -> list[Any]:
    start = new_start(owned=True)
    held = Held(definition=ORDER, state=start.state, last_hash=GENESIS)
    encoded = append.encode_append(new_append(held))
    return [
        *columns([encoded.saga], len(encoded.saga)),
        _ANY,
        [_ANY],
        [_ANY],
        *columns(encoded.events, len(encoded.events[0])),
        "1s",
        *([_ANY], [_ANY], [_ANY], ["cancel"], ["{}"], ["ada"]),
    ]


_INSTANT: Final = datetime(2026, 1, 1, tzinfo=UTC)

STATEMENTS: Final[dict[str, tuple[str, list[Any]]]] = {
    "claim": (claim.CLAIM, [_ANY, *_NAMES, 200, [0], [None], [False], 4, False]),
    "look up what is owned": (claim.OWNED, [_ANY, [_ANY], *_NAMES]),
    "load histories": (claim.HISTORIES, [[UUID(int=n) for n in range(200)]]),
    "give up": (claim.GIVE_UP, [_ANY, [_ANY], [_INSTANT], [1]]),
    "release": (lease.RELEASE, [_ANY]),
    "renew": (lease.RENEW, [_ANY, timedelta(seconds=1)]),
    "read mail": (mail.READ, [_ANY, 200]),
    "sweep mail": (mail.SWEEP, []),
    "post": (mail.POST, [_ANY, _ANY, "cancel", "{}", "ada"]),
    "append": (append.APPEND, _append_arguments()),
    "dismiss mail": (
        mail.DISMISS,
        [
            *(_ANY, [_ANY], [_ANY], ["no"], [1], [None]),
            *([_ANY], [_ANY], [_ANY], ["undo"], ["{}"], ["ada"]),
        ],
    ),
    "answer": (mail.ANSWER, [_ANY, _ANY]),
    "children": (read.CHILDREN, [_ANY]),
    "read back an append": (append.READ_BACK, [[_ANY], [1], [b""], _ANY]),
    "start": (
        starting.START,
        starting.start_arguments([starting.encode_start(new_start(key="k"))], None, "1s"),
    ),
    "read back a start": (starting.READ_BACK, [[_ANY], ["order"], ["k"], [b""]]),
    "get": (read.GET, [_ANY]),
    "history": (read.HISTORY, [_ANY]),
    "settled": (read.SETTLED, [[_ANY]]),
    "stranded": (read.STRANDED, []),
    "conflicting": (read.CONFLICTING, [*_NAMES]),
    "read the feed": (feed.READ, ["5", _ANY, 1, 500]),
    "advance in the feed": (feed.ADVANCE, ["one", _ANY, "5", _ANY, 1, "6", _ANY, 1]),
    "list a page": (read.LIST, [*_LISTED]),
    "list a page of those that have not ended": (read.LIST_OPEN, [["PARKED"], *_LISTED[1:]]),
}

LARGE: Final = {"sagas", "events", "start_keys"}


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from nodes(inner)


async def scans(planner: asyncpg.Connection, statement: str, arguments: list[Any]) -> list[str]:
    """Return how *statement* reads its tables, such as ``Seq Scan on sagas``."""
    text = await planner.fetchval(f"EXPLAIN (FORMAT JSON) {statement}", *arguments)
    return [
        f"{node['Node Type']} on {node['Relation Name']} by {node.get('Index Name')}"
        for node in nodes(json.loads(text)[0]["Plan"])
        if "Relation Name" in node and "Scan" in node["Node Type"]
    ]


@pytest.mark.parametrize(("statement", "arguments"), STATEMENTS.values(), ids=STATEMENTS.keys())
async def test_no_statement_reads_all_sagas(
    planner: asyncpg.Connection, statement: str, arguments: list[Any]
) -> None:
    found = await scans(planner, statement, arguments)

    assert [scan for scan in found if scan.startswith("Seq") and scan.split()[3] in LARGE] == []


async def test_claims_find_due_and_orphaned_sagas_by_their_partial_indexes(
    planner: asyncpg.Connection,
) -> None:
    found = " ".join(await scans(planner, *STATEMENTS["claim"]))

    assert "sagas_due" in found
    assert "sagas_owned" in found


async def test_a_missing_index_would_be_noticed(planner: asyncpg.Connection) -> None:
    """The test above is able to fail."""
    async with _undone(planner):
        await planner.execute("DROP INDEX eventsaga.sagas_due, eventsaga.sagas_owned")
        found = await scans(planner, *STATEMENTS["claim"])

    assert any(scan.startswith("Seq Scan on sagas") for scan in found)


# -- a claim with very much to choose from -----------------------------------------------------

_FLOOD: Final = (
    """
    INSERT INTO eventsaga.workers (worker_id, host, pid, definitions, lease_until)
    VALUES ('00000000-0000-0000-0000-000000000005', 'host', 1, '{}', now() + interval '1 day')
    """,
    """
    INSERT INTO eventsaga.sagas
           (saga_id, name, version, fingerprint, status, current_steps, context, correlation_id,
            last_seq, last_hash, created_at, updated_at, wake_at)
    SELECT gen_random_uuid(), kind.name, 1, 'f', 'RUNNING', '{}', '{}', n::text, 1, '', now(),
           now(), now() + kind.sign * n * interval '1 min'
      FROM (VALUES ('order', -1, 100000), ('refund', -1, 10), ('nap', 1, 100000))
           AS kind(name, sign, sagas),
           generate_series(1, kind.sagas) n
    """,
    "VACUUM ANALYZE",
)


@pytest.fixture(scope="module")
def flooded(server_url: str, template: str) -> Iterator[str]:
    """URL of a database with 100,000 due sagas of a name, and 100,000 that sleep of another."""
    name = f"eventsaga_flood_{uuid4().hex[:12]}"
    url = in_database(server_url, name)
    asyncio.run(execute(server_url, f"CREATE DATABASE {name} TEMPLATE {template}"))
    asyncio.run(execute(url, *_FLOOD))
    yield url
    asyncio.run(execute(server_url, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
async def test_a_claim_reads_no_more_of_a_flood_than_it_may_take(flooded: str, mode: str) -> None:
    """By the index, from the oldest on: neither the rest of the flood, nor what sleeps."""
    kinds = ["order", "refund", "nap"]
    arguments = [_ANY, kinds, [1, 1, 1], ["f"] * 3, 200, [0, 0, 0]]
    arguments += [[None, None, 150], [False] * 3, None, False]
    connection = await asyncpg.connect(flooded)
    await connection.execute(f"SET plan_cache_mode = {mode}")
    async with _undone(connection):
        text = await connection.fetchval(
            f"EXPLAIN (ANALYZE, FORMAT JSON) {claim.CLAIM}", *arguments
        )
        taken = await connection.fetch(
            "SELECT name, count(*) FROM eventsaga.sagas WHERE owner IS NOT NULL GROUP BY name"
        )
    await connection.close()

    assert dict(map(tuple, taken)) == {"order": 190, "refund": 10}
    reads = [node for node in nodes(json.loads(text)[0]["Plan"]) if "Relation Name" in node]
    (due,) = [node for node in reads if node.get("Index Name") == "sagas_due"]
    assert due["Node Type"] == "Index Scan"
    assert due["Actual Loops"] == 3
    for node in reads:
        if node["Relation Name"] == "sagas":
            assert node["Node Type"].startswith(("Index", "ModifyTable"))
            assert node["Actual Rows"] * node["Actual Loops"] <= 3 * 210
            assert node.get("Rows Removed by Filter", 0) == 0


class _undone:  # noqa: N801 - reads as a phrase
    def __init__(self, connection: asyncpg.Connection) -> None:
        self._transaction = connection.transaction()

    async def __aenter__(self) -> None:
        await self._transaction.start()

    async def __aexit__(self, *_error: object) -> None:
        await self._transaction.rollback()


# -- updates that stay in their page --------------------------------------------------------

STEPS: Final = tuple(f"step_{number}" for number in range(30))
_HOT: Final = """
SELECT n_tup_hot_upd::float / n_tup_upd FROM pg_stat_user_tables
 WHERE schemaname = 'eventsaga' AND relname = 'sagas'
"""


async def hot_share(url: str, sql: asyncpg.Connection) -> float:
    """Run sagas of many steps; return which share of the updates was HOT."""
    definition = definition_of(*STEPS)
    async with PostgresStore(url, Settings(append_writers=1)) as store:
        owner = await new_worker(store)
        sagas = [await start_saga(store, owner, definition=definition) for _ in range(20)]
        for _ in STEPS:
            results = await asyncio.gather(*(advance(store, held, owner) for held in sagas))
            assert {type(result) for result in results} == {Committed}
    # Backends tell their numbers when they end.
    told = "SELECT n_tup_upd >= $1 FROM pg_stat_user_tables WHERE relname = 'sagas'"
    await until(sql, told, 20 * len(STEPS))
    share: float = await sql.fetchval(_HOT)
    return share


async def test_most_updates_of_a_saga_touch_no_index(
    database: str, sql: asyncpg.Connection
) -> None:
    assert await hot_share(database, sql) > 0.6


async def test_an_index_on_a_column_of_every_step_would_be_noticed(
    database: str, sql: asyncpg.Connection
) -> None:
    """The test above is able to fail."""
    await sql.execute("CREATE INDEX ON eventsaga.sagas (updated_at)")

    assert await hot_share(database, sql) < 0.1

"""Is a value that was redacted gone everywhere, and is nothing else, and does the chain hold?"""

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from pydantic import BaseModel

from eventsaga import (
    IllegalCommandError,
    Orchestrator,
    Parallel,
    PermanentError,
    Saga,
    Step,
    WaitForSignal,
)
from eventsaga.client.verify import verify
from eventsaga.core.events import SagaStarted
from eventsaga.core.state import Status
from eventsaga.errors import PayloadError, SagaNotFoundError
from eventsaga.store.postgres.archive import IntoTable, archive
from eventsaga.store.postgres.rebuild import rebuild
from eventsaga.store.postgres.redact import redact
from eventsaga.wire.payload import load
from tests.runtime.sagas import orchestrating
from tests.store.vandal import Vandal

pytestmark = pytest.mark.mighty  # who erases, and may do no more, is in test_grants

CANARY = 'ann.o\'neil+"ü"@example.org'
WHY = {"reason": "asked to be forgotten", "actor": "dpo"}
TABLES = """
SELECT table_name FROM information_schema.tables WHERE table_schema = 'eventsaga'
"""


class Customer(BaseModel):
    name: str
    email: str
    age: int = 41


class Sale(BaseModel):
    customer: Customer
    copies: list[Customer] = []
    seen: dict[str, int] = {}
    note: str = 'ünchanged  \\ " note'
    rate: float = 1e-7
    more: Any = None


async def greet(sale: Sale) -> dict[str, Any]:
    other = Customer(name="Bob", email="bob@example.org")
    return {
        "copies": [sale.customer.model_dump(), other.model_dump()],
        "seen": {sale.customer.email: 1, "charge": 2},
    }


async def bounce(sale: Sale) -> None:
    raise PermanentError(f"no such mailbox: <{sale.customer.email}>")


SOLD = Saga(
    "sold",
    context=Sale,
    steps=[Step("charge", greet), WaitForSignal("paid", model=None, into="more")],
)
BOUNCED = Saga(
    "bounced",
    context=Sale,
    steps=[Parallel("both", [Step("greet", greet), Step("bounce", bounce)])],
)


def sale() -> Sale:
    return Sale(customer=Customer(name="Ann O'Neil", email=CANARY))


@pytest.fixture
async def sql(database: str, saga_database: str) -> AsyncIterator[asyncpg.Connection]:
    # Roles and settings are a session's: never behind a pooler.
    assert database
    connection = await asyncpg.connect(saga_database)
    yield connection
    await connection.close()


@pytest.fixture
async def shop(database: str) -> AsyncIterator[Orchestrator]:
    async with orchestrating(database, SOLD, BOUNCED) as orchestrator:
        yield orchestrator


async def sold(shop: Orchestrator, key: str | None = None) -> UUID:
    handle = await shop.start(SOLD, sale(), key=key)
    await shop.signal(handle.id, "paid", {"by": CANARY}, actor=CANARY)
    assert (await handle.result(timeout=20)).status is Status.COMPLETED
    return handle.id


async def found(shop: Orchestrator) -> list[str]:
    return [str(violation) async for violation in verify(shop.store)]


async def places(sql: asyncpg.Connection, text: str) -> list[str]:
    """Return the tables and views in which *text* stands, also as JSON, or as JSON in JSON."""
    once = json.dumps(text, ensure_ascii=False)[1:-1]
    spellings = {text, once, json.dumps(once, ensure_ascii=False)[1:-1], json.dumps(text)[1:-1]}
    names = [row[0] for row in await sql.fetch(TABLES)]
    rows = {name: await sql.fetch(f"TABLE eventsaga.{name}") for name in names}
    return [
        name
        for name in names
        if any(
            spelling in str(value)
            for row in rows[name]
            for value in row.values()
            for spelling in spellings
        )
    ]


async def test_a_value_is_gone_from_everything_and_the_chain_holds(
    shop: Orchestrator, sql: asyncpg.Connection
) -> None:
    ids = [await sold(shop, key=f"sale of {CANARY}"), (await shop.start(BOUNCED, sale())).id]
    await shop.wait(ids[1], timeout=20)
    assert {"events", "sagas", "start_keys", "inbox"} <= set(await places(sql, CANARY))

    changed = [await redact(shop.store, saga_id, "customer.email", **WHY) for saga_id in ids]

    assert await places(sql, CANARY) == []
    assert changed == [4, 4]
    assert await found(shop) == []
    for saga_id in ids:
        assert await sql.fetch("SELECT * FROM eventsaga.verify_chain($1)", saga_id) == []
        state = await shop.get(saga_id)
        assert state.context["customer"] == {
            "name": "Ann O'Neil",
            "email": "[redacted]",
            "age": 41,
        }
    state = await shop.get(ids[0])
    assert state.context["seen"] == {"[redacted]": 1, "charge": 2}
    assert [copy["email"] for copy in state.context["copies"]] == ["[redacted]", "bob@example.org"]
    history = await shop.history(ids[0])
    assert history[-1].type == "DataRedacted"
    assert [repair async for repair in rebuild(shop.store)] == []


async def test_what_was_not_meant_keeps_its_bytes(
    shop: Orchestrator, sql: asyncpg.Connection
) -> None:
    saga_id = await sold(shop)
    before = await sql.fetch("SELECT data::text FROM eventsaga.events ORDER BY seq")

    await redact(shop.store, saga_id, "customer.age", **WHY)

    after = await sql.fetch("SELECT data::text, salt, digest FROM eventsaga.events ORDER BY seq")
    assert after[0]["data"] == before[0]["data"].replace('"age":41', '"age":null', 1)
    assert after[0]["salt"] is None
    assert after[0]["digest"] is not None
    for was, row in zip(before[1:], after[1:], strict=False):
        assert (row["data"], row["digest"]) == (was["data"], None)
    assert await found(shop) == []


ANN = {"name": "Ann O'Neil", "email": CANARY, "age": 41}
BOB = {"name": "Bob", "email": "bob@example.org", "age": 41}
HIDDEN = "[redacted]"


@pytest.mark.parametrize(
    ("path", "customer", "copies"),
    [
        ("customer", None, [{**ANN, "name": HIDDEN, "email": HIDDEN}, BOB]),
        (
            "copies.email",
            {**ANN, "email": HIDDEN},
            [{**ANN, "email": HIDDEN}, {**BOB, "email": HIDDEN}],
        ),
        ("copies.1.name", ANN, [ANN, {**BOB, "name": HIDDEN}]),
    ],
)
async def test_a_path_leads_through_lists_and_to_whole_parts(
    shop: Orchestrator, path: str, customer: object, copies: object
) -> None:
    saga_id = await sold(shop)

    assert await redact(shop.store, saga_id, path, **WHY)

    context = (await shop.get(saga_id)).context
    assert (context["customer"], context["copies"]) == (customer, copies)
    assert await found(shop) == []


async def test_a_second_redaction_and_a_second_value_leave_the_chain_whole(
    shop: Orchestrator, sql: asyncpg.Connection
) -> None:
    saga_id = await sold(shop)

    for path in ("customer.email", "customer.name", "customer"):
        assert await redact(shop.store, saga_id, path, **WHY) > 0
        assert await found(shop) == []
        assert await sql.fetch("SELECT * FROM eventsaga.verify_chain($1)", saga_id) == []
    assert await redact(shop.store, saga_id, "customer", **WHY) == 0
    assert (await shop.history(saga_id))[-1].seq == 10


async def test_what_was_archived_into_the_table_is_redacted_there(
    shop: Orchestrator, sql: asyncpg.Connection
) -> None:
    saga_id, other = await sold(shop, key=f"sale of {CANARY}"), await sold(shop)
    table = IntoTable("archived_events", shop.settings.schema)
    moving = archive(shop.store, table, older_than=timedelta(0))
    assert sum([outcome.sagas async for outcome in moving]) == 2
    before = await sql.fetch("SELECT * FROM eventsaga.archived_events WHERE saga_id = $1", other)

    assert await redact(shop.store, saga_id, "customer.email", reason="forget", actor="dpo") > 0
    await sql.execute("SET ROLE eventsaga_eraser")
    by_eraser = "SELECT eventsaga.redact($1, 'customer.name', 'forget')"
    assert await sql.fetchval(by_eraser, saga_id) > 0
    await sql.execute("RESET ROLE")
    assert await redact(shop.store, saga_id, "nothing.here", reason="forget", actor="dpo") == 0

    stays = await sql.fetch("SELECT * FROM eventsaga.archived_events WHERE saga_id = $1", other)
    assert stays == before
    for value in (CANARY, "Ann O'Neil"):
        rows = await sql.fetch(
            "SELECT data::text FROM eventsaga.archived_events WHERE saga_id = $1", saga_id
        )
        assert not [row for row in rows if value in row["data"]]
    assert await sql.fetchval("SELECT count(*) FROM eventsaga.events") == 0
    assert await sql.fetchval("SELECT count(*) FROM eventsaga.sagas") == 0
    assert "start_keys" not in await places(sql, CANARY)
    await sql.execute(
        "INSERT INTO eventsaga.events (saga_id, seq, type, schema_version, data, occurred_at,"
        " recorded_at, worker_id, salt, hash, digest) SELECT * FROM eventsaga.archived_events"
    )
    problems = await sql.fetch("SELECT problem FROM eventsaga.verify_chain($1)", saga_id)
    assert [row["problem"] for row in problems] == ["the row of the saga is missing"]
    heads = "SELECT last_seq, last_hash FROM eventsaga.archived_sagas WHERE saga_id = $1"
    last = "SELECT seq, hash FROM eventsaga.events WHERE saga_id = $1 ORDER BY seq DESC LIMIT 1"
    head, end = await sql.fetchrow(heads, saga_id), await sql.fetchrow(last, saga_id)
    assert head is not None
    assert end is not None
    assert tuple(head) == tuple(end)


async def test_where_nothing_stands_nothing_is_done(shop: Orchestrator) -> None:
    saga_id = await sold(shop)
    before = await shop.history(saga_id)

    assert await redact(shop.store, saga_id, "customer.phone", **WHY) == 0
    assert await shop.history(saga_id) == before


async def test_only_what_has_ended_loses_what_it_knows(shop: Orchestrator) -> None:
    handle = await shop.start(SOLD, sale())

    with pytest.raises(IllegalCommandError, match="it still needs what it knows"):
        await redact(shop.store, handle.id, "customer.email", **WHY)
    with pytest.raises(SagaNotFoundError):
        await redact(shop.store, UUID(int=1), "customer.email", **WHY)
    for path, reason in (("", "r"), ("a..b", "r"), ("a", " ")):
        with pytest.raises(PayloadError):
            await redact(shop.store, handle.id, path, reason=reason, actor="a")


async def test_what_was_started_in_sql_and_never_validated_is_redacted_too(
    shop: Orchestrator, sql: asyncpg.Connection
) -> None:
    context = json.dumps({"customer": {"name": 7, "email": CANARY}})
    saga_id = await sql.fetchval("SELECT eventsaga.start_saga('sold', $1::jsonb)", context)
    parked = await shop.wait(saga_id, timeout=20)
    assert parked.status is Status.PARKED
    await shop.cancel(saga_id, "not a sale")
    await shop.wait(saga_id, timeout=20)

    assert await redact(shop.store, saga_id, "customer.email", **WHY)

    assert await places(sql, CANARY) == []
    (first, *_) = await shop.history(saga_id)
    assert isinstance(first.event, SagaStarted)
    assert load(first.event.input or "")["customer"]["email"] == "[redacted]"
    assert await found(shop) == []


# Each is what somebody with the owner's password might do about a redaction.
FORGERIES = {
    "something else put in its place": "UPDATE eventsaga.events SET data ="
    " replace(data::text, '[redacted]', 'eve@example.org')::json WHERE saga_id = $1 AND seq = 1",
    "a redaction that nothing tells of": "UPDATE eventsaga.events SET digest ="
    " eventsaga.digest(salt, data::text), salt = NULL WHERE saga_id = $1 AND seq = 2",
    "the digest changed": "UPDATE eventsaga.events SET digest = sha256('') WHERE saga_id = $1"
    " AND seq = 1",
    "the redaction taken away": "WITH gone AS (DELETE FROM eventsaga.events WHERE saga_id = $1"
    " AND type = 'DataRedacted') UPDATE eventsaga.sagas s SET last_seq = e.seq, last_hash = e.hash"
    " FROM eventsaga.events e WHERE s.saga_id = $1 AND e.saga_id = $1 AND e.seq = s.last_seq - 1",
}


@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=FORGERIES.keys())
async def test_a_redaction_is_no_way_to_change_history(
    shop: Orchestrator, database: str, sql: asyncpg.Connection, forgery: str
) -> None:
    saga_id = await sold(shop)
    await redact(shop.store, saga_id, "customer.email", **WHY)

    await Vandal(database).edit(forgery, saga_id)

    assert any("redaction" in text or "hash" in text for text in await found(shop))
    assert await sql.fetch("SELECT * FROM eventsaga.verify_chain($1)", saga_id) != []


@pytest.mark.parametrize(
    "change",
    [
        "SET data = '{}'",
        "SET data = '{}', salt = NULL, digest = sha256('')",
        "SET seq = 99, salt = NULL, digest = eventsaga.digest(salt, data::text)",
    ],
)
async def test_the_trigger_lets_nothing_else_through(
    shop: Orchestrator, sql: asyncpg.Connection, change: str
) -> None:
    saga_id = await sold(shop)
    await sql.execute("SELECT set_config('eventsaga.redacting', $1, false)", str(saga_id))

    with pytest.raises(asyncpg.RestrictViolationError):
        await sql.execute(f"UPDATE eventsaga.events {change} WHERE seq = 1")
    with pytest.raises(asyncpg.RestrictViolationError):
        await sql.execute("DELETE FROM eventsaga.events")
    with pytest.raises(asyncpg.RestrictViolationError):
        await sql.execute("TRUNCATE eventsaga.events")

"""Is the SQL contract what its page says, and do the questions of an auditor have answers?"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import pytest
from pydantic import BaseModel

from eventsaga import (
    ChildSaga,
    InDoubtError,
    Orchestrator,
    PermanentError,
    Retry,
    Saga,
    Settings,
    Step,
    StepContext,
    WaitForSignal,
)
from eventsaga.pytest_plugin import in_database
from tests.conftest import execute
from tests.runtime.sagas import until
from tests.store.vandal import Vandal

_DOCS = Path(__file__).resolve().parents[2] / "docs"
_CONTRACT = (_DOCS / "reference" / "sql.md").read_text()
_AUDIT = (_DOCS / "reference" / "audit.md").read_text()
_VIEW = re.compile(r"^### `(\w+)`\n(.*?)(?=^##)", re.DOTALL | re.MULTILINE)
_ROW = re.compile(r"^\| `(\w+)` \| ([^|]+) \|", re.MULTILINE)
_QUESTION = re.compile(r"^([A-Z][^\n]*\?)\n\n```sql\n(.*?);\n```", re.DOTALL | re.MULTILINE)
QUESTIONS: Final = dict(_QUESTION.findall(_AUDIT))

_COLUMNS = """
SELECT table_name, column_name, CASE data_type WHEN 'ARRAY' THEN 'text[]' ELSE data_type END
  FROM information_schema.columns
 WHERE table_schema = 'eventsaga' AND table_name IN (
           SELECT table_name FROM information_schema.views WHERE table_schema = 'eventsaga')
 ORDER BY table_name, ordinal_position
"""
_SIGNATURES = """
SELECT proname || '(' || replace(pg_get_function_arguments(oid), 'with time zone', '') || ')'
  FROM pg_proc WHERE pronamespace = 'eventsaga'::regnamespace
"""


async def test_every_column_of_every_view_stands_on_the_page(sql: asyncpg.Connection) -> None:
    found: dict[str, list[tuple[str, str]]] = {}
    for view, column, kind in await sql.fetch(_COLUMNS):
        found.setdefault(view, []).append((column, kind))

    said = {
        view: [(c, t.strip()) for c, t in _ROW.findall(text)]
        for view, text in _VIEW.findall(_CONTRACT)
    }
    assert said == found


async def test_every_function_of_the_page_takes_what_it_says(sql: asyncpg.Connection) -> None:
    rows = await sql.fetch(_SIGNATURES)
    found = {
        re.sub(r"\s+", " ", re.sub(r"::\w+", "", row[0].replace(" DEFAULT ", " = ")))
        .replace("timestamp ", "timestamptz")
        .replace(" )", ")")
        for row in rows
    }

    said = set(re.findall(r"^\| `(\w+\([^`]*\))`", _CONTRACT, re.MULTILINE))
    assert len(said) == 7
    assert said <= found, sorted(found)


@pytest.fixture
async def sql(database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


# -- a month of orders ------------------------------------------------------------------------

_ONCE = Retry(max_attempts=1)
_AGAIN = Retry(max_attempts=2, delay=0.001)


class Order(BaseModel):
    order_id: str
    number: int
    charge: str | None = None
    said: Any = None


class Parcel(BaseModel):
    order_id: str


async def nothing(_order: Any) -> None:
    """Do nothing, well."""


async def pay(order: Order, step: StepContext) -> dict[str, Any]:
    if order.number % 10 == 3 and step.attempt == 1:
        raise ConnectionResetError("the line is dead")
    return {"charge": f"ch-{order.number}"}


async def ship(order: Order) -> None:
    match order.number % 10:
        case 4:
            raise PermanentError("no such street")
        case 5:
            raise InDoubtError("no answer")
        case _:
            pass


async def refund(order: Order) -> None:
    if order.number % 20 == 14:
        raise PermanentError("the account is closed")


_PARCEL: Final = Saga("parcel", context=Parcel, steps=[Step("label", nothing)])
_ORDER: Final = Saga(
    "order",
    context=Order,
    steps=[
        Step("process_payment", pay, compensate=refund, retry=_AGAIN, compensate_retry=_ONCE),
        Step("create_shipment", ship, retry=_ONCE, on_doubt="park"),
        WaitForSignal("handed_over", into="said", model=None),
        ChildSaga("parcel", _PARCEL, lambda order: Parcel(order_id=order.order_id)),
    ],
)
_ORDERS: Final = 60
_SPREAD: Final = """
UPDATE eventsaga.{table} t SET {columns}
  FROM (SELECT c.saga_id, (p.context->>'number')::int * 7 % 29 * interval '1 day' AS by
          FROM eventsaga.sagas c
          JOIN eventsaga.sagas p ON p.saga_id = coalesce(c.parent_id, c.saga_id)) s
 WHERE s.saga_id = t.saga_id
"""
_SHIFTED: Final = {
    "events": ("occurred_at", "recorded_at"),
    "sagas": ("created_at", "updated_at"),
}


async def _month(database: str) -> UUID:
    """Run orders of every fate, and spread them over a month; return one that completed."""
    settings = Settings(poll=timedelta(seconds=0.1))
    async with Orchestrator(database, sagas=[_ORDER, _PARCEL], settings=settings) as shop:
        orders = [Order(order_id=f"o-{n}", number=n) for n in range(_ORDERS)]
        handles = await shop.start_many(_ORDER, orders)
        for number, handle in enumerate(handles):
            if number % 10 == 8:
                await until(database, _WAITS, handle.id)
                await shop.cancel(handle.id, reason="changed her mind", actor="ann")
            elif number % 10 not in {4, 5, 9}:
                await handle.signal("handed_over", {"by": "van"}, actor="driver-7")
        await asyncio.gather(
            *(handle.result(timeout=60) for n, handle in enumerate(handles) if n % 10 != 9)
        )
        await shop.undo(handles[0].id, reason="it was a gift", actor="bob")
        await shop.wait(handles[0].id, timeout=20)
        await until(database, _ENDED, handles[0].id)
        await shop.resolve(
            handles[15].id, "create_shipment", "failed", reason="asked them", actor="ann"
        )
        await until(database, _ENDED, handles[15].id)
    moves = [
        _SPREAD.format(table=table, columns=", ".join(f"{c} = t.{c} - s.by" for c in columns))
        for table, columns in _SHIFTED.items()
    ]
    for move in moves:
        await Vandal(database).edit(move)
    # The chain covers the times: they are made to be those that were written.
    await Vandal(database).edit(_RELINK)
    return handles[1].id


_WAITS: Final = """
SELECT 'handed_over' = ANY (current_steps) FROM eventsaga.sagas WHERE saga_id = $1
"""
_ENDED: Final = "SELECT status = 'COMPENSATED' FROM eventsaga.sagas WHERE saga_id = $1"
_RELINK: Final = """
DO $$
DECLARE
    e record;
    previous bytea;
BEGIN
    FOR e IN SELECT * FROM eventsaga.events ORDER BY saga_id, seq LOOP
        previous := eventsaga.link(CASE WHEN e.seq = 1 THEN decode(repeat('00', 32), 'hex')
                                        ELSE previous END,
                                   e.saga_id, e.seq, e.type, e.occurred_at,
                                   eventsaga.digest(e.salt, e.data::text));
        UPDATE eventsaga.events SET hash = previous WHERE saga_id = e.saga_id AND seq = e.seq;
        UPDATE eventsaga.sagas SET last_hash = previous WHERE saga_id = e.saga_id;
    END LOOP;
END $$
"""


@pytest.fixture(scope="module")
def month(server_url: str, template: str) -> Iterator[tuple[str, UUID]]:
    """A database with a month of orders, and one of them."""
    name = f"eventsaga_month_{uuid4().hex[:12]}"
    url = in_database(server_url, name)
    asyncio.run(execute(server_url, f"CREATE DATABASE {name} TEMPLATE {template}"))
    yield url, asyncio.run(_month(url))
    asyncio.run(execute(server_url, f"DROP DATABASE {name} WITH (FORCE)"))


async def answer(month: tuple[str, UUID], beginning: str) -> list[dict[str, Any]]:
    """Return the rows that answer the question that begins so."""
    (statement,) = [text for question, text in QUESTIONS.items() if question.startswith(beginning)]
    url, saga_id = month
    connection = await asyncpg.connect(url)
    await connection.set_type_codec(
        "jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog"
    )
    try:
        arguments = [saga_id] if "$1" in statement else []
        return [dict(row) for row in await connection.fetch(statement, *arguments)]
    finally:
        await connection.close()


# Numbers of a tenth of all orders each: 3 retries, 4 is declined, 5 is in doubt, 8 is cancelled,
# 9 waits for ever; 0 was undone and 15 resolved; of those ending in 4, every other one stays.
_TENTH: Final = _ORDERS // 10


async def test_twenty_questions_are_asked() -> None:
    assert len(QUESTIONS) == 20


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda text: text[:40])
async def test_every_question_has_the_answer_that_this_month_gives(
    month: tuple[str, UUID], question: str
) -> None:
    rows = await answer(month, question)

    if question.startswith(("Is the history", "Which sagas outlived")):
        assert rows == []
    else:
        assert rows, question


async def test_who_was_charged_and_not_shipped(month: tuple[str, UUID]) -> None:
    rows = await answer(month, "Who was charged")
    numbers = {int(row["order_id"].removeprefix("o-")) for row in rows}

    assert numbers, "some of the last week"
    assert {number % 10 for number in numbers} <= {4, 5}
    assert all(number % 20 == 14 for number in numbers if number % 10 == 4), "the rest is refunded"


async def test_refunds_by_people_name_them_and_their_reasons(month: tuple[str, UUID]) -> None:
    rows = await answer(month, "Which refunds were made because")

    wanted = {(row["actor"], row["reason"]) for row in rows}
    assert wanted == {("ann", "changed her mind"), ("bob", "it was a gift")}
    assert len(rows) == _TENTH + 1


async def test_doubts_and_parked_sagas_are_listed(month: tuple[str, UUID]) -> None:
    doubts = await answer(month, "Which effects are in doubt")
    parked = await answer(month, "What waits for a person")

    assert len(doubts) == _TENTH - 1
    assert {row["idempotency_key"] for row in doubts} == {
        f"{row['saga_id']}/create_shipment" for row in doubts
    }
    assert len(parked) == _TENTH - 1 + _TENTH // 2


async def test_a_compensation_that_failed_is_no_success(month: tuple[str, UUID]) -> None:
    rows = await answer(month, "Which compensations have not worked")

    assert {(row["step"], row["outcome"], row["message"]) for row in rows} == {
        ("process_payment", "failed", "the account is closed")
    }
    assert len(rows) == _TENTH // 2


async def test_reasons_for_going_back_are_counted(month: tuple[str, UUID]) -> None:
    rows = await answer(month, "Why do sagas go back")

    assert {(row["because"], row["because_of_step"]): row["sagas"] for row in rows} == {
        ("cancelled", None): _TENTH,
        ("step_failed", "create_shipment"): _TENTH + 1,
        ("undo", None): 1,
    }


async def test_retries_are_counted(month: tuple[str, UUID]) -> None:
    rows = await answer(month, "Which steps needed more")

    (row,) = rows
    assert (row["step"], row["sagas"], row["most_attempts"]) == ("process_payment", _TENTH, 2)


async def test_what_changed_and_who_belongs_together(month: tuple[str, UUID]) -> None:
    changed = await answer(month, "What changed in the context")
    family = await answer(month, "Which sagas began this one")

    assert {row["key"]: row["became"] for row in changed} == {
        "charge": "ch-1",
        "said": {"by": "van"},
    }
    assert [(row["depth"], row["name"]) for row in family] == [(0, "order"), (1, "parcel")]

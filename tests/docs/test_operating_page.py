"""Do the questions in SQL tell what the sagas' histories say?"""

import re
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pydantic import BaseModel

from eventsaga import Orchestrator, PermanentError, Retry, Saga, Status, Step
from eventsaga.core.events import Resolution
from eventsaga.demo.auditing import DOUBT_IS_SETTLED
from eventsaga.identity import new_id
from eventsaga.store.ports import Message
from tests.runtime.sagas import until

_DOCS = Path(__file__).resolve().parents[2] / "docs"
_PAGE = _DOCS / "operating.md"
_BLOCK = re.compile(r"^```sql\n(.*?)^```", re.DOTALL | re.MULTILINE)
_ONCE = Retry(max_attempts=1)
_WHO: dict[str, Any] = {"actor": "ann", "reason": "looked"}


def questions(page: Path = _PAGE) -> list[str]:
    """Return the statements of the page."""
    (block,) = _BLOCK.findall(page.read_text())
    return [statement for part in block.split(";") if (statement := part.strip())]


async def ask(database: str, statement: str) -> list[Any]:
    connection = await asyncpg.connect(database)
    try:
        return await connection.fetch(statement)
    finally:
        await connection.close()


class Order(BaseModel):
    pass


async def nothing(_order: Order) -> None:
    pass


async def lose(_order: Order) -> None:
    raise TimeoutError("no answer")


async def refuse(_order: Order) -> None:
    raise PermanentError("cannot be undone")


doubtful = Saga(
    "doubtful",
    context=Order,
    steps=[
        Step("pay", lose, compensate=nothing, retry=_ONCE, on_doubt="park"),
        Step("process_payment", nothing, compensate=refuse, compensate_retry=_ONCE),
        Step("ship", lose, retry=_ONCE, on_doubt="park"),
    ],
)


@pytest.mark.parametrize(
    ("verb", "resolution", "left"),
    [
        ("", "", ["pay"]),
        ("skip", "", ["pay", "ship"]),
        ("resolve", "succeeded", ["ship"]),
        ("resolve", "failed", []),
    ],
)
async def test_the_query_finds_what_is_in_doubt(
    database: str, verb: str, resolution: str, left: list[str]
) -> None:
    async with Orchestrator(database, [doubtful]) as orchestrator:
        handle = await orchestrator.start("doubtful", Order())
        state = await handle.result(timeout=30)
        assert (state.status, state.in_doubt_steps) == (Status.PARKED, ("pay",))
        if verb == "skip":
            await orchestrator.skip(handle.id, "pay", **_WHO)
        elif verb == "resolve":
            await orchestrator.resolve(handle.id, "pay", Resolution(resolution), **_WHO)
        state = await handle.result(timeout=30)
        if resolution != "failed":
            assert state.status is Status.PARKED

    found = await ask(database, questions()[0])

    assert [row["step"] for row in found] == left == list(state.in_doubt_steps)
    assert [row["key"] for row in found] == [f"{handle.id}/{step}" for step in left]


async def test_the_demo_asks_by_the_same_condition() -> None:
    assert "".join(DOUBT_IS_SETTLED.split()) in "".join(questions()[0].split())


async def test_the_query_finds_what_was_given_back(database: str) -> None:
    async def decline(_order: Order) -> None:
        raise PermanentError("declined")

    saga = Saga(
        "order",
        context=Order,
        steps=[Step("process_payment", nothing, compensate=nothing), Step("ship", decline)],
    )
    async with Orchestrator(database, [saga]) as orchestrator:
        handle = await orchestrator.start("order", Order())
        await handle.result(timeout=30)

    (row,) = await ask(database, questions()[1])

    assert (row["saga_id"], row["because"]) == (handle.id, "declined")


async def test_the_query_about_refusals_finds_who_asked_for_what(database: str) -> None:
    async with Orchestrator(database, [doubtful]) as orchestrator:
        handle = await orchestrator.start("doubtful", Order())
        await handle.result(timeout=30)
        # As from another language: nothing is checked before it is there.
        asked = Message(
            saga_id=handle.id,
            message_id=new_id(),
            kind="undo",
            data={"reason": "hm"},
            actor="ann",
        )
        await orchestrator.store.post(asked)
        await until(database, "SELECT count(*) FROM eventsaga.inbox WHERE refused IS NOT NULL")

    (statement,) = questions(_DOCS / "how-to" / "operators.md")
    (row,) = await ask(database, statement)

    assert (row["saga_id"], row["kind"], row["actor"]) == (handle.id, "undo", "ann")
    assert row["refused"].startswith("cannot undo: the saga is PARKED")
    assert row["answered_at"] is not None

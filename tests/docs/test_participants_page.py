"""Does the page about participants tell the truth? Its code runs, and its numbers are ours."""

import ast
import inspect
import re
from http import HTTPStatus
from pathlib import Path
from typing import Any

import asyncpg

from eventsaga.participant import IdempotencyMiddleware, Turn
from eventsaga.participant.outbox import NEVER_STORED

_PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "participants.md"
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


async def test_the_code_of_the_page_does_what_it_says(database: str) -> None:
    code = "\n".join(_BLOCK.findall(_PAGE.read_text()))
    code = code.replace("postgresql://localhost/shop", database)
    names: dict[str, Any] = {}
    compiled = compile(code, _PAGE.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(compiled, names)  # noqa: S307 - our docs
    assert inspect.isawaitable(result)
    await result

    connection = await asyncpg.connect(database)
    amounts = await connection.fetch("SELECT amount FROM payments ORDER BY amount")
    barriers = await connection.fetchval("SELECT count(*) FROM participant_barriers")
    await connection.close()
    assert [row["amount"] for row in amounts] == [-5, 5]
    assert barriers == 3


def test_the_page_names_the_replies_that_are_never_stored() -> None:
    found = re.search(r"^([\d, ]+) and (\d+) are never stored", _PAGE.read_text(), re.MULTILINE)
    assert found is not None

    listed = {int(number) for number in re.findall(r"\d+", found.group())}

    assert listed == set(NEVER_STORED)
    assert all(HTTPStatus(number).phrase for number in listed)


def test_the_page_names_every_turn_of_the_barrier() -> None:
    listed = re.findall(
        r"^\| .* \| `(?:True|False)` \| `(\w+)` \|$", _PAGE.read_text(), re.MULTILINE
    )

    assert listed == [str(turn) for turn in Turn]


def test_the_limits_of_the_page_are_the_defaults() -> None:
    parameters = inspect.signature(IdempotencyMiddleware).parameters

    assert "`max_request` and `max_reply` are 1 MB each" in _PAGE.read_text()
    assert parameters["max_request"].default == parameters["max_reply"].default == 1_000_000

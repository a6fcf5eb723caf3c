"""Does the page about schedules tell the truth? Its code runs, but for waiting for the night."""

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from eventsaga import Orchestrator
from tests.runtime.sagas import until

_PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "schedules.md"


async def test_the_schedule_of_the_page_is_planned(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = re.search(r"^```python\n(.*?)^```", _PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None
    block = found.group(1).replace("postgresql://localhost/shop", database)

    async def run(_self: Orchestrator) -> None:
        await until(database, "SELECT next_at > now() FROM eventsaga.schedules")

    monkeypatch.setattr(Orchestrator, "run", run)
    names: dict[str, Any] = {}
    code = compile(block, _PAGE.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, names)  # noqa: S307 - our docs
    assert inspect.isawaitable(result)
    await result

    planned = await until(database, "SELECT name FROM eventsaga.schedules")
    slot = names["nightly"].next_after(names["datetime"].fromisoformat("2027-01-14T00:00:00Z"))
    assert planned == "nightly"
    assert names["nightly"].key(slot) == "schedule/nightly/2027-01-14T01:00:00Z"
    assert names["nightly"].input_at(slot) == {"day": "2027-01-13"}

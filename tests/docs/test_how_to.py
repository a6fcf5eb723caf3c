"""Do the pages that say how to do something work? Their code runs, block after block."""

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.util._once import Once

_HOW_TO = Path(__file__).resolve().parents[2] / "docs" / "how-to"
# The page about schedules waits for the night: it has a test of its own.
_PAGES = sorted(page for page in _HOW_TO.glob("*.md") if page.stem != "schedules")
# What no worker may.
_MIGHTY = frozenset({"drills", "privacy", "retention", "roles"})
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def _code(page: Path) -> str:
    return "\n".join(_BLOCK.findall(page.read_text()))


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.stem, marks=[pytest.mark.mighty] if page.stem in _MIGHTY else [])
        for page in _PAGES
    ],
)
async def test_the_code_of_the_page_does_what_it_says(
    page: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An SDK that a page sets up is gone after it.
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())
    code = _code(page)
    assert "assert " in code, "a page that claims nothing cannot be wrong"
    code = code.replace("postgresql://localhost/shop", database)
    names: dict[str, Any] = {}
    compiled = compile(code, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(compiled, names)  # noqa: S307 - our own docs
    if inspect.isawaitable(result):
        await result

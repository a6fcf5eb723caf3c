"""Does the page about the architecture name every room of the house?"""

import re
import tomllib
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_TABLE = re.compile(r"^\| Room \|.*?\n\n", re.DOTALL | re.MULTILINE)


def rooms() -> list[set[str]]:
    """Return the layers that import-linter holds, the outermost first."""
    contracts = tomllib.loads((_ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = contracts["contracts"][0]["layers"]
    return [set(re.findall(r"\w+", layer)) for layer in layers]


def test_every_room_is_listed_and_no_other() -> None:
    found = _TABLE.search((_ROOT / "docs" / "architecture.md").read_text())
    assert found is not None
    cells = [line.split("|")[1] for line in found.group().splitlines()[2:] if line]

    listed = {
        name.removeprefix("eventsaga/").removesuffix("/").removesuffix(".py")
        for cell in cells
        for name in re.findall(r"`([\w/.]+)`", cell)
    }

    assert listed - {"alembic"} == set().union(*rooms())

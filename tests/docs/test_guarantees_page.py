"""Does the page about guarantees name tests that exist, and all of those that try faults?"""

import re
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_PAGE = _ROOT / "docs" / "guarantees.md"
_LINK = re.compile(r"\[`(?P<test>test_\w+)`\]\((?P<path>[^)]+)\)")
_TEST = re.compile(r"^(?:async )?def (test_\w+)\(", re.MULTILINE)


def _named() -> set[tuple[Path, str]]:
    """Return the tests that the page names, each with the file that it links to."""
    links = _LINK.finditer(_PAGE.read_text())
    return {((_PAGE.parent / link["path"]).resolve(), link["test"]) for link in links}


def test_every_test_that_the_page_names_exists() -> None:
    named = _named()

    missing = [
        f"{path}: {test}"
        for path, test in named
        if not path.is_file() or test not in _TEST.findall(path.read_text())
    ]

    assert missing == []
    assert len(named) > 30


def test_the_page_names_every_test_of_faults() -> None:
    written = {
        (path, test)
        for path in (_ROOT / "tests" / "faults").glob("test_*.py")
        for test in _TEST.findall(path.read_text())
    }

    assert written - _named() == set()


def test_every_fault_of_the_page_has_a_test() -> None:
    rows = re.findall(r"^\|(?!--)(?! Fault| Where| What)(.*)\|$", _PAGE.read_text(), re.MULTILINE)

    _, durability = _PAGE.read_text().split("## Durability")
    without = [row for row in rows if not _LINK.search(row) and row not in durability]

    assert without == []
    assert len(rows) > 25


def test_nothing_that_looks_like_a_test_is_no_link() -> None:
    text = _PAGE.read_text()

    assert sorted(re.findall(r"`(test_\w+)`", text)) == sorted(
        link["test"] for link in _LINK.finditer(text)
    )

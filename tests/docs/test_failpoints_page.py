"""Does the page about failpoints name all that there is?"""

import re
from pathlib import Path

from eventsaga import failpoints

_PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "failpoints.md"


def test_the_page_lists_every_place_once() -> None:
    _, places = _PAGE.read_text().split("## The places")
    cells = re.findall(r"^\| (`(?:before|during|after)_.*?) \|", places, re.MULTILINE)

    listed = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]

    assert sorted(listed) == sorted(failpoints.PLACES)


def test_the_page_lists_every_action() -> None:
    _, actions = _PAGE.read_text().split("| Action | What happens |")
    table, _ = actions.split("\n\n", 1)

    listed = re.findall(r"^\| `(\w+)", table, re.MULTILINE)

    assert sorted(listed) == sorted(failpoints._ACTIONS)


def test_the_points_of_the_page_can_be_read() -> None:
    points = re.findall(r'(?:armed_by\("|EVENTSAGA_FAILPOINTS=)([^"\s]+)', _PAGE.read_text())

    assert len(points) == 2
    for point in points:
        with failpoints.armed_by(point):
            assert failpoints.armed

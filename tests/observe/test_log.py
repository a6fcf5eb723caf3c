"""Do logs say what their list says? Every event that is logged is on it, and every one of it is."""

import ast
import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from eventsaga.observe import life
from eventsaga.observe.log import EVENTS, JsonFormatter, SagaFilter, logger

_ROOT = Path(__file__).resolve().parents[2]
_VERBS = {"debug", "info", "warning", "error", "exception", "log"}


def _logged() -> Iterator[tuple[str, str]]:
    """Yield each name that is logged by structlog's loggers, and where."""
    for path in sorted((_ROOT / "eventsaga").rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        if "observe.log import" not in path.read_text("utf-8") and path.name != "log.py":
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if node.func.attr in _VERBS and "_log" in ast.unparse(node.func.value):
                texts = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
                yield from ((str(text), path.name) for text in texts)


def test_whatever_is_logged_is_on_the_list_and_the_other_way_round() -> None:
    found = dict(_logged()) | {name: "life.py" for _, name in life._LEVELS.values()}
    assert {name: where for name, where in found.items() if name not in EVENTS} == {}
    assert set(EVENTS) - set(found) == set()


def test_the_page_has_the_list() -> None:
    page = (_ROOT / "docs/reference/logs.md").read_text("utf-8")
    assert dict(re.findall(r"^\| `(\w+)` \| (.*?) \|$", page, re.MULTILINE)) == EVENTS


@pytest.fixture
def shown() -> Iterator[io.StringIO]:
    """What a handler of an embedder writes, who knows nothing of ours."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    ours = logging.getLogger("eventsaga")
    ours.addHandler(handler)
    before, ours.level = ours.level, logging.INFO
    yield stream
    ours.removeHandler(handler)
    ours.setLevel(before)


def test_a_handler_that_knows_nothing_of_it_writes_a_line(shown: io.StringIO) -> None:
    logger("test").info("saga_parked", saga_id="1", name="50 % off", message="all of it")
    assert shown.getvalue() == "saga_parked saga_id=1 name=50 % off message=all of it\n"


def test_a_handler_may_write_json(shown: io.StringIO) -> None:
    logging.getLogger("eventsaga").handlers[-1].setFormatter(JsonFormatter())
    try:
        Path("/no/such/file").read_text("utf-8")
    except OSError:
        logger("test").exception("chore_failed", level="not the level", at=3.5)

    line = json.loads(shown.getvalue())
    assert (line["event"], line["level"], line["at"]) == ("chore_failed", "error", 3.5)
    assert "FileNotFoundError" in line["exception"]


def test_an_exception_of_anybody_is_json_too(shown: io.StringIO) -> None:
    logging.getLogger("eventsaga").handlers[-1].setFormatter(JsonFormatter())
    try:
        Path("/no/such/file").read_text("utf-8")
    except OSError:
        logging.getLogger("eventsaga.step").exception("oh %s", "no")

    line = json.loads(shown.getvalue())
    assert line["event"] == "oh no"
    assert "FileNotFoundError" in line["exception"]


def test_records_of_anybody_know_the_attempt(shown: io.StringIO) -> None:
    handler = logging.getLogger("eventsaga").handlers[-1]
    handler.addFilter(SagaFilter())
    handler.setFormatter(logging.Formatter("[%(saga_name)s/%(step)s] %(message)s"))
    with structlog.contextvars.bound_contextvars(saga_name="order", step="pay"):
        logging.getLogger("eventsaga.shop").info("hello")
    logging.getLogger("eventsaga.shop").info("hello")
    assert shown.getvalue() == "[order/pay] hello\n[/] hello\n"

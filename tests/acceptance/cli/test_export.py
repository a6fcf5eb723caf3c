"""Does the page show one saga truly, to somebody offline, whatever somebody wrote into it?"""

import asyncio
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.acceptance.cli.conftest import Stock
from tests.acceptance.cli.console import Console
from tests.acceptance.cli.test_verbs import start
from tests.conftest import execute

MARKUP = "</pre></script><script>alert(1)</script><img src=x onerror=alert(2)>&amp;'\""


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("which", ["completed", "compensated", "parked"])
def test_a_page_tells_all_and_needs_nothing(stocked: Stock, which: str, tmp_path: Path) -> None:
    saga_id = getattr(stocked, which)
    file = tmp_path / "saga.html"

    told = stocked.console.json("export", saga_id, "--to", str(file))

    html = file.read_text()
    page = Page(html)
    assert told["events"] == len(stocked.console.answer("history", saga_id).splitlines())
    for text in (saga_id, which.upper(), "The chain of hashes is whole", "SagaStarted"):
        assert text in page.text
    assert page.tags.count("summary") == told["events"]
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert not {"src", "href", "onclick"} & page.attributes
    assert not re.search(r"url\(|@import|https?://", html)
    widths = re.findall(r'x="([\d.]+)%" y="15%" width="([\d.]+)%"', html)
    assert widths
    assert all(0 <= float(left) <= 100 and float(width) <= 100 for left, width in widths)
    if which == "parked":
        assert "what to do" in page.text


def test_what_is_there_is_replaced_only_if_that_is_meant(stocked: Stock, tmp_path: Path) -> None:
    file = tmp_path / "saga.html"
    file.write_text("mine")
    arguments = ("export", stocked.completed, "--to", str(file))

    assert "is there already" in stocked.console.call(*arguments).stderr
    assert file.read_text() == "mine"
    assert "events of saga" in stocked.console.answer(*arguments, "--force")
    assert stocked.completed in stocked.console.answer("export", stocked.completed, "--to", "-")
    done = stocked.console.call("export", stocked.completed, cwd=tmp_path)
    assert done.returncode == 0
    assert (tmp_path / f"{stocked.completed}.html").exists()
    nowhere = stocked.console.call("export", stocked.completed, "--to", "/no/such/folder/x")
    assert "cannot be written" in nowhere.stderr


def test_markup_is_text_and_what_is_huge_is_cut(console: Console) -> None:
    with console.worker(module="language:sagas") as worker:
        worker.until_it_says("ready")
        order = f"{MARKUP}{'x' * 100_000}"
        saga_id = start(console, "parked", "--wait", "30", "--key", MARKUP, order_id=order)

    html = console.answer("export", saga_id, "--to", "-")

    page = Page(html)
    assert not {"script", "img"} & set(page.tags)
    assert MARKUP in page.text
    assert "more characters are left out" in page.text
    assert len(html) < 300_000


def test_a_history_that_was_changed_says_so_on_the_page(console: Console) -> None:
    with console.worker(module="language:sagas") as worker:
        worker.until_it_says("ready")
        saga_id = start(console, "parked", "--wait", "30")
    assert console.url is not None
    change = "ALTER TABLE eventsaga.events DISABLE TRIGGER USER; UPDATE eventsaga.events SET"
    asyncio.run(execute(console.url, f"{change} occurred_at = occurred_at + '1s' WHERE seq = 2"))

    page = Page(console.answer("export", saga_id, "--to", "-"))

    assert "The chain of hashes is broken: event 2" in page.text

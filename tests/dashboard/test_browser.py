"""Does it work in a real browser, with a real worker and a real server?

Left out where Debian's Chromium is not installed: the summary says so.
"""

import json
import shutil
import signal
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.acceptance.cli.console import QUICK, SCRIPT, environment

HERE: Final = Path(__file__).parent
SHOTS: Final = HERE.parents[1] / "build" / "screenshots"
CHROMIUM: Final = shutil.which("chromium")
TOKEN: Final = "a-token-that-is-long-enough"  # noqa: S105 - of this test only
MARKUP: Final = "<img src=x onerror=\"document.title='owned'\"><script>alert()</script>"

pytestmark = pytest.mark.skipif(
    CHROMIUM is None,
    reason="##### LEFT OUT: NO CHROMIUM, so the dashboard is NOT tested in a browser #####",
)


@contextmanager
def running(*arguments: str, **variables: str) -> Generator[str]:
    """Run a command until the block ends; lend its first line."""
    with subprocess.Popen(
        [SCRIPT, *arguments],
        cwd=HERE,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline()
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                assert process.wait(timeout=15) == 0
            except subprocess.TimeoutExpired:
                process.kill()
                raise


@contextmanager
def browsing() -> Generator[Page]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1000, "height": 800}, color_scheme="light")
        page.set_default_timeout(15_000)
        yield page
        chromium.close()


def shoot(page: Page, name: str) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png")


def test_a_parked_saga_is_found_understood_retried_and_seen_to_complete(
    database: str, tmp_path: Path
) -> None:
    bank = tmp_path / "open"
    variables = environment(database, **QUICK, BANK_IS_OPEN=str(bank))
    serve = ("dashboard", "--port", "0", "--operator", "--token", TOKEN, "--json")
    with (
        running("worker", "bank:sagas", **variables),
        running(*serve, **variables) as said,
        browsing() as page,
    ):
        context = json.dumps({"order_id": MARKUP})
        start = ("start", "order", "-m", "bank:sagas", "--wait", "30", "--context", context)
        subprocess.run([SCRIPT, *start], cwd=HERE, env=variables, check=False, timeout=60)
        complaints = list[str]()
        page.on("console", lambda told: complaints.append(told.text))
        page.goto(json.loads(said)["url"])
        page.get_by_label("Your name").fill("ada")
        page.get_by_label("Token").fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Overview")).to_be_visible()
        shoot(page, "overview")

        page.get_by_role("link", name="Parked", exact=True).click()
        expect(page.get_by_text("the bank is closed").first).to_be_visible()
        page.locator("article h2 a").click()
        expect(page.locator("h1 .status")).to_have_text("PARKED")
        expect(page.locator("#live-context pre")).to_contain_text("<img src=x onerror=")
        assert page.locator("main img, main script").count() == 0
        shoot(page, "parked")

        bank.touch()
        page.get_by_label("Because").fill("the bank is open again")
        page.get_by_role("button", name="retry", exact=True).click()
        # Nobody reloads: the page hears of it.
        expect(page.locator("h1 .status")).to_have_text("COMPLETED")
        expect(page.locator("#live-lines")).to_contain_text("(by ada)")
        shoot(page, "saga")

        page.goto(f"{page.url.partition('?')[0]}?seq=2#context")
        expect(page.locator("#context")).to_have_text("Context after event 2")
        page.locator("input[name=seq]").press("ArrowLeft")
        expect(page.locator("#context")).to_have_text("Context after event 1")
        expect(page.locator("#live-context")).to_contain_text("SagaStarted")

        page.set_viewport_size({"width": 375, "height": 700})
        page.emulate_media(color_scheme="dark")
        wide = page.evaluate("document.documentElement.scrollWidth")
        shoot(page, "phone")
        assert wide <= 375
        assert "owned" not in page.title()
        assert not complaints


def test_a_page_is_read_without_javascript(database: str) -> None:
    variables = environment(database)
    with running("dashboard", "--port", "0", "--json", **variables) as said, browsing() as page:
        assert page.context.browser is not None
        plain = page.context.browser.new_page(java_script_enabled=False)
        plain.goto(json.loads(said)["url"])
        expect(plain.get_by_text("No worker lives.")).to_be_visible()
        plain.get_by_role("link", name="Sagas").click()
        expect(plain.get_by_text("No saga fits.")).to_be_visible()

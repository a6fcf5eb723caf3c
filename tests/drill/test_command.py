"""What does the command say, write and return? Run as people run it."""

import asyncio
import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.acceptance.cli.console import Console
from tests.drill.till import Till

SHOP = "tests.drill.shop:orchestrator"
CONTEXT = '{"order_id": "o-{run}"}'
ROOT = Path(__file__).parents[2]


async def test_a_participant_that_ignores_keys_is_found_and_shown(
    server_url: str, careless_till: Till, tmp_path: Path
) -> None:
    order = tmp_path / "order.json"
    order.write_text(CONTEXT)
    arguments = ["drill", SHOP, "--saga", "paid", "--context", str(order), "--forward-only"]
    arguments += ["--server", server_url, "--at", "doing charge"]
    arguments += ["--report", str(tmp_path / "drill.json"), "--junit", str(tmp_path / "drill.xml")]

    done = await asyncio.to_thread(
        Console(None, PYTHONPATH=str(ROOT), SHOP_TILL_URL=careless_till.url).run, *arguments
    )

    assert done.returncode == 1, done.stderr
    assert "kill   ok        completed" in done.stdout  # it died before the charge
    assert "kill   violated  completed" in done.stdout
    assert "/charge took effect 2 times, in 2 requests" in done.stdout
    assert "violated: kill after doing charge" in done.stderr
    # The timeline of that saga.
    assert "WorkerLost" in done.stdout
    assert "charge #2" in done.stdout
    report = json.loads((tmp_path / "drill.json").read_text())
    before, after = report["runs"]
    assert (report["ok"], before["outcome"], after["outcome"]) == (False, "ok", "violated")
    assert after["findings"][0]["check"] == "effects"
    assert [key["effects"] for key in after["keys"]] == [2]
    assert after["timeline"]
    suite = ET.parse(tmp_path / "drill.xml").getroot()[0]  # noqa: S314 - our own
    assert (suite.get("tests"), suite.get("failures")) == ("3", "1")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere.sagas:orchestrator", "-c", "{}"], "nowhere.sagas:orchestrator cannot be loaded"),
        (["shop", "-c", "{}"], "'shop' must be module:name"),
        ([SHOP, "-c", "{}"], "several sagas: name one of booked, forgetful, paid"),
        ([SHOP, "-c", "{}", "--saga", "pad"], "has no saga 'pad'"),
        ([SHOP, "--saga", "paid"], "--context is missing"),
        ([SHOP, "--saga", "paid", "-c", "nowhere.json"], "nowhere.json cannot be read"),
        ([SHOP, "--saga", "paid", "-c", "{}"], "order_id"),
        ([SHOP, "-c", "{}", "--mode", "explode"], "--mode must be kill, pause"),
        ([SHOP, "-c", "{}", "--check", "json:nothing"], "json:nothing cannot be loaded"),
        ([SHOP, "-c", "{}", "--check", "json:__doc__"], "json:__doc__ is no function"),
        (["demo", "--saga", "order"], "the demo brings its own"),
    ],
)
def test_what_cannot_be_drilled_is_said_in_one_line(
    server_url: str, arguments: list[str], told: str
) -> None:
    done = Console(None).call("drill", *arguments, "--server", server_url, cwd=ROOT)

    assert done.returncode == 2, done.stderr
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_a_server_that_is_not_there_is_named(unused_tcp_port: int) -> None:
    url = f"postgresql://localhost:{unused_tcp_port}/shop"

    done = Console(None).call("drill", SHOP, "-c", "{}", "--server", url, cwd=ROOT)

    assert done.returncode == 2
    assert f"localhost:{unused_tcp_port}" in done.stderr
    assert "Traceback" not in done.stderr

"""The demo, run as users run it; what it claims is looked up in the ledgers and in the tables."""

import json
import re
import signal
import subprocess
import sys
from collections import Counter
from http import HTTPStatus
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from eventsaga.embedded import EmbeddedPostgres
from tests.acceptance.demo.process import Demo, Json, is_gone, scene, until


async def ledger(db: "asyncpg.Connection[Any]", service: str, order: str) -> list[asyncpg.Record]:
    """Return what a service did for the orders whose id begins so."""
    table = f"demo_{service}.ledger"
    return await db.fetch(f"SELECT * FROM {table} WHERE starts_with(order_id, $1)", order)  # noqa: S608 - a test's own


def test_all_scenes_are_played_in_time_and_all_checks_pass(played: Json) -> None:
    assert played["ok"] is True
    assert played["seconds"] < 60
    assert [scene["number"] for scene in played["scenes"]] == [1, 2, 3, 4, 5]
    for each in played["scenes"]:
        assert each["ok"], each
        assert each["checks"]
    for number in (1, 2, 3, 4):
        assert scene(played, number)["timeline"], "a scene shows its saga"


async def test_the_completed_order_is_in_every_ledger(
    played: Json, db: "asyncpg.Connection[Any]"
) -> None:
    order = f"{played['run']}-completes"
    for service, operations in {
        "orders": ["confirm", "create"],
        "inventory": ["confirm", "reserve"],
        "payments": ["charge"],
        "shipping": ["book"],
    }.items():
        assert sorted(row["operation"] for row in await ledger(db, service, order)) == operations


async def test_the_declined_order_left_nothing_and_went_back_in_reverse(
    played: Json, db: "asyncpg.Connection[Any]"
) -> None:
    order = f"{played['run']}-declined"
    for service, undone in {"orders": "cancel", "inventory": "release"}.items():
        rows = await ledger(db, service, order)
        assert sum(row["quantity"] for row in rows) == 0
        assert [row["operation"] for row in rows if row["quantity"] < 0] == [undone]
    for service in ("payments", "shipping"):
        assert await ledger(db, service, order) == []
    status = await db.fetchval(
        "SELECT status FROM eventsaga.sagas WHERE saga_id = $1", scene(played, 2)["sagas"][0]
    )
    assert status == "COMPENSATED"


async def test_the_payment_was_in_doubt_and_charged_once(
    played: Json, db: "asyncpg.Connection[Any]"
) -> None:
    saga_id = scene(played, 3)["sagas"][0]
    doubt = await db.fetchrow(
        "SELECT data->>'step' AS step, recorded_at FROM eventsaga.events"
        " WHERE saga_id = $1 AND type = 'StepInDoubt'",
        saga_id,
    )
    charges = await ledger(db, "payments", f"{played['run']}-in-doubt")
    assert doubt is not None
    assert doubt["step"] == "process_payment"
    assert len(charges) == 1
    assert charges[0]["applied_at"] < doubt["recorded_at"]
    assert charges[0]["idempotency_key"] == f"{saga_id}/process_payment"


async def test_fifty_orders_survive_the_worker(played: Json, db: "asyncpg.Connection[Any]") -> None:
    sagas = scene(played, 4)["sagas"]
    assert len(set(sagas)) == 50
    pids = await db.fetch(
        "SELECT e.type, w.pid, count(*) AS times FROM eventsaga.events e"
        "  JOIN eventsaga.workers w USING (worker_id)"
        " WHERE e.saga_id = ANY ($1::uuid[]) AND e.type IN ('SagaRecovered', 'SagaCompleted')"
        " GROUP BY e.type, w.pid",
        sagas,
    )
    assert {(row["type"], row["times"]) for row in pids} == {
        ("SagaRecovered", 50),
        ("SagaCompleted", 50),
    }
    before = await db.fetch(
        "SELECT DISTINCT w.pid FROM eventsaga.events e JOIN eventsaga.workers w USING (worker_id)"
        " WHERE e.saga_id = ANY ($1::uuid[])",
        sagas,
    )
    assert len(before) == 2, "one worker began, another one ended"
    for service in ("orders", "inventory", "payments", "shipping"):
        rows = await ledger(db, service, f"{played['run']}-bulk-")
        counted = Counter((row["order_id"], row["operation"]) for row in rows)
        assert set(counted.values()) == {1}
        assert len({order_id for order_id, _ in counted}) == 50


async def test_the_takeover_waited_for_no_lease(played: Json) -> None:
    """A worker of the same machine sees that the killed process is gone."""
    measured = scene(played, 4)["measured"]
    # The lease of 3 s is renewed every second, and a machine may be slow to start a process.
    assert 0 < measured["takeover"] < 20.0
    assert measured["interrupted"] >= measured["applied_unseen"] > 0


def test_two_demos_at_once_do_not_disturb_each_other_and_one_can_be_looked_around_in(
    played: Json, server: EmbeddedPostgres, data_dir: Path
) -> None:
    """The second run on the same data: old orders are there, and not in the way."""
    with Demo(data_dir, "--dashboard") as kept, Demo(data_dir, "--json") as other:
        assert other.wait() == 0, other.err
        until(lambda: "psql" in kept.out.partition("stays up until Ctrl-C")[2])
        urls = {other.document()["database_url"], re.findall(r"URL='(.*)'", kept.out)[0]}
        assert len(urls) == 2, "each has a database to itself"
        assert played["database_url"] in urls, "old data is used again"
        assert other.document()["run"] != played["run"]
        _look_around(kept.out)
        _open_dashboard(kept.out)
        children = kept.children()

        kept.process.send_signal(signal.SIGINT)

        assert kept.wait() == 0, kept.err
    assert all(map(is_gone, children))
    assert kept.out.count("✓") > 30
    assert "✗" not in kept.out


def _look_around(out: str) -> None:
    """Paste what is printed into a shell, as it is printed."""
    questions = re.findall(r"^/[^\n]*<<'SQL'\n(?:.*\n)*?SQL$", out, re.MULTILINE)
    assert len(questions) == 4
    for question in questions:
        assert "ERROR" not in _pasted(question)
    asked = [line for line in out.splitlines() if line.startswith("  ")]
    pasted = "\n".join(asked[asked.index(next(a for a in asked if "export" in a)) : -1])
    answers = _pasted(pasted)
    assert "process_payment" in answers
    assert "in doubt" in answers


def _open_dashboard(out: str) -> None:
    [url] = re.findall(r"The dashboard is at (\S+)", out)
    [token] = re.findall(r"Its token is (\S+)", out)
    assert httpx.get(f"{url}sagas").status_code == HTTPStatus.SEE_OTHER, "to the login"
    shown = httpx.get(f"{url}sagas", headers={"Authorization": f"Bearer {token}"})
    assert shown.text.count("COMPLETED") > 10


def _pasted(command: str) -> str:
    pasted = subprocess.run(
        ["/bin/sh", "-e", "-c", command], check=True, capture_output=True, text=True
    )
    return pasted.stdout + pasted.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 130)])
def test_a_demo_that_is_stopped_in_the_middle_leaves_no_process(
    server: EmbeddedPostgres, data_dir: Path, number: signal.Signals, code: int
) -> None:
    with Demo(data_dir) as demo:
        children = demo.children()

        demo.process.send_signal(number)

        assert demo.wait() == code
    until(lambda: all(map(is_gone, children)))
    assert "Traceback" not in demo.err


LIAR = """
import sys
from collections import Counter
from pathlib import Path
from eventsaga.demo import play
from eventsaga.demo.checks import Check
from eventsaga.demo.run import run

async def lie(stage, scene):
    scene.check(Check("the moon", "cheese", "rock"))

async def hang(stage, scene):
    raise TimeoutError

play.SCENES = (("A lie", lie), ("A scene that hangs", hang), ("Never played", lie))
sys.exit(run(None, Path(sys.argv[1]), as_json=True))
"""


def test_what_does_not_come_out_as_expected_is_said_and_fails_the_demo(
    server: EmbeddedPostgres, data_dir: Path
) -> None:
    command = [sys.executable, "-c", LIAR, str(data_dir)]
    demo = subprocess.run(command, check=False, capture_output=True, text=True)
    assert demo.returncode == 1
    assert "✗ the moon: expected cheese, found rock" in demo.stderr
    assert "it takes too long" in demo.stderr
    document = json.loads(demo.stdout)
    assert [document["ok"], len(document["scenes"])] == [False, 2]

"""A file of orders, run as users run it; what became of them is looked up in the tables."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest

EXAMPLES = Path(__file__).parents[3] / "examples" / "orders.jsonl"

Json = dict[str, Any]


pytestmark = pytest.mark.usefixtures("server")


def run(data_dir: Path, orders: str | Path, stdin: bytes = b"") -> tuple[int, Json, str]:
    """Run a file of orders and return the exit code, the document and what people read."""
    command = [sys.executable, "-m", "eventsaga", "demo", "--data-dir", str(data_dir)]
    demo = subprocess.run(
        [*command, "--json", "--orders", str(orders)], check=False, capture_output=True, input=stdin
    )
    document: Json = json.loads(demo.stdout)
    return demo.returncode, document, demo.stderr.decode()


def order(number: int, **changes: Any) -> bytes:
    plain: Json = json.loads(EXAMPLES.read_text().splitlines()[0])
    return json.dumps({**plain, "order_id": f"order-{number}", **changes}).encode()


async def ask(url: str, sql: str) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(sql)]
    finally:
        await connection.close()


async def test_the_examples_run_once_however_often_they_are_run(data_dir: Path) -> None:
    first = run(data_dir, EXAMPLES)
    second = run(data_dir, EXAMPLES)

    assert [first[0], second[0]] == [0, 0], first[2] + second[2]
    assert (first[1]["started"], first[1]["started_before"]) == (12, 0)
    assert (second[1]["started"], second[1]["started_before"]) == (0, 12)
    assert "12 had been started before" in second[2]
    url = first[1]["database_url"]
    rows = await ask(url, "SELECT context->>'order_id', status FROM eventsaga.sagas")
    endings = {row[0]: row[1] for row in rows}
    undone = {order_id for order_id, status in endings.items() if status == "COMPENSATED"}
    assert undone == {each["order_id"] for each in first[1]["not_completed"]}
    assert {each["step"] for each in first[1]["not_completed"]} == {
        "create_order",
        "reserve_inventory",
        "process_payment",
        "create_shipment",
    }
    charged = await ask(
        url,
        "SELECT order_id, sum(amount)::float, count(*) FROM demo_payments.ledger GROUP BY order_id",
    )
    completed = endings.keys() - undone
    assert len(completed) == first[1]["completed"] == 7
    assert {row[0] for row in charged if row[1] > 0} == completed
    assert {row[2] for row in charged if row[1] > 0} == {1}
    assert {row[1] for row in charged if row[0] in undone} == {0.0}


async def test_bad_lines_are_named_and_the_others_run(data_dir: Path) -> None:
    """They come from standard input here: what holds for a file holds for a pipe."""
    orders = b"\n".join(
        [
            order(1),  # 1: good
            b"{not json",
            b"\xff\xfe",
            b"",  # 4: blank, not bad
            order(1, total_amount=1.0),  # 5: the same id, another content
            order(1),  # 6: the same, again
            order(7, customer_id="a\x00b"),
            b"x" * 300_000,
            order(9, unheard_of="\x1b[31m"),
            order(10),  # 10: good
        ]
    )

    code, document, said = run(data_dir, "-", stdin=orders)

    assert code == 1
    assert document["ok"] is False
    assert [bad["line"] for bad in document["bad"]] == [2, 3, 5, 7, 8, 9]
    for bad in document["bad"]:
        assert f"standard input:{bad['line']}: {bad['reason']}" in said
    assert "another content" in document["bad"][2]["reason"]
    assert (document["lines"], document["blank"]) == (10, 1)
    assert (document["started"], document["started_before"], document["completed"]) == (2, 1, 3)
    rows = await ask(
        document["database_url"],
        "SELECT order_id, amount::float FROM demo_payments.ledger"
        " WHERE order_id ~ '^order-' ORDER BY order_id",
    )
    assert rows == [("order-1", 109.97), ("order-10", 109.97)]
    assert "Traceback" not in said


def test_a_file_that_is_not_there_is_said_in_a_sentence(data_dir: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "eventsaga", "demo", "--data-dir", str(data_dir)]
    demo = subprocess.run(
        [*command, "--orders", tmp_path / "missing"], check=False, capture_output=True, text=True
    )
    assert demo.returncode == 2
    assert "No such file" in demo.stdout + demo.stderr
    assert "Traceback" not in demo.stderr


def test_a_worker_without_its_services_says_what_to_set() -> None:
    worker = subprocess.run(
        [sys.executable, "-m", "eventsaga", "worker", "eventsaga.demo.app:orchestrator"],
        check=False,
        capture_output=True,
        text=True,
        env={"EVENTSAGA_DATABASE_URL": "postgresql://x@127.0.0.1:1/x"},
    )
    assert worker.returncode == 2
    for service in ("ORDERS", "INVENTORY", "PAYMENTS", "SHIPPING"):
        assert f"EVENTSAGA_DEMO_{service}_URL" in worker.stderr
    assert "Traceback" not in worker.stderr

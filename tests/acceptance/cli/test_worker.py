"""How does a worker process live and die? Real processes, real signals, another that takes over."""

import json
import os
import signal
from pathlib import Path

import pytest

from tests.acceptance.cli.console import Console, query

RUNNING = "SELECT saga_id FROM eventsaga.sagas WHERE owner IS NOT NULL"


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A pipe that a step waits at until somebody writes to it."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    return path


def start(console: Console, **context: str) -> str:
    given = json.dumps({"order_id": "1"} | context)
    return console.answer("start", "order", "-m", "shop:sagas", "-c", given).strip()


def status(console: Console) -> list[str]:
    return query(str(console.url), "SELECT status FROM eventsaga.sagas")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_running_attempt_end_and_hands_the_rest_over(
    console: Console, gate: Path, number: signal.Signals
) -> None:
    with console.worker() as worker:
        assert "order v1, other v3" in worker.until_it_says("ready")
        saga_id = start(console, gate=str(gate))
        worker.until_it_says("shipping 1")
        worker.send(number)
        worker.until_it_says("draining", on_stderr=True)
        gate.write_text("go", encoding="utf-8")
        worker.until_it_says("stopped")
        assert worker.code() == 0
    assert query(str(console.url), RUNNING) == []
    assert status(console) == ["COMPLETED"]
    assert "ship #1" in console.answer("show", saga_id)


def test_a_worker_that_stops_between_two_steps_leaves_a_saga_that_goes_on_at_once(
    console: Console, gate: Path
) -> None:
    """What an ending worker holds back is due for the next one, and not some day."""
    with console.worker(module="long:saga") as worker:
        worker.until_it_says("ready")
        given = json.dumps({"gate": str(gate)})
        saga_id = console.answer("start", "long", "-m", "long:saga", "-c", given).strip()
        worker.until_it_says("waiting")
        worker.send(signal.SIGTERM)
        worker.until_it_says("draining", on_stderr=True)
        gate.write_text("go", encoding="utf-8")
        assert worker.code() == 0
    shown = console.json("show", saga_id)
    assert (shown["status"], shown["completed_steps"]) == ("RUNNING", ["first"])
    with console.worker(module="long:saga") as worker:
        worker.until_it_says("second")
        worker.send(signal.SIGTERM)
        assert worker.code() == 0
    assert status(console) == ["COMPLETED"]


def test_an_attempt_that_does_not_end_in_time_is_handed_over(console: Console, gate: Path) -> None:
    """A step in a thread cannot be stopped; the process ends all the same, in order."""
    with console.worker(EVENTSAGA_DRAIN_TIMEOUT="0.2") as worker:
        worker.until_it_says("ready")
        saga_id = start(console, gate=str(gate), dies_with="")
        worker.until_it_says("shipping 1")
        worker.send(signal.SIGTERM)
        worker.until_it_says("stopped")
        assert worker.code() == 0
    with console.worker(SHOP="second") as worker:
        worker.until_it_says("shipping 2")
        worker.send(signal.SIGTERM)
        assert worker.code() == 0
    first, second = (
        line for line in console.json("show", saga_id)["timeline"] if line["step"] == "ship"
    )
    assert (first["outcome"], second["outcome"]) == ("in doubt", "succeeded")
    assert first["idempotency_key"] == second["idempotency_key"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 128 + 15), (signal.SIGINT, 128 + 2)])
def test_a_second_signal_ends_it_at_once(
    console: Console, gate: Path, number: signal.Signals, code: int
) -> None:
    with console.worker() as worker:
        worker.until_it_says("ready")
        start(console, gate=str(gate))
        worker.until_it_says("shipping 1")
        worker.send(signal.SIGTERM)
        worker.until_it_says("draining", on_stderr=True)
        worker.send(number)
        assert worker.code() == code
    assert len(query(str(console.url), RUNNING)) == 1


def test_after_kill_9_another_worker_takes_over(console: Console, gate: Path) -> None:
    with console.worker(SHOP="first") as worker:
        worker.until_it_says("ready")
        saga_id = start(console, gate=str(gate), dies_with="first")
        worker.until_it_says("shipping 1")
        worker.send(signal.SIGKILL)
        assert worker.code() == -signal.SIGKILL
    assert "shipping" not in console.answer("show", saga_id)

    with console.worker(SHOP="second") as worker:
        worker.until_it_says("shipping 2")
        worker.send(signal.SIGTERM)
        assert worker.code() == 0

    shown = console.json("show", saga_id)
    assert (shown["status"], shown["context"]["shipped_by"]) == ("COMPLETED", "second")
    assert "taken over" in [line["outcome"] for line in shown["timeline"]]
    first, second = (line for line in shown["timeline"] if line["step"] == "ship")
    assert (first["outcome"], second["outcome"]) == ("in doubt", "succeeded")
    assert first["idempotency_key"] == second["idempotency_key"]
    assert console.json("verify")["ok"] is True


def test_a_program_is_told_in_json_what_a_worker_does(console: Console) -> None:
    with console.worker("--json", "--log-level", "warning", module="shop:orchestrator") as worker:
        ready = json.loads(worker.until_it_says("ready"))
        worker.send(signal.SIGTERM)
        stopped = json.loads(worker.until_it_says("stopped"))
        assert worker.code() == 0
    assert ready["pid"] == stopped["pid"]
    assert [saga["name"] for saga in ready["sagas"]] == ["order"]


def test_several_workers_share_the_work(console: Console) -> None:
    with console.worker(SHOP="one") as one, console.worker(SHOP="two") as two:
        for worker in (one, two):
            worker.until_it_says("ready")
        for _ in range(3):
            start(console)
        for worker in (one, two):
            worker.send(signal.SIGTERM)
            assert worker.code() == 0
    done = console.json("list")["sagas"]
    assert {saga["owner"] for saga in done} == {None}
    assert console.json("verify")["ok"] is True

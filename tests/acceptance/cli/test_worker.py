"""How does a worker process live and die? Real processes, real signals, another that takes over."""

import json
import os
import signal
from pathlib import Path

import httpx
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


def test_the_spans_before_and_after_kill_9_are_one_trace(
    console: Console, gate: Path, tmp_path: Path
) -> None:
    spans = tmp_path / "spans"
    with console.worker(module="traced:sagas", SHOP="first", SPANS=str(spans)) as worker:
        worker.until_it_says("ready")
        saga_id = start(console, gate=str(gate), dies_with="first")
        worker.until_it_says("shipping 1")
        worker.send(signal.SIGKILL)
        assert worker.code() == -signal.SIGKILL
    with console.worker(module="traced:sagas", SHOP="second", SPANS=str(spans)) as worker:
        worker.until_it_says("shipping 2")
        worker.send(signal.SIGTERM)
        assert worker.code() == 0

    found = [json.loads(line) for line in spans.read_text("utf-8").splitlines()]
    assert [(span["shop"], span["name"]) for span in found] == [
        ("first", "order/reserve"),
        ("first", "order/charge"),
        ("second", "order/ship"),
        ("second", "order"),
    ]
    assert {span["trace"] for span in found} == {saga_id.replace("-", "")}


def test_logs_are_json_if_that_is_asked_for(console: Console) -> None:
    """Each line by itself, and those of a step know their saga."""
    with console.worker(EVENTSAGA_LOG_FORMAT="json", module="talks:sagas") as worker:
        worker.until_it_says("ready")
        given = json.dumps({"word": 'a "quoted" 100 % word'})
        saga_id = console.answer("start", "talk", "-m", "talks:sagas", "-c", given).strip()
        lines = [
            json.loads(worker.until_it_says(name, on_stderr=True))
            for name in ("said_by_step", "said by stdlib", "step_failed")
        ]
        worker.send(signal.SIGTERM)
        assert worker.code() == 0

    about = {"saga_id": saga_id, "saga_name": "talk", "step": "say"}
    for line in lines:
        assert about.items() <= line.items()
    by_step, by_stdlib, failed = lines
    assert (by_step["word"], by_step["logger"]) == ('a "quoted" 100 % word', "eventsaga.step")
    assert (by_stdlib["level"], by_stdlib["attempt"]) == ("warning", 1)
    assert (failed["level"], failed["error_type"]) == ("info", "PermanentError")
    assert by_step["timestamp"].endswith("+00:00")


def test_a_program_is_told_in_json_what_a_worker_does(console: Console) -> None:
    with console.worker("--json", "--log-level", "warning", module="shop:orchestrator") as worker:
        ready = json.loads(worker.until_it_says("ready"))
        worker.send(signal.SIGTERM)
        stopped = json.loads(worker.until_it_says("stopped"))
        assert worker.code() == 0
    assert ready["pid"] == stopped["pid"]
    assert [saga["name"] for saga in ready["sagas"]] == ["order"]


def test_metrics_are_scraped_while_workers_are_killed(console: Console, gate: Path) -> None:
    """A worker counts what it has committed an instant after the database shows it."""
    completed, started = (
        f'sagas_{what}_total{{saga_name="order"}}' for what in ("completed", "started")
    )
    scraped = ("--metrics-port", "0")
    with console.worker(*scraped, SHOP="first") as doomed:
        its_url = doomed.until_it_says("metrics are at").split()[-1]
        start(console, gate=str(gate), dies_with="first")
        doomed.until_it_says("shipping 1")
        with console.worker(*scraped, SHOP="second") as heir:
            url = heir.until_it_says("metrics are at").split()[-1]
            for _ in range(19):
                start(console)
            while True:
                before, meanwhile = httpx.get(its_url).text, httpx.get(url).text
                if _total(before + meanwhile, completed) >= 19:
                    break
            assert before.count("saga_lease_remaining_seconds{") == 2
            doomed.send(signal.SIGKILL)
            while True:
                after = httpx.get(url).text
                assert "saga_database_up 1.0" in after
                if _total(before + after, completed) >= 20:
                    break
            assert 'sagas_active{saga_name="order"} 0.0' in after
            heir.send(signal.SIGTERM)
            assert heir.code() == 0

    assert _total(before + after, completed) == 20, "each by one of them"
    assert _total(before + after, started) == 20
    assert _total(after, 'saga_takeovers_total{saga_name="order"}') == 1


def _total(text: str, sample: str) -> float:
    """Return the sum of a sample over what several workers tell."""
    lines = (line for line in text.splitlines() if line.startswith(sample))
    return sum(float(line.rpartition(" ")[2]) for line in lines)


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

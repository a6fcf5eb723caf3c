"""What may a person do about a saga from a shell? Asked, answered, recorded with who and why."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.cli.console import Console

BY_ANN = ("--reason", "looked into it", "--actor", "ann")


@pytest.fixture
def running(console: Console) -> Iterator[Console]:
    """The command line of a database that has a worker."""
    with console.worker(module="language:sagas") as worker:
        worker.until_it_says("ready")
        yield console


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A file; what breaks because of it works again when it is gone."""
    path = tmp_path / "broken"
    path.touch()
    return path


def start(console: Console, name: str, *options: str, code: int = 0, **context: Any) -> str:
    """Start a saga, wait as *options* say, and return its id."""
    given = ("start", name, "-m", "language:sagas", "-c", json.dumps(context))
    return str(console.json(*given, *options, code=code)["saga_id"])


def parked(console: Console, broken: Path, *, declined: bool = False) -> str:
    saga_id = start(
        console, "parked", "--wait", "30", code=1, broken=str(broken), declined=declined
    )
    assert status(console, saga_id) == "PARKED"
    return saga_id


def status(console: Console, saga_id: str) -> str:
    return str(console.json("show", saga_id)["status"])


def finished(console: Console, saga_id: str) -> str:
    """Wait until a saga has ended, and return how."""
    ended = {"COMPLETED", "COMPENSATED", "FAILED"}
    return next(found for _ in range(600) if (found := status(console, saga_id)) in ended)


def test_explain_says_why_it_waits_and_what_may_be_done(running: Console, broken: Path) -> None:
    saga_id = parked(running, broken)

    told = running.answer("explain", saga_id)

    assert told.splitlines()[0].split() == ["parked", saga_id, "PARKED"]
    assert "no answer from the bank" in told
    assert "What to do: " in told
    assert f"  eventsaga retry {saga_id} --step pay --reason '…'" in told
    assert f"  eventsaga resolve {saga_id} pay succeeded --reason '…'" in told
    explained = running.json("explain", saga_id)
    assert explained["status"] == "PARKED"
    assert {"retry", "retry pay", "skip pay", "abandon"} <= set(explained["legal"])


def test_explain_and_show_name_the_signal_that_a_saga_waits_for(running: Console) -> None:
    saga_id = start(running, "approved")
    waits = "waiting for signal approval on approval"
    assert any(waits in running.answer("show", saga_id) for _ in range(100))

    told = running.answer("explain", saga_id)

    command = f"  eventsaga signal {saga_id} approval '{{…}}'\n"
    assert "approval waits for signal 'approval'" in told
    assert command in told
    assert running.json("explain", saga_id)["signals"] == ["approval"]
    assert command in running.call("undo", saga_id, *BY_ANN).stderr
    running.answer("signal", saga_id, "approval", '{"by": "ann"}')
    assert finished(running, saga_id) == "COMPLETED"
    assert running.json("explain", saga_id)["signals"] == []


def test_show_says_that_only_somebody_else_can_go_on(running: Console) -> None:
    saga_id = start(running, "holding")

    told = "waiting for somebody (or something) on hold"
    assert any(told in running.answer("show", saga_id) for _ in range(200))


def test_retry_lets_it_try_again(running: Console, broken: Path) -> None:
    saga_id = parked(running, broken)
    broken.unlink()

    answer = running.json("retry", saga_id, "--step", "pay", *BY_ANN)

    assert answer == {
        "saga_id": saga_id,
        "requested": "retry",
        "reason": "looked into it",
        "actor": "ann",
        "taken": True,
    }
    assert finished(running, saga_id) == "COMPLETED"
    assert "pay: looked into it (by ann)" in running.answer("show", saga_id)


def test_skip_goes_on_without_a_step(running: Console, broken: Path) -> None:
    saga_id = parked(running, broken)

    assert "has taken it (skip)" in running.answer("skip", saga_id, "pay", *BY_ANN)
    assert finished(running, saga_id) == "COMPLETED"
    lines = running.json("show", saga_id)["timeline"]
    assert [line["detail"] for line in lines if line["outcome"] == "skipped"] == [
        "looked into it (by ann)"
    ]


def test_resolve_says_what_became_of_it(running: Console, broken: Path) -> None:
    saga_id = parked(running, broken)

    running.answer(
        "resolve", saga_id, "pay", "succeeded", "--result", '{"payment": "p-9"}', *BY_ANN
    )

    assert finished(running, saga_id) == "COMPLETED"
    assert running.json("show", saga_id)["context"]["payment"] == "p-9"


def test_what_was_undone_by_hand_is_resolved_as_compensated(running: Console, broken: Path) -> None:
    saga_id = parked(running, broken, declined=True)

    running.answer("resolve", saga_id, "book", "compensated", *BY_ANN)

    assert finished(running, saga_id) == "COMPENSATED"
    assert "resolved as compensated" in running.answer("show", saga_id)


def test_abandon_ends_it_and_lists_what_is_left(running: Console, broken: Path) -> None:
    saga_id = parked(running, broken, declined=True)

    running.answer("abandon", saga_id, *BY_ANN)

    assert finished(running, saga_id) == "FAILED"
    assert "looked into it (by ann); left as it is: book" in running.answer("show", saga_id)
    assert "left behind: book" in running.answer("explain", saga_id)


def test_undo_compensates_what_had_completed_with_its_children(running: Console) -> None:
    saga_id = start(running, "parent", "--wait", "30")

    running.answer("undo", saga_id, *BY_ANN)

    assert finished(running, saga_id) == "COMPENSATED"
    shown = running.json("show", saga_id)
    (child,) = shown["children"]
    assert (child["step"], child["name"], child["status"]) == ("deliver", "delivery", "COMPENSATED")


def test_show_names_parents_and_children(running: Console) -> None:
    saga_id = start(running, "parent", "--wait", "30")

    (child,) = running.json("show", saga_id)["children"]

    told = running.answer("show", saga_id)
    assert child["saga_id"] in told
    assert "delivery, step deliver" in told
    assert running.json("show", child["saga_id"])["parent"] == {
        "saga_id": saga_id,
        "step": "deliver",
    }
    assert f"{saga_id}, step deliver" in running.answer("show", child["saga_id"])


def test_a_signal_is_heard_once(running: Console) -> None:
    saga_id = start(running, "approved")
    by_ann = ("signal", saga_id, "approval", '{"by": "ann"}', "--id", "mail-1", "--actor", "ann")

    assert running.json(*by_ann)["taken"] is True
    assert finished(running, saga_id) == "COMPLETED"

    shown = running.json("show", saga_id)
    assert shown["context"]["approval"] == {"by": "ann"}
    assert [line["outcome"] for line in shown["timeline"]].count("signal") == 1
    assert running.json(*by_ann)["taken"] is True  # heard before: nothing to complain of
    other = running.call("signal", saga_id, "approval", '{"by": "bob"}')
    assert (other.returncode, other.stdout) == (1, "")
    assert f"eventsaga undo {saga_id} --reason" in other.stderr


def test_a_payload_may_come_from_standard_input_and_is_checked(running: Console) -> None:
    saga_id = start(running, "approved")

    done = running.run("signal", saga_id, "approval", "-", stdin='{"by": "bob"}')

    assert (done.returncode, done.stderr) == (0, "")
    assert finished(running, saga_id) == "COMPLETED"
    refused = running.call("signal", saga_id, "approval", "nonsense")
    assert (refused.returncode, "PAYLOAD is not JSON" in refused.stderr) == (2, True)


def test_a_signal_that_nobody_waits_for_is_refused(running: Console) -> None:
    saga_id = start(running, "approved")

    done = running.call("signal", saga_id, "consent", "{}")

    assert done.returncode == 1
    assert "consent" in done.stderr
    assert f"eventsaga cancel {saga_id} --reason" in done.stderr


def test_a_refusal_names_what_would_be_taken(running: Console, broken: Path) -> None:
    saga_id = parked(running, broken)

    done = running.call("undo", saga_id, *BY_ANN)

    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot undo: the saga is PARKED" in done.stderr
    assert f"eventsaga abandon {saga_id} --reason '…'" in done.stderr
    told = running.json("undo", saga_id, *BY_ANN, code=1)
    assert (told["taken"], told["refused"]) == (False, "the saga is PARKED")
    assert "abandon" in told["legal"]


def test_what_nobody_takes_in_time_is_left_for_a_worker(console: Console) -> None:
    saga_id = start(console, "approved")

    told = console.answer("cancel", saga_id, "--reason", "a whim", "--timeout", "0.1")

    assert "cancel is left for a worker: none has answered yet" in told
    answer = console.json("cancel", saga_id, "--reason", "a whim", "--timeout", "0")
    assert answer["taken"] is False
    with console.worker(module="language:sagas") as worker:
        worker.until_it_says("ready")
        assert finished(console, saga_id) == "COMPENSATED"


def test_the_actor_is_the_user_of_the_shell(console: Console) -> None:
    saga_id = start(console, "approved")

    arguments = ("cancel", saga_id, "--reason", "r", "--timeout", "0", "--json")
    done = console.call(*arguments, LOGNAME="carol")

    assert json.loads(done.stdout)["actor"] == "carol"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("retry", "ff"), "Missing option '--reason'"),
        (("skip", "ff", "--reason", "r"), "Missing argument 'STEP'"),
        (("resolve", "ff", "pay", "perhaps", "--reason", "r"), "'perhaps' is not one of"),
        (("undo", "ff", "--reason", " "), "--reason must say why"),
        (
            ("resolve", "ff", "pay", "failed", "--reason", "r", "--result", "[]"),
            "--result must hold a JSON object",
        ),
        (
            ("resolve", "ff", "pay", "succeeded", "--reason", "r", "--result", "{'a': 1}"),
            "--result is not JSON",
        ),
        (
            ("resolve", "ff", "pay", "failed", "--reason", "r", "--result", "{}"),
            "--result goes with succeeded",
        ),
    ],
)
def test_a_wrong_call_is_explained(console: Console, arguments: tuple[str, ...], text: str) -> None:
    done = console.call(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert text in done.stderr


def test_many_items_are_one_line_unless_all_are_wanted(running: Console) -> None:
    saga_id = start(running, "letters", "--wait", "30", letters=300)

    told = running.answer("show", saga_id)
    assert "300 items" in told
    assert len(told.splitlines()) < 20
    assert len(running.answer("show", saga_id, "--all").splitlines()) > 300
    assert len(running.json("show", saga_id)["timeline"]) > 300

"""Can an operator find what needs somebody, and help many sagas at once, without surprises?"""

import os
import pty
import shutil
import signal
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.acceptance.cli.console import SCRIPT, Console
from tests.acceptance.cli.test_verbs import BY_ANN, finished, parked, start, status


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


def ids(console: Console, *options: str) -> set[str]:
    return {row["saga_id"] for row in console.json("list", *options)["sagas"]}


# -- finding --------------------------------------------------------------------------------


def test_sagas_are_found_by_whatever_is_known_of_them(running: Console, broken: Path) -> None:
    stuck = parked(running, broken)
    before = datetime.now(UTC).isoformat()
    other = start(
        running, "parked", "--wait", "30", "--correlation-id", "c-7", order_id="Ünïque 50%"
    )
    everything = {stuck, other}

    assert ids(running) == everything
    for options in (
        ("--status", "PARKED"),
        ("--status", "parked", "--saga", "parked"),
        ("--where", f"broken={broken}"),
        ("--text", str(broken).upper()),
        ("--text", stuck[9:]),
        ("--older-than", before),
    ):
        assert ids(running, *options) == {stuck}, options
    for options in (
        ("--status", "COMPLETED"),
        ("--correlation-id", "c-7"),
        ("--newer-than", before),
        ("--text", "ÜNÏQUE 50%"),
    ):
        assert ids(running, *options) == {other}, options
    assert ids(running, "--newer-than", "1h", "--status", "PARKED", "--status", "COMPLETED") == (
        everything
    )
    for options in (
        ("--older-than", "1h"),
        ("--name", "other"),
        ("--text", "50_"),
        ("--where", "broken=x"),
        ("--where", "no.such.path=1"),
        ("--tenant", "acme"),
    ):
        assert ids(running, *options) == set(), options
    (row,) = running.json("list", "--status", "PARKED")["sagas"]
    assert ids(running, "--at", row["error"]["step_name"]) == {stuck}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--older-than", "soon"), "is no age"),
        (("--older-than", "7"), "is no age"),
        (("--newer-than", "999999w"), "longer than there is time"),
        (("--where", "customer"), "PATH=VALUE"),
        (("--where", "=7"), "PATH=VALUE"),
        (("--status", "LOST"), "the statuses are"),
    ],
)
def test_what_means_nothing_is_explained(
    console: Console, options: tuple[str, ...], said: str
) -> None:
    done = console.call("list", *options)

    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_the_inbox_says_what_each_parked_saga_would_take(running: Console, broken: Path) -> None:
    assert running.answer("parked") == "nothing waits for a person\n"
    assert running.answer("stuck") == "nothing is stuck\n"
    saga_id = parked(running, broken)

    text = running.answer("parked")

    assert f"eventsaga retry {saga_id}" in text
    (told,) = running.json("parked")["parked"]
    assert (told["saga_id"], told["status"]) == (saga_id, "PARKED")
    assert any(choice.startswith("retry") for choice in told["legal"])
    assert saga_id in running.answer("stuck", code=1)
    (row,) = running.json("stuck", code=1)["stuck"]
    assert (row["saga_id"], row["why"]) == (saga_id, "parked")
    assert running.answer("parked", "--name", "other") == "no saga fits\n"


# -- many at once ---------------------------------------------------------------------------


def test_many_are_helped_at_once_if_their_number_is_known(running: Console, broken: Path) -> None:
    sagas = {parked(running, broken) for _ in range(3)}
    chosen = ("retry", "--status", "PARKED", *BY_ANN)
    for wrong in (("--count", "2"), ("--count", "4")):
        done = running.call(*chosen, *wrong)
        assert done.returncode == 2
        assert "nothing was asked: there are 3 sagas" in done.stderr
        assert all(saga_id in done.stderr for saga_id in sagas)
    for typed in ("", "yes\n", "2\n"):
        assert running.run(*chosen, stdin=typed).returncode == 2
    assert all(status(running, saga_id) == "PARKED" for saga_id in sagas)

    broken.unlink()
    done = running.run(*chosen, stdin="3\n")

    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "retry: 3 sagas have taken it, 0 are left for a worker, 0 have refused\n"
    )
    for saga_id in sagas:
        assert finished(running, saga_id) == "COMPLETED"
    assert running.answer(*chosen) == "no saga fits; nothing was asked\n"


def test_who_refuses_is_named_and_the_others_take_it(running: Console, broken: Path) -> None:
    stuck = parked(running, broken)
    done = start(running, "parked", "--wait", "30")

    told = running.json("abandon", "--saga", "parked", "--count", "2", *BY_ANN, code=1)

    assert told["taken"] == [stuck]
    assert [refused["saga_id"] for refused in told["refused"]] == [done]
    assert status(running, stuck) == "FAILED"


@pytest.mark.parametrize("arguments", [(), ("01a205d7", "--status", "PARKED")])
def test_one_is_meant_or_many_are_and_never_all_by_mistake(
    console: Console, arguments: tuple[str, ...]
) -> None:
    done = console.call("cancel", *arguments, *BY_ANN)

    assert done.returncode == 2
    assert "give the ID of a saga, or say which ones" in done.stderr


# -- watching -------------------------------------------------------------------------------


def test_a_look_tells_what_goes_on(running: Console, broken: Path) -> None:
    parked(running, broken)
    start(running, "parked", "--wait", "30")

    told = running.json("top")

    assert (told["started"], told["ended"]) == (2, 1)
    assert told["by_status"] == {"PARKED": 1}
    assert told["oldest"]["name"] == "parked"
    assert [worker["sagas"] for worker in told["workers"]] == [0]
    text = running.answer("top")
    assert "2 started, 1 ended" in text
    assert "\x1b" not in text


def test_it_is_watched_in_a_terminal_until_somebody_has_seen_enough(console: Console) -> None:
    ours, theirs = pty.openpty()
    environment = {**console._environment, "TERM": "xterm", "COLUMNS": "40", "NO_COLOR": "1"}
    command = [str(SCRIPT), "top", "--every", "0.2"]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    seen = b""
    while seen.count(b"no worker lives") < 3:
        seen += os.read(ours, 4096)
    process.send_signal(signal.SIGINT)
    try:
        while more := os.read(ours, 4096):
            seen += more
    except OSError:
        pass  # the other end is closed
    assert process.wait(timeout=20) == 130
    os.close(ours)
    assert b"\x1b[?1049l" in seen, "the screen is as it was"
    assert b"\x1b[31" not in seen, "no colour was wanted"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands(shell: str) -> None:
    script = Console(None).answer("completion", shell)
    assert "_EVENTSAGA_COMPLETE" in script
    if shell != "bash":
        return
    program = shutil.which("bash")
    assert program is not None
    asked = (
        f"{script}\nCOMP_WORDS=(eventsaga dia); COMP_CWORD=1\n"
        "_eventsaga_completion eventsaga dia eventsaga\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    path = f"{SCRIPT.parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [program, "--norc", "-c", asked],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["diagram"]

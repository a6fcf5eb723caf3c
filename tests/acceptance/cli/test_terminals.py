"""Does it behave on terminals, wide and narrow, and in pipes?"""

import json
import os
import pty
import re
import subprocess

from tests.acceptance.cli.conftest import Stock
from tests.acceptance.cli.console import HERE, SCRIPT, Console, environment


def test_what_others_wrote_does_not_steer_the_terminal(stocked: Stock) -> None:
    for command in ("list", "history", "show"):
        ids = () if command == "list" else (stocked.compensated,)
        answer = stocked.console.answer(command, *ids)
        assert "\x1b" not in answer
        assert "x1b[31mred" in answer or "u001b[31mred" in answer


COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-7]m")


def test_a_terminal_gets_colours(stocked: Stock) -> None:
    shown = on_a_terminal(stocked.console, "show", stocked.completed, TERM="xterm")
    assert COLOUR.search(shown)


def test_a_terminal_that_wants_no_colours_gets_none(stocked: Stock) -> None:
    shown = on_a_terminal(stocked.console, "show", stocked.completed, TERM="xterm", NO_COLOR="1")
    assert "COMPLETED" in shown
    assert not COLOUR.search(shown)


def on_a_terminal(console: Console, *arguments: str, **variables: str) -> str:
    ours, theirs = pty.openpty()
    try:
        subprocess.run(
            [SCRIPT, *arguments],
            cwd=HERE,
            env=environment(console.url, **variables),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            timeout=60,
            check=True,
        )
        return os.read(ours, 100_000).decode()
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_narrow_terminal_loses_nothing(stocked: Stock) -> None:
    shown = stocked.console.call("show", stocked.compensated, COLUMNS="60").stdout
    assert max(map(len, shown.splitlines())) <= 60
    assert "PermanentError: card declined" in shown
    listed = stocked.console.call("list", COLUMNS="70").stdout
    assert stocked.parked in listed
    assert "charge: card declined" in listed


def test_a_reader_that_has_seen_enough_gets_no_complaint(stocked: Stock) -> None:
    with subprocess.Popen(
        [SCRIPT, "history", stocked.completed, "--json"],
        env=environment(stocked.console.url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=60) == 128 + 13


def test_a_progress_bar_is_for_terminals_and_spoils_no_answer(stocked: Stock) -> None:
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [SCRIPT, "verify", "--json"],
            env=environment(stocked.console.url, TERM="xterm"),
            stdout=subprocess.PIPE,
            stderr=theirs,
            timeout=60,
            check=True,
        )
        assert "verifying" in os.read(ours, 100_000).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert json.loads(done.stdout)["ok"] is True

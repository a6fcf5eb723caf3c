"""Does the command line pass on what happened, once, and tell how far everybody is?"""

import json
import signal
import subprocess
from typing import Any

from tests.acceptance.cli.console import HERE, SCRIPT, Console, environment, query

START = ("start", "order", "-m", "shop:sagas", "-c", '{"order_id": "1"}')


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def wait_for_the_horizon(console: Console) -> None:
    """Return when no transaction on the server keeps the last event from being read."""
    passed = (
        "SELECT coalesce(bool_and(txid < pg_snapshot_xmin(pg_current_snapshot())), true)"
        " FROM eventsaga.events"
    )
    while query(str(console.url), passed) != [True]:
        pass  # the query is the wait


def test_what_was_printed_is_not_printed_again(console: Console) -> None:
    console.answer(*START)
    wait_for_the_horizon(console)

    done = console.run("feed", "warehouse", "--once", "--json")
    (event,) = lines(done.stdout)
    assert (done.returncode, event["seq"], event["type"]) == (0, 1, "SagaStarted")
    assert event["data"]["context"]["order_id"] == "1"
    assert console.answer("feed", "warehouse", "--once", "--json") == ""

    console.answer(*START)
    wait_for_the_horizon(console)
    (more,) = lines(console.answer("feed", "warehouse", "--once", "--json"))
    assert more["saga_id"] != event["saga_id"]
    assert "SagaStarted" in console.answer("feed", "another", "--once", "--limit", "1")


def test_who_reads_is_listed_and_forgotten(console: Console) -> None:
    console.answer(*START)
    assert console.json("feed") == []
    console.answer("feed", "warehouse", "--once")

    (standing,) = console.json("feed")

    assert (standing["consumer"], standing["is_held"]) == ("warehouse", False)
    assert "unread" in console.answer("feed")
    assert console.json("feed", "warehouse", "--forget")["forgotten"] is True
    assert console.json("feed", "warehouse", "--forget", code=1)["forgotten"] is False


def test_a_follower_is_told_what_comes_and_leaves_when_it_is_told(console: Console) -> None:
    command = [str(SCRIPT), "feed", "warehouse", "--follow", "--json"]
    follower = subprocess.Popen(
        command,
        cwd=HERE,
        env=environment(console.url, EVENTSAGA_POLL="0.1"),
        stdout=subprocess.PIPE,
        text=True,
    )
    with follower:
        assert follower.stdout is not None
        console.answer(*START)
        assert json.loads(follower.stdout.readline())["type"] == "SagaStarted"
        refused = console.call("feed", "warehouse", "--once")
        assert refused.returncode == 1
        assert "somebody else reads the feed for 'warehouse'" in refused.stderr
        follower.send_signal(signal.SIGTERM)
        assert follower.wait(timeout=30) == 0

    done = console.call("feed", "warehouse", "--once")
    assert done.returncode == 0, "who was told to stop lets others in at once"


def test_a_wrong_call_says_what_is_right(console: Console) -> None:
    for arguments in (["w"], ["w", "--once", "--follow"], ["--once"], ["a b", "--once"]):
        done = console.call("feed", *arguments)
        assert done.returncode == 2
        assert "consumer" in done.stderr.lower()

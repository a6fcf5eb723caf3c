"""Does the command line archive, check and bring back, and say what it left alone?"""

from pathlib import Path

import pytest

from tests.acceptance.cli.console import Console, query

pytestmark = pytest.mark.mighty

START = ("start", "order", "-m", "shop:sagas", "-c", '{"order_id": "1"}')


@pytest.fixture
def file(console: Console, tmp_path: Path) -> Path:
    """An archive of one saga, which a worker has run."""
    console.answer(*START)
    with console.worker() as worker:
        worker.until_it_says("ready")
        while query(str(console.url), _DONE) != [1]:
            pass  # the query is the wait
    file = tmp_path / "sagas.jsonl.gz"
    done = console.json("archive", "--older-than", "0s", "--to", str(file))
    assert (done["sagas"], done["refused"], done["held_for"]) == (1, [], {})
    return file


_DONE = (
    "SELECT count(*) FROM eventsaga.sagas"
    " WHERE status IN ('COMPLETED', 'COMPENSATED', 'FAILED')"
    "   AND owner IS NULL AND wake_at IS NULL"
)


def test_an_archive_is_checked_and_brought_back(console: Console, file: Path) -> None:
    assert console.json("list")["sagas"] == []
    assert "1 saga verified" in Console(None).run("verify", str(file)).stdout
    assert console.json("import", str(file))["sagas"] == 1
    assert "1 were there already" in console.answer("import", str(file))
    assert console.json("verify")["ok"] is True

    moved = console.json("archive", "--older-than", "0s", "--to-table", "archived_events")

    assert moved["sagas"] == 1
    count = "SELECT count(*) FROM eventsaga.archived_events"
    assert query(str(console.url), count) == [moved["events"]]
    missing = console.call("archive", "--older-than", "0s", "--to-table", "nowhere")
    assert missing.returncode == 0, "there is nothing to be moved"


def test_what_was_changed_in_a_file_is_named(console: Console, file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])

    assert "ends in the middle" in console.answer("verify", str(file), code=1)
    found = console.json("verify", str(file), code=1)
    assert (found["ok"], found["flaws"]) == (False, 1)
    done = console.call("import", str(file))
    assert done.returncode == 1
    assert "nothing was imported" in done.stderr


def test_what_a_consumer_has_not_read_is_counted(console: Console, file: Path) -> None:
    console.answer("import", str(file))
    query(str(console.url), "INSERT INTO eventsaga.feeds (consumer) VALUES ('slow') RETURNING 1")
    more = str(file.with_name("more.gz"))

    told = console.answer("archive", "--older-than", "0s", "--to", more)
    assert "1 wait until slow has read them" in told
    assert (
        console.json("archive", "--older-than", "0s", "--to", more, "--ignore-feeds")["sagas"] == 1
    )


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--older-than", "90d"), "where to?"),
        (("--older-than", "90d", "--to", "f", "--to-table", "t"), "where to?"),
        (("--older-than", "soon", "--to", "f"), "is not a number with"),
        (("--older-than", "1d", "--to", "nowhere/f"), "No such file"),
        (("--older-than", "1d", "--to-table", "a b"), "a table is named"),
    ],
)
def test_a_wrong_call_says_what_is_right(
    console: Console, arguments: tuple[str, ...], why: str
) -> None:
    done = console.call("archive", *arguments)

    assert done.returncode != 0
    assert why in done.stderr
    assert console.call("verify", "nowhere/f.gz").returncode == 1

"""Does `eventsaga check` say, before a deploy, what would become of what is under way?"""

import json
from pathlib import Path
from typing import Any

import pytest

from eventsaga.store.postgres import unfinished
from tests.acceptance.cli.console import Console, query

OLD = ("start", "order", "-m", "shop:sagas", "-c", '{"order_id": "1"}')


@pytest.fixture
def three(console: Console) -> list[str]:
    """The ids of three sagas that are under way, oldest first."""
    return [console.answer(*OLD).strip() for _ in range(3)]


def groups(console: Console, *arguments: str, code: int = 0) -> list[tuple[Any, ...]]:
    answer = console.json("check", *arguments, code=code)
    assert answer["ok"] is (code == 0)
    return [(each["verdict"], each["sagas"], each["reason"]) for each in answer["groups"]]


def test_the_same_code_is_compatible(console: Console, three: list[str]) -> None:
    told = console.answer("check", "shop:orchestrator")

    assert "order v1 (" in told
    assert "): 3 compatible\n" in told
    assert told.splitlines()[-1] == (
        f"{len(three)} unfinished sagas: 3 compatible, 0 pinned, 0 would break"
    )


def test_a_change_without_a_new_version_is_named_with_its_sagas(
    console: Console, three: list[str]
) -> None:
    done = console.run("check", "newer:changed", PYTHONPATH=str(Path(__file__).parents[3]))

    assert done.returncode == 1, done.stderr
    reason = "it has changed without a new version: "
    assert f"3 would break: {reason}'charge' is gone, 'ship' is gone, 'post' is new" in done.stdout
    assert " ".join(three) in done.stdout


def test_what_stays_on_its_version_is_pinned(console: Console, three: list[str]) -> None:
    assert groups(console, "newer:second") == [
        ("pinned", len(three), "it ends on its version, beside version 2")
    ]
    assert groups(console, "newer:only_second") == [
        ("pinned", 3, "only version 2 is registered: it waits for a worker that has version 1")
    ]


def test_what_nobody_has_or_does_not_fit_would_break(console: Console, three: list[str]) -> None:
    assert groups(console, "newer:without_order", code=1) == [
        ("would_break", len(three), "no version of it is registered")
    ]
    assert groups(console, "newer:strict", code=1) == [
        ("would_break", 3, "its context does not fit any more: $.currency: Field required")
    ]
    assert groups(console, "newer:migrated") == [("compatible", 3, "")]


def test_a_check_leaves_no_trace(console: Console, three: list[str]) -> None:
    names = "SELECT name || version || fingerprint FROM eventsaga.definitions"
    before = query(str(console.url), names)
    console.json("check", "newer:second")
    assert query(str(console.url), names) == before
    assert len(three) == 3


def test_a_file_is_checked_without_a_database(
    console: Console, three: list[str], tmp_path: Path
) -> None:
    exported = console.answer("history", "--unfinished", "--json")
    file = tmp_path / "in-flight.jsonl"
    file.write_text(exported, encoding="utf-8")

    lines = [json.loads(line) for line in exported.splitlines()]
    assert list(dict.fromkeys(line["saga_id"] for line in lines)) == three
    assert ["graph" in line for line in lines if line["seq"] == 1] == [True, False, False]
    nowhere = Console(None)
    assert groups(nowhere, "shop:sagas", "--from", str(file)) == [("compatible", 3, "")]
    reason = "'charge' is gone, 'ship' is gone, 'post' is new"
    (found,) = groups(nowhere, "newer:changed", "--from", str(file), code=1)
    assert found[2] == f"it has changed without a new version: {reason}"
    done = nowhere.run("check", "shop:sagas", "--from", "-", stdin=exported)
    assert (done.returncode, done.stderr) == (0, "")


def test_people_may_look_at_all_that_is_under_way(console: Console, three: list[str]) -> None:
    told = console.answer("history", "--unfinished")
    assert [line for line in told.splitlines() if line in three] == three
    done = console.call("history")
    assert (done.returncode, "Give an ID, or --unfinished" in done.stderr) == (2, True)


def test_a_file_that_is_no_export_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("dear diary\n", encoding="utf-8")
    for source, text in ((str(file), "line 1 is no event"), ("no/such", "cannot be read")):
        done = Console(None).call("check", "shop:sagas", "--from", source)
        assert (done.returncode, done.stdout) == (2, "")
        assert text in done.stderr


def test_what_has_ended_is_not_looked_at(console: Console) -> None:
    with console.worker() as worker:
        worker.until_it_says("ready")
        console.answer(*OLD, "--wait", "30")
    assert console.answer("check", "newer:without_order") == "no unfinished saga\n"


def test_many_sagas_come_page_by_page(
    console: Console, three: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unfinished, "_PAGE", 2)
    monkeypatch.setattr(unfinished, "_MOST_EVENTS", 1)
    assert groups(console, "shop:sagas") == [("compatible", len(three), "")]

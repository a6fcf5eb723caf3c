"""What does each command answer, to people and to programs?"""

import asyncio
import inspect
import json
import subprocess
from datetime import datetime
from pathlib import Path

import pytest

from eventsaga.cli import app
from tests.acceptance.cli.conftest import Stock
from tests.acceptance.cli.console import SCRIPT, Console, query
from tests.conftest import execute

COMMANDS = [
    (),
    ("demo",),
    ("worker",),
    ("start",),
    ("list",),
    ("show",),
    ("history",),
    ("diff",),
    ("explain",),
    ("signal",),
    ("cancel",),
    ("retry",),
    ("skip",),
    ("resolve",),
    ("abandon",),
    ("undo",),
    ("diagram",),
    ("check",),
    ("verify",),
    ("rebuild",),
    ("recover",),
    ("redact",),
    ("export",),
    ("parked",),
    ("stuck",),
    ("top",),
    ("completion",),
    ("anchor",),
    ("grants",),
    ("db",),
    ("db", "upgrade"),
    ("db", "downgrade"),
    ("db", "current"),
    ("db", "sql"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself_with_an_example(command: tuple[str, ...]) -> None:
    done = Console(None).run(*command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    _, example = done.stdout.split("Example:\n")
    assert example.splitlines()[0].startswith(("  eventsaga", "    eventsaga", "    export"))
    if command not in {(), ("db",)}:
        assert "--json" in done.stdout


def test_what_a_command_does_fits_beside_its_name() -> None:
    """The lists of commands cut what is longer."""
    commands = {**app._COMMANDS, **app._DB_COMMANDS}
    firsts = {name: inspect.getdoc(command) or "" for name, command in commands.items()}
    assert {name: doc for name, doc in firsts.items() if len(doc.splitlines()[0]) >= 60} == {}


def test_help_imports_nothing_heavy() -> None:
    """It is asked for in the middle of a thought: half a second would be felt."""
    heavy = ("sqlalchemy", "asyncpg", "pydantic", "rich", "alembic", "httpx", "structlog")
    program = (
        "import sys; from eventsaga.cli.app import app\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    python = SCRIPT.with_name("python")
    assert (
        subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )


# -- start --------------------------------------------------------------------------------


def test_start_waits_and_its_exit_code_says_whether_the_saga_completed(stocked: Stock) -> None:
    assert [done.returncode for done in stocked.started] == [0, 1, 1]
    statuses = [done.stdout.split()[1] for done in stocked.started]
    assert statuses == ["COMPLETED", "COMPENSATED", "PARKED"]
    complaints = [done.stderr for done in stocked.started]
    assert complaints[0] == ""
    assert "charge: card declined" in complaints[1]


def test_start_prints_the_id_alone_and_the_same_key_starts_once(console: Console) -> None:
    done = [
        console.run("start", "order", "-m", "shop:sagas", "--key", "k-1", "-c", "-", stdin=text)
        for text in ('{"order_id": "1"}', ' {"order_id":"1"}\n')
    ]
    assert [(one.returncode, len(one.stdout.strip())) for one in done] == [(0, 36), (0, 36)]
    assert done[0].stdout == done[1].stdout
    assert "its key had started this saga before" in done[1].stderr
    assert len(query(str(console.url), "SELECT saga_id FROM eventsaga.sagas")) == 1


def test_start_tells_programs_what_it_did(console: Console, tmp_path: Path) -> None:
    file = tmp_path / "order.json"
    file.write_text('{"order_id": "1"}', encoding="utf-8")
    answer = console.json("start", "order", "-m", "shop:orchestrator", "-c", f"@{file}")
    assert answer["created"] is True
    (saga_id,) = query(str(console.url), "SELECT saga_id::text FROM eventsaga.sagas")
    assert answer["saga_id"] == saga_id


def test_start_gives_up_waiting_but_not_the_saga(console: Console) -> None:
    done = console.run(
        "start", "order", "-m", "shop:sagas", "-c", '{"order_id": "1"}', "--wait", "0.1"
    )
    assert done.returncode == 1
    assert "it has not ended after 0.1 s" in done.stderr
    assert query(str(console.url), "SELECT status FROM eventsaga.sagas") == ["PENDING"]


# -- list ---------------------------------------------------------------------------------


def test_list_shows_the_youngest_first_with_what_went_wrong(stocked: Stock) -> None:
    heading, *lines = stocked.console.answer("list").splitlines()
    assert heading.split()[:2] == ["ID", "STATUS"]
    assert [line.split()[:2] for line in lines] == [
        [stocked.parked, "PARKED"],
        [stocked.compensated, "COMPENSATED"],
        [stocked.completed, "COMPLETED"],
    ]
    assert "charge: card declined" in lines[1]


def test_list_filters_and_pages(stocked: Stock) -> None:
    def ids(*arguments: str) -> list[str]:
        return [saga["saga_id"] for saga in stocked.console.json("list", *arguments)["sagas"]]

    assert ids("--status", "parked", "--status", "COMPLETED") == [
        stocked.parked,
        stocked.completed,
    ]
    assert ids("--name", "other") == []
    assert ids("--correlation-id", stocked.compensated) == [stocked.compensated]
    page = stocked.console.json("list", "--limit", "2")
    assert page["before"] == stocked.compensated
    assert ids("--before", page["before"]) == [stocked.completed]


def test_list_says_what_waits_for_a_definition_that_no_worker_has(console: Console) -> None:
    saga_id = console.answer("start", "other", "-m", "shop:sagas", "-c", '{"order_id": "1"}')
    query(
        str(console.url),
        "UPDATE eventsaga.sagas SET wake_at = now() - interval '1 h' RETURNING saga_id",
    )
    done = console.run("list")
    assert saga_id.strip() in done.stdout
    assert "1 saga waits for a worker with other version 3" in done.stderr
    (group,) = console.json("list")["stranded"]
    assert (group["name"], group["version"], group["sagas"]) == ("other", 3, 1)


def test_list_of_nothing_is_no_error(console: Console) -> None:
    done = console.run("list")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "no saga yet\n")
    assert console.json("list") == {"sagas": [], "before": None, "stranded": []}


# -- show and history ---------------------------------------------------------------------


def test_show_tells_the_story_of_a_compensated_saga(stocked: Stock) -> None:
    title, *lines = stocked.console.answer("show", stocked.compensated).splitlines()
    assert title.split() == ["order", stocked.compensated, "COMPENSATED"]
    story = [line.split("  ") for line in lines[lines.index("") + 1 :]]
    told = [[part.strip() for part in parts if part.strip()] for parts in story]
    assert [parts[2:4] for parts in told] == [
        ["saga", "started"],
        ["reserve #1", "succeeded"],
        ["charge #1", "failed"],
        ["saga", "goes back"],
        ["undo reserve #1", "compensated"],
        ["saga", "compensated"],
    ]
    assert told[0][0] == "+0.000 s"
    assert told[2][5].startswith("PermanentError: card declined")


def test_show_names_what_a_person_has_to_do_about_a_parked_saga(stocked: Stock) -> None:
    answer = stocked.console.answer("show", stocked.parked)
    title, started, parked = answer.splitlines()[:3]
    assert title.split()[-1] == "PARKED"
    assert (started.split()[0], parked.split()[0]) == ("started", "parked")
    assert "compensation gave up on reserve: the warehouse is closed" in answer
    assert "undo by hand what the step left behind, and resolve it" in answer


def test_show_takes_the_beginning_of_an_id_and_says_more_if_asked(stocked: Stock) -> None:
    beginning = stocked.completed[:-4].upper().replace("-", "")
    answer = stocked.console.answer("show", beginning, "--verbose")
    assert f"key {stocked.completed}/ship" in answer
    assert 'result {"shipped_by": ""}' in answer


def test_show_tells_programs_everything(stocked: Stock) -> None:
    shown = stocked.console.json("show", stocked.parked)
    assert (shown["saga_id"], shown["status"]) == (stocked.parked, "PARKED")
    assert shown["error"]["message"].startswith("compensation gave up on reserve")
    attempt = shown["timeline"][1]
    assert (attempt["step"], attempt["operation"], attempt["attempt"]) == ("reserve", "execute", 1)
    assert attempt["idempotency_key"] == f"{stocked.parked}/reserve"
    assert attempt["took_seconds"] >= 0
    assert datetime.fromisoformat(attempt["at"]) <= datetime.fromisoformat(attempt["ended_at"])


def test_show_says_who_goes_on_with_a_saga(console: Console) -> None:
    saga_id = console.answer("start", "order", "-m", "shop:sagas", "-c", '{"order_id": "1"}')
    assert "waiting for a worker since" in console.answer("show", saga_id.strip())


def test_history_gives_programs_one_event_a_line(stocked: Stock) -> None:
    lines = stocked.console.answer("history", stocked.completed, "--json").splitlines()
    events = [json.loads(line) for line in lines]
    assert [event["seq"] for event in events] == list(range(1, 9))
    assert events[0]["type"] == "SagaStarted"
    assert events[0]["data"]["context"]["order_id"] == "1"
    assert len(bytes.fromhex(events[-1]["hash"])) == 32


def test_history_shows_people_what_is_stored(stocked: Stock) -> None:
    lines = stocked.console.answer("history", stocked.completed).splitlines()
    assert [line.split()[4] for line in lines][-1] == "SagaCompleted"
    assert '"attempt":1' in lines[1]


def test_history_shows_even_what_nobody_can_read_any_more(console: Console) -> None:
    saga_id = console.answer(
        "start", "order", "-m", "shop:sagas", "-c", '{"order_id": "1"}'
    ).strip()
    url = str(console.url)
    query(url, "ALTER TABLE eventsaga.events DISABLE TRIGGER events_append_only")
    query(url, "UPDATE eventsaga.events SET data = '[\"what?\"]' RETURNING seq")
    assert console.json("history", saga_id)["data"] == ["what?"]
    done = console.call("show", saga_id)
    assert done.returncode == 1
    assert f"`eventsaga verify {saga_id}` says more" in done.stderr


# -- cancel, verify, rebuild, db ----------------------------------------------------------


def test_cancel_is_recorded_with_who_and_why(console: Console) -> None:
    saga_id = console.answer(
        "start", "order", "-m", "shop:sagas", "-c", '{"order_id": "1"}'
    ).strip()
    answer = console.json("cancel", saga_id, "--reason", "a whim", "--actor", "ann")
    assert (answer["saga_id"], answer["actor"]) == (saga_id, "ann")
    with console.worker() as worker:
        worker.until_it_says("ready")
        console.answer(
            "start", "order", "-m", "shop:sagas", "-c", '{"order_id":"2"}', "--wait", "9"
        )
    assert "cancel requested" in console.answer("show", saga_id)
    assert "a whim (by ann)" in console.answer("show", saga_id)


def test_cancel_of_a_saga_that_has_ended_is_a_negative_answer(stocked: Stock) -> None:
    done = stocked.console.call("cancel", stocked.completed, "--reason", "late")
    assert (done.returncode, done.stdout) == (1, "")
    assert "the saga is COMPLETED\n" in done.stderr
    assert f"eventsaga undo {stocked.completed} --reason" in done.stderr


def test_verify_and_rebuild_have_nothing_to_say_about_a_sound_database(stocked: Stock) -> None:
    assert stocked.console.answer("verify") == "3 sagas verified: all is as it was written\n"
    assert stocked.console.json("verify") == {
        "ok": True,
        "sagas": 3,
        "violations": 0,
        "broken": [],
        "details": [],
    }
    assert stocked.console.answer("verify", stocked.completed).startswith("1 saga verified")
    assert stocked.console.answer("rebuild") == "3 sagas looked at, 0 were repaired\n"


def test_verify_names_what_is_broken_and_rebuild_repairs_it(console: Console) -> None:
    saga_id = console.answer(
        "start", "order", "-m", "shop:sagas", "-c", '{"order_id": "1"}'
    ).strip()
    query(str(console.url), "UPDATE eventsaga.sagas SET version = 9 RETURNING saga_id")

    found = console.json("verify", code=1)
    assert found["broken"] == [saga_id]
    assert found["details"][0]["invariant"] == 3
    done = console.run("verify", saga_id)
    assert (done.returncode, saga_id in done.stderr) == (1, True)
    assert "column 'version' is not what the events say: 9, not 1" in done.stdout

    assert f"{saga_id}: would be written: version" in console.answer("rebuild", "--dry-run", code=1)
    assert console.json("rebuild")["repaired"] == [{"saga_id": saga_id, "columns": ["version"]}]
    assert console.json("verify")["ok"] is True


def test_rebuild_leaves_a_broken_history_alone_and_says_so(console: Console) -> None:
    console.answer("start", "order", "-m", "shop:sagas", "-c", '{"order_id": "1"}')
    url = str(console.url)
    query(url, "ALTER TABLE eventsaga.events DISABLE TRIGGER events_append_only")
    query(url, "UPDATE eventsaga.events SET salt = sha256('') RETURNING seq")
    query(url, "UPDATE eventsaga.sagas SET version = 9 RETURNING saga_id")
    done = console.run("rebuild")
    assert done.returncode == 1
    assert "is left alone: its history is broken: event 1" in done.stderr
    assert "0 were repaired" in done.stdout


def test_the_schema_comes_and_goes_by_command(empty_database: str) -> None:
    console = Console(empty_database)
    assert "there are no tables" in console.answer("db", "current", code=1)
    assert console.json("db", "upgrade")["revision"] == "0006"
    assert "the newest" in console.answer("db", "current")
    assert console.json("list")["sagas"] == []
    refused = console.call("db", "downgrade", "base")
    assert refused.returncode == 2
    assert "pass --yes" in refused.stderr
    assert console.json("db", "downgrade", "base", "--yes")["revision"] is None


def test_the_schema_may_have_another_name(empty_database: str) -> None:
    console = Console(empty_database)
    console.answer("--schema", "sagas", "db", "upgrade")
    assert console.json("list", "--schema", "sagas")["sagas"] == []
    assert console.call("list").returncode == 2


def test_the_printed_sql_makes_the_same_tables(empty_database: str) -> None:
    sql = Console(None).run("db", "sql").stdout
    asyncio.run(execute(empty_database, sql))
    assert Console(empty_database).json("db", "current")["revision"] == "0006"

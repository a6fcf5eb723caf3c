"""What is a user told who did something wrong? A sentence, on standard error, and code 2."""

import asyncio
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from tests import pooler
from tests.acceptance.cli.conftest import Stock
from tests.acceptance.cli.console import HERE, SCRIPT, Console, environment
from tests.conftest import execute

NOWHERE = "postgresql://somebody:secret@localhost:1/shop"
not_pooled = pytest.mark.skipif(
    pooler.WANTED, reason="the pooler knows every database, and everybody is the same to it"
)
UNKNOWN = "01a205d7-0000-7000-8000-000000000000"


def complaint(
    console: Console, *arguments: str, code: int = 2, cwd: Path = HERE, real: bool = False
) -> str:
    """Return what a command complains of; it answers nothing, and shows no traceback.

    Args:
        console: Where it is run.
        *arguments: The command.
        code: How it must end.
        cwd: Where modules are looked for first.
        real: Whether to run it in a process of its own.
    """
    done = console.run(*arguments) if real else console.call(*arguments, cwd=cwd)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr
    return done.stderr


# -- ids ----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["show", "history", "verify", "rebuild"])
def test_what_is_no_id_is_told_how_ids_look(stocked: Stock, command: str) -> None:
    assert "ids look like 01a2" in complaint(stocked.console, command, "order-4711")


@pytest.mark.parametrize("unknown", [UNKNOWN, "ffff"])
def test_an_id_that_nobody_has_is_a_negative_answer(stocked: Stock, unknown: str) -> None:
    assert "there is no saga" in complaint(stocked.console, "show", unknown, code=1)


def test_a_beginning_that_several_have_names_them(stocked: Stock) -> None:
    told = complaint(stocked.console, "cancel", stocked.completed[:2], "--reason", "r")
    assert "several sagas" in told
    assert stocked.parked in told


# -- the database -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        ("list",),
        ("worker", "shop:sagas"),
        ("start", "order", "-m", "shop:sagas", "-c", '{"order_id": "1"}'),
        ("db", "upgrade"),
        ("db", "current"),
    ],
    ids=" ".join,
)
def test_a_database_that_is_down_is_named_with_what_to_check(command: tuple[str, ...]) -> None:
    told = complaint(Console(NOWHERE), *command, real=True)
    assert "cannot use postgresql://somebody:***@localhost:1/shop" in told
    assert "Check that PostgreSQL runs there" in told


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("mysql://root:secret@localhost/shop", "is not PostgreSQL"),
        ("postgresql://somebody:secret@localhost:port/shop", "must look like postgresql://"),
        ("shop", "must look like postgresql://"),
        ("postgresql://somebody:secret@no-such-host.invalid/shop", "no-such-host.invalid"),
    ],
)
def test_a_url_that_leads_nowhere_is_explained(url: str, text: str) -> None:
    assert text in complaint(Console(url), "list")


@not_pooled
def test_a_database_that_does_not_exist_is_to_be_created(database: str) -> None:
    other = database.replace("eventsaga_test", "nothing_like_it")
    assert "Create the database first" in complaint(Console(other), "list")


def test_a_wrong_password_is_told_without_repeating_it(refusing_server: str) -> None:
    told = complaint(Console(refusing_server), "list")
    assert "password authentication failed" in told
    assert "Check user and password" in told


@pytest.fixture
def refusing_server() -> Iterator[str]:
    """URL of a server that speaks enough of the protocol to refuse a password."""
    fields = b"SFATAL\0C28P01\0Mpassword authentication failed for user\0\0"
    refusal = b"E" + struct.pack("!I", len(fields) + 4) + fields
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    if connection.recv(8) == struct.pack("!II", 8, 80877103):  # asks for TLS
                        connection.sendall(b"N")
                    connection.recv(1024)
                    connection.sendall(refusal)

        thread = Thread(target=serve, daemon=True)
        thread.start()
        yield f"postgresql://somebody:secret@127.0.0.1:{listener.getsockname()[1]}/shop"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.parametrize("command", [("verify",), ("worker", "shop:sagas")])
def test_tables_that_are_not_there_are_to_be_created_by_command(
    empty_database: str, command: tuple[str, ...]
) -> None:
    assert "run `eventsaga db upgrade`" in complaint(Console(empty_database), *command, real=True)


@not_pooled
def test_a_user_without_rights_is_told_what_is_missing(database: str) -> None:
    create = (
        "DO $$ BEGIN CREATE ROLE eventsaga_nobody LOGIN;"
        " EXCEPTION WHEN duplicate_object THEN NULL; END $$"
    )
    asyncio.run(execute(database, create))
    told = complaint(Console(database.replace("postgres@", "eventsaga_nobody@")), "list")
    assert "permission denied" in told
    assert "Ask the database's owner" in told


def test_no_database_at_all_is_told_how_to_name_one(tmp_path: Path) -> None:
    console = Console(None, XDG_DATA_HOME=str(tmp_path))
    assert "Set EVENTSAGA_DATABASE_URL, or pass --database-url" in complaint(console, "list")


def test_the_demos_database_is_mentioned_but_never_guessed(tmp_path: Path) -> None:
    (tmp_path / "eventsaga" / "postgres" / "cluster").mkdir(parents=True)
    told = complaint(Console(None, XDG_DATA_HOME=str(tmp_path)), "list")
    assert f"The demo's data is in {tmp_path}/eventsaga/postgres" in told


# -- arguments ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("context", "text"),
    [
        ("{order_id: 1}", "--context is not JSON: key must be a string at line 1 column 2"),
        ('{"order_id": NaN}', "--context is not JSON"),
        ("[]", "must hold a JSON object"),
        ("{}", "$.order_id: Field required"),
        ("@no/such/file.json", "no/such/file.json cannot be read: No such file"),
        ("@/bin/sh", "is not UTF-8 text"),
    ],
)
def test_an_input_that_is_none_is_refused_before_anything_is_written(
    stocked: Stock, context: str, text: str
) -> None:
    assert text in complaint(
        stocked.console, "start", "order", "-m", "shop:sagas", "--context", context
    )


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("shop", "must be module:name"),
        (":sagas", "must be module:name"),
        ("no_such_shop:sagas", "No module named 'no_such_shop'"),
        ("shop:no_such_saga", "module 'shop' has no 'no_such_saga'; it has idle, order_saga"),
        ("shop:forgetful", "shop:forgetful is of type NoneType"),
        ("shop:unlucky", "RuntimeError: no configuration ("),
        ("shop:release", "missing 1 required positional argument"),
        ("shop:Order", "not an Orchestrator, a Saga or a list of them"),
        ("shop:idle", "was built with worker=False"),
    ],
)
def test_a_module_that_has_no_sagas_is_told_what_is_wrong_with_it(
    stocked: Stock, module: str, text: str
) -> None:
    command = ("worker", module) if module == "shop:idle" else ("start", "order", "-m", module)
    rest = () if module == "shop:idle" else ("-c", '{"order_id": "1"}')
    assert text in complaint(stocked.console, *command, *rest)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("sagas = [", "SyntaxError: '[' was never closed (broken.py, line 1)"),
        ("import no_such_library", "No module named 'no_such_library' ("),
        ("x = 1\nx / 0", "ZeroDivisionError: division by zero ("),
        ("import sys; sys.exit('good bye')", "SystemExit: good bye ("),
    ],
)
def test_a_module_that_does_not_import_shows_its_own_error(
    tmp_path: Path, source: str, text: str
) -> None:
    (tmp_path / "broken.py").write_text(source, encoding="utf-8")
    told = complaint(
        Console(NOWHERE), "start", "order", "-m", "broken:sagas", "-c", "{}", cwd=tmp_path
    )
    assert "broken:sagas cannot be imported: " in told
    assert text in told


def test_an_orchestrator_keeps_its_database_against_an_option(stocked: Stock) -> None:
    told = complaint(stocked.console, "worker", "shop:idle", "--database-url", NOWHERE)
    assert "names a database of its own" in told


def test_a_key_that_means_something_else_is_a_negative_answer(console: Console) -> None:
    arguments = ("start", "order", "-m", "shop:sagas", "--key", "k", "-c")
    console.answer(*arguments, '{"order_id": "1"}')
    told = complaint(console, *arguments, '{"order_id": "2"}', code=1)
    assert "with a different input" in told


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("list", "--status", "DONE"), "the statuses are PENDING, RUNNING"),
        (("list", "--limit", "0"), "Invalid value for '--limit'"),
        (("list", "--schema", "No;"), "must be lower-case letters"),
        (("start", "nothing", "-m", "shop:sagas", "-c", "{}"), "no saga 'nothing' is registered"),
        (("worker", "shop:sagas", "--log-level", "loud"), "--log-level must be one of"),
        (("cancel", "ff"), "Missing option '--reason'"),
        (("db", "upgrade", "--revision", "nonsense"), "locate revision identified by 'nonsense'"),
        (("frobnicate",), "No such command 'frobnicate'"),
    ],
)
def test_a_wrong_argument_is_explained(
    stocked: Stock, arguments: tuple[str, ...], text: str
) -> None:
    assert text in complaint(stocked.console, *arguments)


def test_a_wrong_setting_is_named(stocked: Stock) -> None:
    done = stocked.console.call("list", EVENTSAGA_LEASE="soon")
    assert (done.returncode, done.stdout) == (2, "")
    assert "EVENTSAGA_LEASE='soon' is not seconds" in done.stderr


def test_ctrl_c_ends_a_command_without_a_traceback(console: Console) -> None:
    """It waits for a saga that no worker runs."""
    with subprocess.Popen(
        [SCRIPT, "start", "order", "-m", "shop:sagas", "-c", '{"order_id": "1"}', "--wait", "60"],
        cwd=Path(__file__).parent,
        env=environment(console.url, PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_for_a_saga(console)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (130, "eventsaga: interrupted\n")


def wait_for_a_saga(console: Console) -> None:
    while not console.json("list")["sagas"]:
        pass


def test_a_closed_output_is_no_error(stocked: Stock) -> None:
    shell = shutil.which("sh")
    assert shell is not None
    done = subprocess.run(
        [shell, "-c", f"'{SCRIPT}' list >&-"],
        env=environment(stocked.console.url),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")

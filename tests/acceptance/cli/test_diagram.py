"""Are sagas drawn from code, from what workers have recorded, and where one stands?"""

import re

from tests.acceptance.cli.console import Console, query
from tests.acceptance.cli.test_verbs import finished, start


def test_a_saga_is_drawn_without_a_database() -> None:
    done = Console(None).run("diagram", "language:every")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("flowchart TD\n")
    for line in (
        'n_book["book<br/>↩ compensated"]',
        'subgraph n_both ["both"]',
        'n_nap("nap<br/>sleeps 0:00:05")',
        'n_mail_when{"mail?"}',
        'n_confirm{{"confirm<br/>pivot: no way back"}}',
    ):
        assert line in done.stdout
    assert Console(None).answer("diagram", "language:every") == done.stdout


def test_of_an_orchestrator_all_sagas_are_drawn_or_one(console: Console) -> None:
    drawn = console.json("diagram", "language:sagas")["diagrams"]
    assert [each["name"] for each in drawn] == [
        "approved",
        "every",
        "holding",
        "letters",
        "parent",
        "parked",
    ]
    assert console.answer("diagram", "shop:orchestrator", "--saga", "order").count("flowchart") == 1
    done = console.call("diagram", "language:sagas", "--saga", "nothing")
    assert done.returncode == 2
    assert "there is no such saga; there is approved v1, " in done.stderr


def test_a_saga_is_drawn_as_workers_have_recorded_it(console: Console) -> None:
    start(console, "parent")

    recorded = console.answer("diagram", "--name", "parent", "--version", "1")

    assert recorded == console.answer("diagram", "language:parent")
    done = console.call("diagram", "--name", "parent", "--version", "2")
    assert done.returncode == 1
    assert "no worker has ever brought parent version 2" in done.stderr


def test_a_living_saga_is_coloured_with_and_without_its_module(console: Console) -> None:
    with console.worker(module="language:sagas") as worker:
        worker.until_it_says("ready")
        waiting = start(console, "approved")
        completed = start(console, "parent", "--wait", "30")
        assert finished(console, completed) == "COMPLETED"
        while "class" not in (drawn := console.answer("diagram", "--live", waiting)):
            pass
    assert re.search(r"class n_approval waiting$", drawn, re.MULTILINE)
    drawn = console.answer("diagram", "language:sagas", "--live", completed)
    assert re.search(r"class n_book,n_deliver,n_end succeeded$", drawn, re.MULTILINE)
    assert 'n_start(["parent v1<br/>COMPLETED"])' in drawn


def test_a_living_saga_of_which_nobody_knows_the_definition_is_not_drawn(console: Console) -> None:
    saga_id = start(console, "approved")
    query(str(console.url), "DELETE FROM eventsaga.definitions RETURNING name")

    done = console.call("diagram", "--live", saga_id)

    assert (done.returncode, done.stdout) == (1, "")
    assert "a definition of approved which no worker has brought; name the module" in done.stderr
    assert "class" in console.answer("diagram", "language:sagas", "--live", saga_id)


def test_nothing_to_draw_is_a_wrong_call(console: Console) -> None:
    done = console.call("diagram")
    assert done.returncode == 2
    assert "what is to be drawn?" in done.stderr

"""Services as processes: how they start, announce themselves, and end."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from uuid import uuid4

import asyncpg
import httpx
import psutil
import pytest

from eventsaga.demo.services import (
    SERVICE_NAMES,
    ServiceStartError,
    running_services,
)
from tests.acceptance.services.world import (
    PATIENCE,
    PAYMENTS,
    World,
)

pytestmark = pytest.mark.asyncio(loop_scope="package")

SCHEMA = "demo_payments"

LAUNCHER = """
import asyncio, json, sys
from eventsaga.demo.services import running_services
async def main():
    async with running_services(sys.argv[1]) as services:
        print(json.dumps([getattr(services, name).pid for name in services.urls]), flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_a_launcher_that_is_killed_leaves_no_orphans(world: World) -> None:
    launcher = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LAUNCHER, world.url, stdout=asyncio.subprocess.PIPE
    )
    assert launcher.stdout is not None
    services = [psutil.Process(pid) for pid in json.loads(await launcher.stdout.readline())]
    assert len(services) == 4
    assert all(service.is_running() for service in services)

    launcher.kill()
    await launcher.communicate()

    def left() -> list[psutil.Process]:
        return [s for s in services if s.is_running() and s.status() != psutil.STATUS_ZOMBIE]

    async with asyncio.timeout(PATIENCE):
        while left():
            # Their sockets close when they end: a request comes back at once.
            await world.http.get(f"{world.services.orders.url}/health")


async def test_the_launcher_stops_all_it_started(world: World) -> None:
    async with running_services(world.url) as services:
        pids = [getattr(services, name).pid for name in SERVICE_NAMES]
        for pid in pids:
            assert world.url not in psutil.Process(pid).cmdline(), "it may hold a password"
    assert not any(psutil.pid_exists(pid) for pid in pids)


async def test_services_that_start_at_once_on_an_empty_database_do_not_collide(
    world: World,
) -> None:
    name = f"empty_{uuid4().hex}"
    await world.db.execute(f"CREATE DATABASE {name}")
    url = world.url.replace("/postgres?", f"/{name}?")
    async with running_services(url), running_services(url) as services:
        reply = await world.http.get(services.payments.url + "/ledger")
        assert reply.json() == []


async def test_a_service_waits_for_another_one_that_is_creating_the_same_tables(
    world: World,
) -> None:
    """IF NOT EXISTS alone fails when the other one commits; the race is forced here."""
    name = f"racing_{uuid4().hex}"
    await world.db.execute(f"CREATE DATABASE {name}")
    url = world.url.replace("/postgres?", f"/{name}?")
    other = await asyncpg.connect(url)
    try:
        creating = other.transaction()
        await creating.start()
        await other.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", SCHEMA)
        await other.execute(f"CREATE SCHEMA {SCHEMA}")
        with run_service("payments", EVENTSAGA_DATABASE_URL=url) as process:
            await world.until(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = $1 AND wait_event_type = 'Lock'",
                name,
            )
            await creating.commit()
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["service"] == "payments"
            process.send_signal(signal.SIGTERM)
            assert process.communicate() == ("", "")
    finally:
        await other.close()


async def test_a_service_that_cannot_start_is_named_with_what_it_said() -> None:
    with pytest.raises(ServiceStartError, match=r"did not start: exit code 1\n\w+: cannot serve"):
        async with running_services("postgresql://nobody@127.0.0.1:1/none"):
            pass


async def test_a_service_that_does_not_get_ready_is_given_up(world: World) -> None:
    with pytest.raises(ServiceStartError, match=r"not ready in 0.001 s"):
        async with running_services(world.url, start_timeout=0.001):
            pass


def run_service(*arguments: str, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "eventsaga.demo.services", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_service_says_one_line_serves_and_ends_with_zero(
    database_url: str, number: signal.Signals
) -> None:
    with run_service("shipping", EVENTSAGA_DATABASE_URL=database_url) as process:
        assert process.stdout is not None
        announced = json.loads(process.stdout.readline())
        assert announced["service"] == "shipping"
        assert announced["pid"] == process.pid
        assert announced["url"].startswith("http://127.0.0.1:")
        async with httpx.AsyncClient() as http:
            health = await http.get(announced["url"] + "/health")
        assert health.json() == {"status": "ok"}
        process.send_signal(number)
        assert process.communicate() == ("", "")
    assert process.returncode == 0


async def test_a_service_told_to_stop_lets_go_of_a_client_that_waits_for_a_lost_reply(
    world: World, order_id: str
) -> None:
    async with running_services(world.url) as services:
        there = World(world.url, services, world.http, world.db)
        waiting = asyncio.create_task(there.do(PAYMENTS, order_id, "lost_reply"))
        await world.until("SELECT count(*) FROM demo_payments.ledger WHERE order_id = $1", order_id)
        os.kill(services.payments.pid, signal.SIGTERM)
        with pytest.raises(httpx.RemoteProtocolError):
            await waiting


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["bakery", "--database", "postgresql://x"], 2, "invalid choice: 'bakery'"),
        (["payments"], 2, "name a database"),
        (["payments", "--database", "not a url"], 1, "payments: cannot serve: "),
        (["payments", "--database", "postgresql://x@127.0.0.1:1/x"], 1, "cannot serve: "),
    ],
)
async def test_a_service_that_is_called_wrongly_says_so_without_a_traceback(
    arguments: list[str], code: int, complaint: str
) -> None:
    with run_service(*arguments, EVENTSAGA_DATABASE_URL="") as process:
        out, err = process.communicate()
    assert (process.returncode, out) == (code, "")
    assert complaint in err
    assert "Traceback" not in err


async def test_a_taken_port_is_an_error_that_names_it(world: World) -> None:
    port = world.services.orders.url.rpartition(":")[2]
    with run_service("orders", "--port", port, "--database", world.url) as process:
        out, err = process.communicate()
    assert (process.returncode, out) == (1, "")
    assert "in use" in err

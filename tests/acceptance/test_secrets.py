"""Is a secret in anything that the process writes? Each has a canary, and all is looked through."""

import http.server
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from tests import pooler
from tests.acceptance.cli.console import HERE, QUICK, SCRIPT, Console, environment, query

CANARIES = {
    name: f"canary-{name.lower()}-5f2c"
    for name in ("TOKEN", "COOKIE", "QUERY", "USERINFO", "PASSWORD", "DATABASE", "ANSWERED")
}
TABLES = "SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'eventsaga'"


class Shop(http.server.BaseHTTPRequestHandler):
    """The other side; it remembers what it was sent, and sets a cookie."""

    seen: list[str]

    def do_GET(self) -> None:
        type(self).seen.append(f"{self.path} {self.headers}")
        self.send_response(200 if self.path.startswith("/ok") else 418)
        self.send_header("Set-Cookie", f"session={CANARIES['ANSWERED']}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
        """Say nothing."""


@pytest.fixture
def shop() -> Iterator[str]:
    Shop.seen = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.skipif(pooler.WANTED, reason="behind a pooler the password is the pooler's business")
def test_no_secret_is_in_a_log_an_event_an_error_or_an_answer(
    database: str, shop: str, tmp_path: Path
) -> None:
    # Whoever comes by the socket is trusted, whatever password they have.
    url = (
        make_url(database).set(password=CANARIES["DATABASE"]).render_as_string(hide_password=False)
    )
    secrets = {f"SHOP_{name}": value for name, value in CANARIES.items()}
    log = tmp_path / "log"
    with log.open("wb") as out:
        worker = subprocess.Popen(
            [SCRIPT, "worker", "canaries:sagas"],
            cwd=HERE,
            env=environment(url, **QUICK, **secrets),
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    console = Console(url, **secrets)
    written: list[str] = []

    def call(*arguments: str) -> None:
        done = console.call(*arguments)
        written.extend((done.stdout, done.stderr))

    try:
        context = json.dumps({"url": shop})
        for name in ("header", "query", "refused", "cookie"):
            call("start", name, "-m", "canaries:sagas", "-c", context, "--wait", "30")
        ids = query(url, "SELECT saga_id::text FROM eventsaga.sagas")
        for saga_id in ids:
            call("show", "-v", saga_id)
            call("history", "--json", saga_id)
            call("export", saga_id, "--to", "-")
        for command in (("list",), ("verify",), ("top",), ("stuck",), ("start", "lost")):
            call(*command)
        call("list", "--database-url", f"postgresql://ann:{CANARIES['DATABASE']}@127.0.0.1:1/x")
        call("list", "--database-url", f"mysql://ann:{CANARIES['DATABASE']}@127.0.0.1:1/x")
        call("list", "--database-url", f"postgresql://ann:{CANARIES['DATABASE']}@[x/x")
        call("list", "--schema", "elsewhere")
    finally:
        worker.terminate()
        worker.wait(timeout=60)
    written.append(log.read_text())
    tables = query(url, TABLES)
    written.extend(
        str(row)
        for table in tables
        for row in query(url, f"SELECT t::text FROM eventsaga.{table} t")  # noqa: S608
    )

    assert len(ids) == 4
    sent = "".join(Shop.seen)
    assert all(CANARIES[name] in sent for name in ("TOKEN", "COOKIE", "QUERY"))
    everything = "\n".join(written)
    assert "418" in everything, "what went wrong is told"
    assert {name for name, canary in CANARIES.items() if canary in everything} == set()
    assert os.environ.get("SHOP_TOKEN") is None

"""Do the pages tell the truth, and to nobody else? Through ASGI, on a real database."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import httpx
import pytest
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.routing import Mount

from eventsaga import Orchestrator, PermanentError, Saga, Step
from eventsaga.client.handle import SagaHandle
from eventsaga.dashboard import dashboard
from eventsaga.dashboard.live import MOST_LISTENERS

_NOBODY = UUID(int=0)

TOKEN = "a-token-that-is-long-enough"  # noqa: S105 - of this test only
BEARER = {"authorization": f"Bearer {TOKEN}"}
MARKUP = "<script>alert(1)</script><img src=x onerror=alert(1)>"


class Order(BaseModel):
    order_id: str


async def charge(order: Order) -> None:
    """Charge nobody."""


async def refund(order: Order) -> None:
    raise PermanentError("the bank is closed")


async def ship(order: Order) -> None:
    if order.order_id != "good":
        raise PermanentError("out of stock")


order_saga = Saga(
    "order", context=Order, steps=[Step("charge", charge, compensate=refund), Step("ship", ship)]
)


@pytest.fixture
async def orchestrator(database: str) -> AsyncIterator[Orchestrator]:
    async with Orchestrator(database, sagas=[order_saga]) as opened:
        yield opened


@pytest.fixture
async def parked(orchestrator: Orchestrator) -> UUID:
    handle = await orchestrator.start("order", Order(order_id=MARKUP))
    await handle.result(timeout=30)
    return handle.id


def browser(app: Any, **headers: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app)
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080", headers=headers)


async def test_every_page_is_there_and_markup_is_text(
    orchestrator: Orchestrator, parked: UUID
) -> None:
    async with browser(dashboard(orchestrator, trace_url="http://t/{saga_id}")) as client:
        for path in ("/", "/sagas", "/parked", "/definitions", "/definitions/order"):
            page = await client.get(path)
            assert page.status_code == 200
            assert "<h1" in page.text
        saga = await client.get(f"/sagas/{parked}?seq=2")
        assert "the bank is closed" in (await client.get("/parked")).text

    assert "&lt;script&gt;alert(1)" in saga.text
    assert "<script>alert" not in saga.text
    assert "<img" not in saga.text
    assert " style=" not in saga.text
    assert f"http://t/{parked}" in saga.text
    assert "unsafe" not in saga.headers["content-security-policy"]
    assert saga.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        (f"/sagas/{_NOBODY}", 404),
        ("/sagas/x", 404),
        ("/sagas?limit=1000000", 400),
        ("/sagas?limit=-1", 400),
        ("/sagas?before=x", 400),
        ("/sagas?status=LOST", 400),
        ("/sagas?text=%00", 400),
        ("/sagas?where=x", 400),
        ("/sagas?older=soon", 400),
        ("/sagas?text=" + "x" * 501, 400),
        ("/static/..%2fapp.py", 404),
        ("/static/../app.py", 404),
        ("/definitions/..%2f..%2fetc%2fpasswd", 404),
        ("/definitions/nobody", 404),
        ("/live?saga=x", 404),
        ("/api/sagas?limit=0", 400),
        (f"/api/sagas/{_NOBODY}", 404),
        ("/login", 404),
    ],
)
async def test_rubbish_ends_cleanly(orchestrator: Orchestrator, path: str, code: int) -> None:
    async with browser(dashboard(orchestrator)) as client:
        assert (await client.get(path)).status_code == code


@pytest.mark.parametrize("seq", ["0", "-1", "x", "99999999", "9" * 400, "1;drop", "%00", "1.5"])
async def test_an_event_that_is_none_is_refused(
    orchestrator: Orchestrator, parked: UUID, seq: str
) -> None:
    async with browser(dashboard(orchestrator)) as client:
        assert (await client.get(f"/sagas/{parked}?seq={seq}")).status_code == 400
        assert (await client.get(f"/api/sagas/{parked}/state?seq={seq}")).status_code == 400


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "localhost:x"])
async def test_a_foreign_name_is_not_served(orchestrator: Orchestrator, host: str) -> None:
    async with browser(dashboard(orchestrator)) as client:
        assert (await client.get("/", headers={"host": host})).status_code == 421


async def test_without_operators_nothing_can_be_asked(
    orchestrator: Orchestrator, parked: UUID
) -> None:
    async with browser(dashboard(orchestrator, token=TOKEN), **BEARER) as client:
        assert (await client.post(f"/sagas/{parked}")).status_code == 405
        assert (await client.post(f"/api/sagas/{parked}/retry")).status_code in {404, 405}


async def test_who_has_no_token_sees_and_does_nothing(
    orchestrator: Orchestrator, parked: UUID
) -> None:
    body = {"reason": "r", "actor": "ada"}
    async with browser(dashboard(orchestrator, operator=True, token=TOKEN)) as client:
        assert (await client.get("/")).headers["location"].startswith("/login")
        assert (await client.get("/api/sagas")).status_code == 401
        wrong = {"authorization": "Bearer nothing-like-it-at-all"}
        assert (await client.get("/api/sagas", headers=wrong)).status_code == 401
        for cookie in ("eventsaga_session=YWRh.9999999999.00", "a@b=c; eventsaga_session=", "=;;"):
            forged = {"cookie": cookie}
            assert (await client.get("/api/sagas", headers=forged)).status_code == 401
        asked = await client.post(f"/api/sagas/{parked}/abandon", json=body)
        assert asked.status_code == 403
        own = {"origin": "http://127.0.0.1:8080"}
        asked = await client.post(f"/api/sagas/{parked}/abandon", json=body, headers=own)
        assert asked.status_code == 401
        wrong_token = {"actor": "ada", "token": "x"}
        assert (await client.post("/login", data=wrong_token, headers=own)).status_code == 401
    assert (await orchestrator.get(parked)).status == "PARKED"


async def test_a_page_of_another_site_cannot_use_the_login(
    orchestrator: Orchestrator, parked: UUID
) -> None:
    own = {"origin": "http://127.0.0.1:8080"}
    async with browser(dashboard(orchestrator, operator=True, token=TOKEN)) as client:
        login = {"actor": "ada", "token": TOKEN, "next": "//evil.example"}
        done = await client.post("/login", data=login, headers=own)
        assert (done.status_code, done.headers["location"]) == (303, "/")
        cookie = done.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        form = {"choice": "abandon", "reason": "no hope"}
        for origin in (
            "http://evil.example",
            "null",
            "http://[",
            "http://127.0.0.1:9",
            "http://localhost:8080",
        ):
            foreign = {"origin": origin}
            done = await client.post(f"/sagas/{parked}", data=form, headers=foreign)
            assert done.status_code == 403
        assert (await client.post(f"/sagas/{parked}", data=form)).status_code == 403
        none = await client.post(f"/sagas/{parked}", data={"choice": "abandon"}, headers=own)
        assert none.status_code == 400
        illegal = form | {"choice": "undo"}
        assert (await client.post(f"/sagas/{parked}", data=illegal, headers=own)).status_code == 409
        done = await client.post(f"/sagas/{parked}", data=form, headers=own)
        assert done.status_code == 303
    state = await SagaHandle(orchestrator, parked, created=False).result(timeout=30)
    assert state.status == "FAILED"
    events = [stored.data for stored in await orchestrator.history(parked)]
    assert any(data.get("actor") == "ada" for data in events)


async def test_programs_ask_with_the_token(orchestrator: Orchestrator, parked: UUID) -> None:
    app = dashboard(orchestrator, operator=True, token=TOKEN)
    async with browser(app, **BEARER) as client:
        document = (await client.get("/api/openapi.json")).json()
        for path, methods in document["paths"].items():
            if "get" in methods:
                answer = await client.get(path.replace("{saga_id}", str(parked)))
                assert answer.status_code == 200
                json.loads(answer.text)
        url = f"/api/sagas/{parked}"
        assert (await client.post(f"{url}/abandon", json={"reason": "r"})).status_code == 400
        assert (await client.post(f"{url}/dance", json={})).status_code == 400
        assert (await client.post(f"{url}/abandon", content=b"[" * 70_000)).status_code == 415
        huge = {"reason": "r" * 70_000, "actor": "bot"}
        assert (await client.post(f"{url}/abandon", json=huge)).status_code == 413
        done = await client.post(f"{url}/abandon", json={"reason": "r", "actor": "bot"})
        assert done.status_code == 200
    routes = {route.path for route in app.routes if "/api/" in getattr(route, "path", "")}  # type: ignore[attr-defined]
    assert routes == set(document["paths"])


async def test_paging_visits_each_saga_once(orchestrator: Orchestrator) -> None:
    orders = [Order(order_id="good") for _ in range(57)]
    handles = await orchestrator.start_many("order", orders)
    seen: list[str] = []
    async with browser(dashboard(orchestrator)) as client:
        query = "limit=10&name=order"
        while query:
            page = await client.get(f"/sagas?{query}")
            seen += re.findall(r'href="/sagas/([0-9a-f-]{36})"', page.text)
            found = re.search(r'rel="next" href="/sagas\?([^"]+)"', page.text)
            query = found[1].replace("&amp;", "&") if found else ""
    assert sorted(seen) == sorted(str(handle.id) for handle in handles)


async def test_below_a_path_all_links_hold(orchestrator: Orchestrator, parked: UUID) -> None:
    app = Starlette(routes=[Mount("/ops/sagas-here", dashboard(orchestrator))])
    seen, left = set[str](), {"/ops/sagas-here/"}
    async with browser(app) as client:
        while left:
            path = left.pop()
            seen.add(path)
            page = await client.get(path)
            assert page.status_code == 200, path
            if "html" in page.headers["content-type"]:
                found = re.findall(r'(?:href|src|action)="([^"#]+)[^"]*"', page.text)
                assert all(link.startswith("/ops/sagas-here/") for link in found)
                left |= {link.replace("&amp;", "&") for link in found} - seen
    assert f"/ops/sagas-here/sagas/{parked}" in seen


async def test_a_change_is_told_and_the_stream_ends_in_good_order(
    orchestrator: Orchestrator, parked: UUID
) -> None:
    app = dashboard(orchestrator)
    stream = app.live.listen(parked)
    assert b"retry" in await anext(stream)
    assert b"changed" in await anext(stream), "whatever it was, since the page was made"
    await orchestrator.abandon(parked, reason="no hope", actor="ada")
    assert b"changed" in await anext(stream)
    app.close()
    assert [part async for part in stream] == []
    assert app.live.is_full
    assert app.live._looking is None


async def test_so_many_may_listen_and_no_more(orchestrator: Orchestrator, parked: UUID) -> None:
    app = dashboard(orchestrator)
    streams = [app.live.listen(parked) for _ in range(MOST_LISTENERS + 20)]
    first = await asyncio.gather(*(anext(stream) for stream in streams))
    assert first.count(b"retry: 30000\n\n") == 20, "although all came before anybody listened"
    async with browser(app) as client:
        assert (await client.get("/live")).status_code == 503
    app.close()
    for stream in streams:
        await stream.aclose()
    assert app.live._looking is None

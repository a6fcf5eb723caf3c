"""Which pages are there? The routes of the app, for people and for programs."""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from contextlib import aclosing
from dataclasses import asdict
from functools import cache
from http import HTTPStatus
from importlib import resources
from typing import Any, Final, cast
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from eventsaga.client import Orchestrator, portrait
from eventsaga.core.state import State, Status
from eventsaga.dashboard import asking, drawing, look, openapi, verbs
from eventsaga.dashboard.guard import COOKIE, SESSION_SECONDS, Guard, Sessions, actor_of, dumped
from eventsaga.dashboard.live import Live
from eventsaga.errors import (
    DatabaseUnavailableError,
    EventSagaError,
    IllegalCommandError,
    NoSuchMomentError,
    PayloadError,
    SagaNotFoundError,
)
from eventsaga.observe.trace import of_saga
from eventsaga.observe.words import duration, instant
from eventsaga.store.postgres.overview import STATUSES, Throughput, overview

LOCAL: Final = ("127.0.0.1", "localhost", "[::1]")

_SHORTEST_TOKEN: Final = 16
_ASSETS: Final = {
    "look.css": "text/css; charset=utf-8",
    "live.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_CODES: Final[Mapping[type[EventSagaError], int]] = {
    SagaNotFoundError: 404,
    NoSuchMomentError: 404,
    IllegalCommandError: 409,
    PayloadError: 400,
    DatabaseUnavailableError: 503,
}

Handler = Callable[[Request], Awaitable[Response]]


def dashboard(
    orchestrator: Orchestrator,
    *,
    operator: bool = False,
    token: str | None = None,
    allowed_hosts: Collection[str] = LOCAL,
    trace_url: str | None = None,
) -> "Dashboard":
    """Return the dashboard as an ASGI app, to be served alone or mounted under a path.

    Args:
        orchestrator: Open while the app serves; it needs no worker.
        operator: Whether sagas may be helped; otherwise there are no such routes.
        token: Who does not show it sees nothing; None if everybody who comes may look.
        allowed_hosts: Names by which browsers may call it, without ports.
        trace_url: Where the trace of a saga is: ``{trace_id}``, ``{saga_id}`` and
            ``{correlation_id}`` are filled in. None for no link.

    Raises:
        ValueError: If there is no token for operators, or it is shorter than 16 characters.
    """
    return Dashboard(
        orchestrator,
        operator=operator,
        token=token,
        allowed_hosts=allowed_hosts,
        trace_url=trace_url,
    )


class Dashboard(Starlette):
    """The app; see `dashboard`."""

    def __init__(
        self,
        orchestrator: Orchestrator,
        *,
        operator: bool,
        token: str | None,
        allowed_hosts: Collection[str],
        trace_url: str | None,
    ) -> None:
        if operator and token is None:
            raise ValueError("operators need a token")
        if token is not None and (len(token) < _SHORTEST_TOKEN or not token.isascii()):
            raise ValueError(f"a token has at least {_SHORTEST_TOKEN} characters of ASCII")
        self.orchestrator = orchestrator
        self.operator = operator
        self.sessions = None if token is None else Sessions(token)
        self.trace_url = trace_url
        self.live = Live(orchestrator.store)
        self._throughput = Throughput()
        guard = Middleware(Guard, hosts=allowed_hosts, sessions=self.sessions)
        super().__init__(
            routes=self._routes(),
            middleware=[guard],
            exception_handlers={HTTPException: _refused, EventSagaError: _refused},
        )

    def close(self) -> None:
        """End the streams of all pages that are open, so that the server can stop."""
        self.live.close()

    def _routes(self) -> list[Route]:
        reading: dict[str, Handler] = {
            "/": self._overview,
            "/sagas": self._sagas,
            "/sagas/{saga_id}": self._saga,
            "/definitions": self._definitions,
            "/definitions/{name}": self._definitions,
            "/parked": self._parked,
            "/live": self._stream,
            "/static/{name}": self._asset,
            "/api/overview": self._api_overview,
            "/api/sagas": self._api_sagas,
            "/api/sagas/{saga_id}": self._api_saga,
            "/api/sagas/{saga_id}/events": self._api_events,
            "/api/sagas/{saga_id}/state": self._api_state,
            "/api/parked": self._api_parked,
            "/api/definitions": self._api_definitions,
            "/api/openapi.json": self._api_document,
        }
        routes = [Route(path, handler) for path, handler in reading.items()]
        if self.sessions is not None:
            routes.append(Route("/login", self._login, methods=["GET", "POST"]))
            routes.append(Route("/logout", self._logout, methods=["POST"]))
        if self.operator:
            routes.append(Route("/sagas/{saga_id}", self._ask, methods=["POST"]))
            routes.append(Route("/api/sagas/{saga_id}/{verb}", self._api_ask, methods=["POST"]))
        return routes

    # -- for people ------------------------------------------------------------------------

    async def _overview(self, request: Request) -> Response:
        found = await overview(self.orchestrator.store)
        minutes = await self._throughput.look(self.orchestrator.store, found.at)
        stranded = await self.orchestrator.store.stranded()
        chart = drawing.chart(minutes)
        return self._page(
            request, "overview", look=found, chart=chart, stranded=stranded, statuses=STATUSES
        )

    async def _sagas(self, request: Request) -> Response:
        rows, more = await look.page_of_sagas(self.orchestrator, request.query_params)
        query = {name: text for name, text in request.query_params.items() if text}
        following = urlencode(query | {"before": str(more)}) if more else None
        return self._page(
            request, "sagas", rows=rows, following=following, query=query, all_statuses=list(Status)
        )

    async def _saga(self, request: Request, complaint: str = "", code: int = 200) -> Response:
        saga_id = asking.identity(request.path_params["saga_id"])
        query = request.query_params
        found = await look.saga(self.orchestrator, saga_id, query)
        trace = self._trace(found["state"])
        told = {"taken": "The saga has taken it.", "kept": "It is kept until a worker comes."}
        return self._page(
            request,
            "saga",
            code,
            **found,
            trace=trace,
            told=told.get(query.get("told", ""), ""),
            complaint=complaint,
        )

    def _trace(self, state: State) -> str | None:
        if self.trace_url is None:
            return None
        _, trace_id, *_ = of_saga(state.saga_id, state.trace).split("-")
        values = {
            "{trace_id}": trace_id,
            "{saga_id}": str(state.saga_id),
            "{correlation_id}": quote(state.correlation_id, safe=""),
        }
        url = self.trace_url
        for name, value in values.items():
            url = url.replace(name, value)
        return url

    async def _definitions(self, request: Request) -> Response:
        name = request.path_params.get("name")
        found = await look.definitions(self.orchestrator, name)
        if name is not None and not found:
            raise HTTPException(404, "no process has ever brought such a saga")
        drawn = [(one, drawing.graph(shape) if shape and name else None) for one, shape in found]
        return self._page(request, "definitions", found=drawn, name=name)

    async def _parked(self, request: Request) -> Response:
        rows, more = await look.page_of_parked(self.orchestrator, request.query_params)
        return self._page(request, "parked", rows=rows, more=more)

    async def _ask(self, request: Request) -> Response:
        saga_id = asking.identity(request.path_params["saga_id"])
        fields = await asking.form(request)
        choice = fields.get("choice", "").split(" ")
        asked = dict(zip(("verb", "step", "resolution"), choice, strict=False))
        actor = actor_of(request) or fields.get("actor", "")
        asked |= {"reason": fields.get("reason", ""), "actor": actor}
        try:
            taken = await verbs.ask(self.orchestrator, saga_id, asked)
        except IllegalCommandError as error:
            return await self._saga(request, str(error), 409)
        told = "taken" if taken else "kept"
        return RedirectResponse(f"{_base(request)}/sagas/{saga_id}?told={told}", 303)

    async def _login(self, request: Request) -> Response:
        assert self.sessions is not None
        if request.method != "POST":
            return self._page(request, "login", back=_back(request.query_params), wrong=False)
        fields = await asking.form(request)
        actor = asking.text(fields, "actor")
        if actor is None or not self.sessions.is_token(fields.get("token", "")):
            return self._page(request, "login", 401, back=_back(fields), wrong=True)
        answer = RedirectResponse(f"{_base(request)}{_back(fields)}", 303)
        answer.set_cookie(
            COOKIE,
            self.sessions.issue(actor),
            max_age=SESSION_SECONDS,
            path=f"{_base(request)}/",
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )
        return answer

    async def _logout(self, request: Request) -> Response:
        answer = RedirectResponse(f"{_base(request)}/login", 303)
        answer.delete_cookie(COOKIE, path=f"{_base(request)}/", httponly=True, samesite="strict")
        return answer

    async def _asset(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _ASSETS:
            raise HTTPException(404, "there is no such file")
        return Response(_asset(name), media_type=_ASSETS[name])

    async def _stream(self, request: Request) -> Response:
        asked = asking.text(request.query_params, "saga")
        saga_id = None if asked is None else asking.identity(asked)
        if self.live.is_full:
            raise HTTPException(503, "too many pages listen; reload this one by hand")

        async def streamed() -> AsyncGenerator[bytes]:
            async with aclosing(self.live.listen(saga_id)) as stream:
                async for part in stream:
                    yield part

        return StreamingResponse(streamed(), media_type="text/event-stream")

    def _page(self, request: Request, page: str, code: int = 200, **values: Any) -> Response:
        common = {
            "base": _base(request),
            "here": page,
            "kind": portrait.kind,
            "operator": self.operator,
            "has_login": self.sessions is not None,
            "actor": actor_of(request),
        }
        html = _templates().get_template(f"{page}.html").render(common | values)
        return Response(html, code, media_type="text/html; charset=utf-8")

    # -- for programs ----------------------------------------------------------------------

    async def _api_overview(self, _request: Request) -> Response:
        found = await overview(self.orchestrator.store)
        minutes = await self._throughput.look(self.orchestrator.store, found.at)
        workers = [
            asdict(worker) | {"lease_left": worker.lease_left.total_seconds()}
            for worker in found.workers
        ]
        throughput = [asdict(minute) for minute in minutes]
        return _json(asdict(found) | {"workers": workers, "throughput": throughput})

    async def _api_sagas(self, request: Request) -> Response:
        rows, more = await look.page_of_sagas(self.orchestrator, request.query_params)
        return _json({"sagas": [look.plain_row(row) for row in rows], "before": more})

    async def _api_saga(self, request: Request) -> Response:
        saga_id = asking.identity(request.path_params["saga_id"])
        row = await self.orchestrator.store.get(saga_id)
        if row is None:
            raise SagaNotFoundError(saga_id)
        explained = await look.explained_or_none(self.orchestrator, saga_id)
        told = None if explained is None else asdict(explained)
        return _json(look.plain_row(row) | {"explained": told})

    async def _api_events(self, request: Request) -> Response:
        saga_id = asking.identity(request.path_params["saga_id"])
        return _json(await look.events(self.orchestrator, saga_id, request.query_params))

    async def _api_state(self, request: Request) -> Response:
        saga_id = asking.identity(request.path_params["saga_id"])
        return _json(await look.state_at(self.orchestrator, saga_id, request.query_params))

    async def _api_parked(self, request: Request) -> Response:
        rows, more = await look.page_of_parked(self.orchestrator, request.query_params)
        parked = [
            look.plain_row(row) | {"explained": explained and asdict(explained)}
            for row, explained in rows
        ]
        return _json({"parked": parked, "before": more})

    async def _api_definitions(self, _request: Request) -> Response:
        found = await look.definitions(self.orchestrator)
        return _json({"definitions": [asdict(one) for one, _ in found]})

    async def _api_document(self, request: Request) -> Response:
        return _json(openapi.document(_base(request), operator=self.operator))

    async def _api_ask(self, request: Request) -> Response:
        saga_id = asking.identity(request.path_params["saga_id"])
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise HTTPException(415, "the body is application/json")
        try:
            given = json.loads(await asking.body(request))
        except (ValueError, RecursionError):
            raise asking.bad("the body is no JSON") from None
        if not isinstance(given, dict):
            raise asking.bad("the body is a JSON object")
        named = cast("dict[str, Any]", given)
        if not all(isinstance(value, str) for value in named.values()):
            raise asking.bad("all values are text")
        # Who has logged in speaks for nobody else.
        who = actor_of(request) or named.get("actor", "")
        fields = named | {"verb": request.path_params["verb"], "actor": who}
        return _json({"taken": await verbs.ask(self.orchestrator, saga_id, fields)})


def _base(request: Request) -> str:
    base: str = request.scope.get("root_path", "")
    return base.rstrip("/")


def _back(given: Mapping[str, str]) -> str:
    """Return the page to go to after the login; never one of another site."""
    back = given.get("next", "/")
    is_ours = back.startswith("/") and not back.startswith(("//", "/\\"))
    return back if is_ours and back.isprintable() and back.isascii() else "/"


def _json(value: object, code: int = 200) -> Response:
    return Response(dumped(value), code, media_type="application/json")


async def _refused(request: Request, error: Exception) -> Response:
    """Return what is said of a request that went wrong."""
    code, headers = 500, None
    detail = str(error)
    if isinstance(error, HTTPException):
        code, detail, headers = error.status_code, error.detail, error.headers
    else:
        code = next((known for kind, known in _CODES.items() if isinstance(error, kind)), 500)
        if isinstance(error, DatabaseUnavailableError):
            detail = "the database does not answer"  # its address is nobody's business here
    if "/api/" in request.url.path:
        return _json({"detail": detail}, code)
    title = HTTPStatus(code).phrase
    html = (
        _templates()
        .get_template("error.html")
        .render(
            base=_base(request),
            here="",
            operator=False,
            has_login=False,
            actor=None,
            code=code,
            title=title,
            detail=detail,
        )
    )
    return Response(html, code, headers, media_type="text/html; charset=utf-8")


@cache
def _asset(name: str) -> bytes:
    return resources.files("eventsaga.dashboard").joinpath("static", name).read_bytes()


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("eventsaga.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"instant": instant, "duration": duration, "pretty": portrait.pretty}
    return environment

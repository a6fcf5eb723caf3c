"""How does a service speak HTTP? What it understands becomes a call, and its reply a response."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, cast

from pydantic import BaseModel, JsonValue, TypeAdapter, ValidationError
from pydantic_core import from_json
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from eventsaga.demo.services.apply import Call, Desk, Reply, error_reply
from eventsaga.demo.services.ledger import READ_LEDGER
from eventsaga.demo.services.network import WAY, Network
from eventsaga.demo.services.operation import Operation, Service, Text
from eventsaga.participant import IdempotencyMiddleware

_MAX_CORRELATION_ID: Final = 255  # characters
_CORRELATION_ID: Final = "X-Correlation-ID"
_TEXT: Final[TypeAdapter[str]] = TypeAdapter(Text)


class _RefusedError(Exception):
    """The request is not one that this service understands."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply)
        self.reply = reply


@dataclass(frozen=True, slots=True, kw_only=True)
class Office:
    """A service that is open.

    Attributes:
        service: Which one.
        engine: Connections whose search path is the service's schema.
        desk: Where unsafe requests are taken.
        latency: Added to every unsafe request: half on the way in, half on the way out.
    """

    service: Service
    engine: AsyncEngine
    desk: Desk
    latency: timedelta


Endpoint = Callable[[Request], Awaitable[Reply]]


def build_app(office: Office) -> ASGIApp:
    """Return the service as an ASGI application that honours idempotency keys."""
    service = office.service
    resource = f"/{service.resource}"
    reads: dict[str, Endpoint] = {
        "/health": _reading(office, "SELECT json_build_object('status', 'ok')"),
        "/ledger": _reading(office, READ_LEDGER, by="order_id", needed=False),
        resource: _reading(office, service.read_many, by="order_id"),
        f"{resource}/{{id}}": _reading(office, service.read_one, by="id"),
    }
    routes = [Route(path, _answering(read), methods=["GET"]) for path, read in reads.items()]
    routes += [
        Route(operation.path, _answering(_doing(office, operation)), methods=[operation.method])
        for operation in service.operations
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _answer_unrouted})
    return Network(IdempotencyMiddleware(app, office.engine), office.latency)


def _doing(office: Office, operation: Operation[Any]) -> Endpoint:
    async def do(request: Request) -> Reply:
        return await office.desk.take(await _read_call(operation, request))

    return do


def _reading(office: Office, sql: str, *, by: str | None = None, needed: bool = True) -> Endpoint:
    async def read(request: Request) -> Reply:
        arguments = [] if by is None else [_read_argument(request, by, needed=needed)]
        async with office.engine.connect() as connection:
            result = await connection.exec_driver_sql(sql, tuple(arguments))
            found: JsonValue = result.scalar_one_or_none()
        return error_reply(404, "not_found") if found is None else Reply(200, json.dumps(found))

    return read


def _answering(endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        try:
            reply = await endpoint(request)
        except _RefusedError as refused:
            reply = refused.reply
        return _to_response(reply, request)

    return answer


async def _answer_unrouted(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _to_response(error_reply(error.status_code, error.detail), request)


def _to_response(reply: Reply, request: Request) -> Response:
    headers: dict[str, str] = {}
    if reply.retry_after is not None:
        headers["Retry-After"] = str(reply.retry_after)
    if _CORRELATION_ID in request.headers:
        headers[_CORRELATION_ID] = request.headers[_CORRELATION_ID]
    if WAY in request.scope.get("state", {}):
        request.scope["state"][WAY].delivery = reply.delivery
    return Response(
        reply.body, status_code=reply.status, headers=headers, media_type="application/json"
    )


async def _read_call(operation: Operation[Any], request: Request) -> Call:
    body = await _read_body(request)
    return Call(
        operation=operation,
        # The path wins: it says which thing is meant.
        request=_validate(
            operation.request, {**body, **request.query_params, **request.path_params}
        ),
        correlation_id=_read_correlation_id(request),
    )


async def _read_body(request: Request) -> dict[str, JsonValue]:
    content = await request.body()
    try:
        body: Any = from_json(content) if content else {}
    except ValueError as error:
        raise _RefusedError(error_reply(422, "invalid_json", reason=str(error))) from error
    if not isinstance(body, dict):
        raise _RefusedError(error_reply(422, "invalid_json", reason="an object is needed"))
    return cast("dict[str, JsonValue]", body)


def _read_correlation_id(request: Request) -> str | None:
    value = request.headers.get(_CORRELATION_ID)
    if value is not None and len(value) > _MAX_CORRELATION_ID:
        details: dict[str, JsonValue] = {"header": _CORRELATION_ID, "limit": _MAX_CORRELATION_ID}
        raise _RefusedError(error_reply(400, "header_too_long", **details))
    return value


def _read_argument(request: Request, name: str, *, needed: bool) -> str | None:
    value = request.path_params.get(name, request.query_params.get(name))
    if value is None and not needed:
        return None
    try:
        return _TEXT.validate_python(value)
    except ValidationError as error:
        raise _RefusedError(_explain(error)) from error


def _validate(model: type[BaseModel], data: dict[str, Any]) -> BaseModel:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _RefusedError(_explain(error)) from error


def _explain(error: ValidationError) -> Reply:
    """Return what is wrong where, without repeating what was sent."""
    problems: list[JsonValue] = [
        {"field": ".".join(map(str, problem["loc"])), "problem": problem["msg"]}
        for problem in error.errors(include_url=False, include_input=False, include_context=False)
    ]
    return error_reply(422, "invalid_request", problems=problems)

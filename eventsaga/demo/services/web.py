"""How does a service speak HTTP? Validation, idempotency keys, and replies that get lost."""

import asyncio
import hashlib
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, cast

import asyncpg
from asyncpg import Record
from asyncpg.pool import Pool
from pydantic import BaseModel, JsonValue, TypeAdapter, ValidationError
from pydantic_core import from_json
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from eventsaga.demo.services.idempotency import (
    Call,
    Delivery,
    Desk,
    OutcomeUnknownError,
    Reply,
    error_reply,
)
from eventsaga.demo.services.ledger import READ_LEDGER
from eventsaga.demo.services.operation import Operation, Service, Text

_MAX_BODY: Final = 1_000_000  # bytes
_MAX_HEADER: Final = 255  # characters of a key or correlation id
_CORRELATION_ID: Final = "X-Correlation-ID"
_TEXT: Final[TypeAdapter[str]] = TypeAdapter(Text)
_log: Final = logging.getLogger(__name__)

# Certain not to have been applied: the transaction was not committed.
_NOT_APPLIED: Final = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.exceptions.OperatorInterventionError,
    asyncpg.exceptions.InsufficientResourcesError,
    asyncpg.exceptions.TransactionRollbackError,
)


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
        pool: Connections whose search path is the service's schema.
        desk: Where unsafe requests are taken.
        latency: Added to every unsafe request: half on the way in, half on the way out.
    """

    service: Service
    pool: "Pool[Record]"
    desk: Desk
    latency: timedelta


Endpoint = Callable[[Request], Awaitable[Reply]]


def build_app(office: Office) -> Starlette:
    """Return the service as an ASGI application."""
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
    return Starlette(routes=routes, exception_handlers={HTTPException: _answer_unrouted})


def _doing(office: Office, operation: Operation[Any]) -> Endpoint:
    async def do(request: Request) -> Reply:
        call = await _read_call(operation, request)
        # Not through the desk: a network does not hold a database connection.
        await asyncio.sleep(office.latency.total_seconds() / 2)
        reply = await office.desk.take(call)
        await asyncio.sleep(office.latency.total_seconds() / 2)
        return reply

    return do


def _reading(office: Office, sql: str, *, by: str | None = None, needed: bool = True) -> Endpoint:
    async def read(request: Request) -> Reply:
        arguments = [] if by is None else [_read_argument(request, by, needed=needed)]
        found: str | None = await office.pool.fetchval(sql, *arguments)
        return error_reply(404, "not_found") if found is None else Reply(200, found)

    return read


def _answering(endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
    """Turn whatever *endpoint* does into a response; it is a 500 only if we have a bug."""

    async def answer(request: Request) -> Response:
        try:
            reply = await endpoint(request)
        except _RefusedError as refused:
            reply = refused.reply
        except OutcomeUnknownError:
            reply = error_reply(500, "outcome_unknown")
        except _NOT_APPLIED as error:
            details = {"reason": type(error).__name__}
            reply = Reply(503, json.dumps({"error": "no_database", **details}), retry_after=1)
        except Exception:  # noqa: BLE001 - logged, and answered as what it is
            _log.exception("%s %s", request.method, request.url.path)
            reply = error_reply(500, "internal_error")
        return _to_response(reply, request)

    return answer


async def _answer_unrouted(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _to_response(error_reply(error.status_code, error.detail), request)


def _to_response(reply: Reply, request: Request) -> Response:
    headers: dict[str, str] = {}
    if reply.replayed:
        headers["Idempotent-Replayed"] = "true"
    if reply.retry_after is not None:
        headers["Retry-After"] = str(reply.retry_after)
    if _CORRELATION_ID in request.headers:
        headers[_CORRELATION_ID] = request.headers[_CORRELATION_ID]
    response = {
        Delivery.WHOLE: Response,
        Delivery.NEVER: _LostResponse,
        Delivery.CUT: _CutResponse,
    }[reply.delivery]
    return response(
        reply.body, status_code=reply.status, headers=headers, media_type="application/json"
    )


class _CutResponse(Response):
    """Announces a body and closes the connection before it comes."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        # The server closes a connection whose response was not completed.


class _LostResponse(_CutResponse):
    """Says nothing until the client has given up."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            while (await receive())["type"] != "http.disconnect":
                pass
        except asyncio.CancelledError:
            # The service stops first; a 500 would be an answer.
            await super().__call__(scope, receive, send)


async def _read_call(operation: Operation[Any], request: Request) -> Call:
    key = _read_header(request, "Idempotency-Key")
    if not key:
        raise _RefusedError(error_reply(400, "idempotency_key_missing"))
    body = await _read_body(request)
    hashed = json.dumps(
        [request.method, request.url.path, sorted(request.query_params.multi_items()), body],
        sort_keys=True,
    )
    return Call(
        operation=operation,
        # The path wins: it says which thing is meant.
        request=_validate(
            operation.request, {**body, **request.query_params, **request.path_params}
        ),
        key=key,
        request_hash=hashlib.sha256(hashed.encode()).hexdigest(),
        correlation_id=_read_header(request, _CORRELATION_ID),
    )


async def _read_body(request: Request) -> dict[str, JsonValue]:
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > _MAX_BODY:
            raise _RefusedError(error_reply(413, "body_too_large", limit=_MAX_BODY))
    try:
        body: Any = from_json(bytes(content)) if content else {}
    except ValueError as error:
        raise _RefusedError(error_reply(422, "invalid_json", reason=str(error))) from error
    if not isinstance(body, dict):
        raise _RefusedError(error_reply(422, "invalid_json", reason="an object is needed"))
    return cast("dict[str, JsonValue]", body)


def _read_header(request: Request, name: str) -> str | None:
    value = request.headers.get(name)
    if value is not None and len(value) > _MAX_HEADER:
        raise _RefusedError(error_reply(400, "header_too_long", header=name, limit=_MAX_HEADER))
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

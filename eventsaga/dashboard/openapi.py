"""What can programs ask? The OpenAPI document of the JSON API."""

from typing import Any, Final

from eventsaga import __version__
from eventsaga.dashboard.asking import MOST
from eventsaga.dashboard.verbs import VERBS

_TEXT: Final = {"type": "string"}
_FILTERS: Final = {
    "status": "PENDING, RUNNING, COMPENSATING, PARKED, COMPLETED, COMPENSATED or FAILED",
    "name": "of this definition",
    "step": "stands at it, or went back or waits because of it",
    "correlation": "was started with this correlation id",
    "tenant": "belongs to it",
    "older": "was started before this instant (ISO 8601)",
    "newer": "was started at or after this instant",
    "where": "has a value in its context: path=value",
    "text": "has it in its id, name, error or context",
}


def _query(name: str, description: str, schema: object = _TEXT) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": schema}


_LIMIT: Final = _query(
    "limit", "rows of a page", {"type": "integer", "minimum": 1, "maximum": MOST}
)
_BEFORE: Final = _query("before", "behind this saga", {"type": "string", "format": "uuid"})
_SAGA_ID: Final = {
    "name": "saga_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "format": "uuid"},
}


def document(base: str, *, operator: bool) -> dict[str, Any]:
    """Return the document; the verbs are in it only for operators."""
    filters = [_query(name, said) for name, said in _FILTERS.items()]
    number = {"type": "integer", "minimum": 1}
    paths = {
        "/api/overview": _get("Rates, what is in flight, and who works"),
        "/api/sagas": _get("Sagas, youngest first", *filters, _LIMIT, _BEFORE),
        "/api/sagas/{saga_id}": _get("One saga, and what may be asked of it", _SAGA_ID),
        "/api/sagas/{saga_id}/events": _get(
            "Its events",
            _SAGA_ID,
            _query("after", "behind this event", number),
            _LIMIT,
        ),
        "/api/sagas/{saga_id}/state": _get(
            "Where it stood after an event", _SAGA_ID, _query("seq", "the event", number)
        ),
        "/api/parked": _get("What waits for a person", _query("name", "of it"), _LIMIT, _BEFORE),
        "/api/definitions": _get("Definitions, and how many of their sagas have not ended"),
        "/api/openapi.json": _get("This document"),
    }
    if operator:
        paths["/api/sagas/{saga_id}/{verb}"] = {"post": _post()}
    return {
        "openapi": "3.1.0",
        "info": {"title": "eventsaga dashboard", "version": __version__},
        "servers": [{"url": base or "/"}],
        "paths": paths,
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{"token": []}],
    }


def _get(summary: str, *parameters: object) -> dict[str, Any]:
    return {"get": _operation(summary, *parameters)}


def _operation(summary: str, *parameters: object) -> dict[str, Any]:
    said = {"200": "done", "400": "it means nothing", "401": "no token", "404": "not there"}
    responses = {
        code: {"description": text, "content": {"application/json": {"schema": {"type": "object"}}}}
        for code, text in said.items()
    }
    return {"summary": summary, "parameters": list(parameters), "responses": responses}


def _post() -> dict[str, Any]:
    verb = {"name": "verb", "in": "path", "required": True}
    operation = _operation(
        "Ask something of a saga", _SAGA_ID, verb | {"schema": {"type": "string", "enum": [*VERBS]}}
    )
    names = ("reason", "actor", "step", "resolution")
    schema = {
        "type": "object",
        "required": ["reason", "actor"],
        "properties": dict.fromkeys(names, _TEXT),
    }
    operation["requestBody"] = {
        "required": True,
        "content": {"application/json": {"schema": schema}},
    }
    operation["responses"]["409"] = {"description": "the saga would not take it"}
    return operation

"""What is ASGI? Three types, a request that is read once, and a reply that is kept."""

import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from eventsaga.participant.errors import BadKeyError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

Headers = tuple[tuple[bytes, bytes], ...]

_KEY: Final = b"idempotency-key"
_MAX_KEY: Final = 255
_PRINTABLE: Final = re.compile(rb"[\x20-\x7e]*")


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole response.

    Attributes:
        status: Status code.
        headers: Names in lower case, and values.
        body: All of it.
    """

    status: int
    headers: Headers
    body: bytes

    async def send(self, send: Send, *more: tuple[bytes, bytes]) -> None:
        """Send it, with *more* headers."""
        headers = [*self.headers, *more]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def problem(code: str, status: HTTPStatus, detail: str, *, retry_after: int | None = None) -> Reply:
    """Return a reply that says what is wrong (RFC 9457)."""
    said = {"title": status.phrase, "status": int(status), "detail": detail, "code": code}
    body = json.dumps(said).encode()
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
    ]
    if retry_after is not None:
        headers.append((b"retry-after", str(retry_after).encode()))
    return Reply(int(status), tuple(headers), body)


def read_key(scope: Mapping[str, Any]) -> str | None:
    """Return the request's key; None if it has none.

    A key in quotes is a String of RFC 8941, as the IETF draft wants it; one without is taken
    as it is, which is what most callers send. Both are the same key.

    Raises:
        BadKeyError: If it is empty, longer than 255 characters or sent more than once, or has
            other characters than printable ASCII.
    """
    values = [value for name, value in scope["headers"] if name.lower() == _KEY]
    if not values:
        return None
    if len(values) > 1:
        raise BadKeyError("there is more than one Idempotency-Key")
    raw: bytes = values[0].strip(b" \t")
    if not _PRINTABLE.fullmatch(raw):
        raise BadKeyError("the Idempotency-Key has other characters than printable ASCII")
    text = raw.decode("ascii")
    key = _unquoted(text) if text.startswith('"') else text
    if not key:
        raise BadKeyError("the Idempotency-Key is empty")
    if len(key) > _MAX_KEY:
        raise BadKeyError(f"the Idempotency-Key is longer than {_MAX_KEY} characters")
    return key


def _unquoted(text: str) -> str:
    key, rest = "", iter(text[1:])
    for character in rest:
        if character == '"':
            if next(rest, None) is None:
                return key
            break
        if character == "\\":
            character = next(rest, "")  # noqa: PLW2901 - the escaped one takes its place
            if character not in ('"', "\\"):
                break
        key += character
    raise BadKeyError("the Idempotency-Key begins with a quote and is no String of RFC 8941")


class BodyTooLargeError(Exception):
    """The request has more bytes than may be kept."""


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes | None:
    """Return the whole body; None if the client went away before its end.

    Raises:
        BodyTooLargeError: As soon as it is known that there are more than *limit* bytes.
    """
    for name, value in scope["headers"]:
        if name.lower() == b"content-length" and value.isdigit() and int(value[:20]) > limit:
            raise BodyTooLargeError
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > limit:
            raise BodyTooLargeError
        if not message.get("more_body", False):
            return bytes(body)


def replaying(body: bytes, receive: Receive) -> Receive:
    """Return a *receive* that gives the body once more, and then what else comes."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def fingerprint(scope: Mapping[str, Any], body: bytes) -> bytes:
    """Return the SHA-256 of method, path, query and body: equal for equal requests."""
    path = scope.get("raw_path") or scope["path"].encode()
    digest = hashlib.sha256()
    for part in (scope["method"].encode(), path, scope.get("query_string", b""), body):
        # The length keeps "/a" + "b" and "/ab" + "" apart.
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()

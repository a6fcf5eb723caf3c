"""Who may come in, and by which name? Hosts that are known, a token, and the same origin.

A page of another site can make a browser send requests here. So a name that is not ours is
refused (a foreign name may be made to point here), and what changes anything must come from
a page of ours: browsers say so in ``Origin``.
"""

import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Collection, Mapping
from typing import Final
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection, cookie_parser
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE: Final = "eventsaga_session"
SESSION_SECONDS: Final = 12 * 3600

_PORT: Final = re.compile(r":[0-9]{1,5}$")
_SAFE: Final = frozenset({"GET", "HEAD"})
_BEARER: Final = re.compile(r"(?i)bearer +(\S+) *")
_HEADERS: Final[Mapping[str, str]] = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # With no referrer at all, browsers would hide the origin of our own forms as well.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Sessions:
    """Cookies that prove who has shown the token, and by which name.

    Args:
        token: The secret; cookies are signed with a key that is derived from it.
    """

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        self._key = hashlib.sha256(b"eventsaga session\0" + self._token).digest()

    def is_token(self, text: str) -> bool:
        """Whether *text* is the token; takes the same time for all of one length."""
        return hmac.compare_digest(text.encode(), self._token)

    def issue(self, actor: str) -> str:
        """Return a cookie for *actor*."""
        name = base64.urlsafe_b64encode(actor.encode()).decode()
        what = f"{name}.{int(time.time()) + SESSION_SECONDS}"
        return f"{what}.{self._sign(what)}"

    def actor(self, cookie: str) -> str | None:
        """Return who has been given *cookie*; None if we did not, or long ago."""
        what, _, signature = cookie.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._sign(what).encode()):
            return None
        name, _, until = what.partition(".")
        if int(until) < time.time():
            return None
        return base64.urlsafe_b64decode(name).decode()

    def _sign(self, what: str) -> str:
        return hmac.new(self._key, what.encode(), hashlib.sha256).hexdigest()


class Guard:
    """Lets through what may come in, and puts headers on everything that goes out.

    Args:
        app: What is guarded.
        hosts: Names by which it may be called, without ports.
        sessions: Who has shown the token; None if everybody may look.
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str], sessions: Sessions | None) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        refusal = self._refusal(scope)
        await (self._app if refusal is None else refusal)(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1:
            return PlainTextResponse("one Host is needed", 400)
        if _PORT.sub("", hosts[0].lower()) not in self._hosts:
            return PlainTextResponse("this host is not served here; see allowed_hosts", 421)
        is_bearer = self._is_bearer(headers)
        if scope["method"] not in _SAFE and not _is_ours(headers, hosts[0], bearer=is_bearer):
            return PlainTextResponse("this must come from a page of the dashboard", 403)
        return self._stranger(scope, headers, bearer=is_bearer)

    def _is_bearer(self, headers: Headers) -> bool:
        found = _BEARER.fullmatch(headers.get("authorization", ""))
        return bool(found and self._sessions and self._sessions.is_token(found[1]))

    def _stranger(self, scope: Scope, headers: Headers, *, bearer: bool) -> Response | None:
        """Return what those are told who have shown no token; None for all others."""
        scope.setdefault("state", {})["actor"] = None
        if self._sessions is None or bearer:
            return None
        base = scope.get("root_path", "").rstrip("/")
        path = scope["path"].removeprefix(base)
        if path == "/login" or path.startswith("/static/"):
            return None
        actor = self._of_cookie(headers)
        if actor is not None:
            scope["state"]["actor"] = actor
            return None
        if scope["method"] in _SAFE and not path.startswith(("/api/", "/live")):
            query = scope["query_string"].decode("latin-1")
            back = quote(f"{path}?{query}" if query else path, safe="")
            return RedirectResponse(f"{base}/login?next={back}", 303)
        challenge = {"www-authenticate": 'Bearer realm="eventsaga"'}
        return JSONResponse({"detail": "the token is needed"}, 401, challenge)

    def _of_cookie(self, headers: Headers) -> str | None:
        cookie = cookie_parser(headers.get("cookie", "")).get(COOKIE)
        if cookie is None or self._sessions is None:
            return None
        return self._sessions.actor(cookie)


def _is_ours(headers: Headers, host: str, *, bearer: bool) -> bool:
    """Whether a request that may change something comes from a page of ours, or a program."""
    origin = headers.get("origin")
    if origin is None:
        # Browsers send it with every POST; a program that has the token is none.
        return bearer
    if headers.get("sec-fetch-site", "same-origin") != "same-origin":
        return False
    # A proxy may have taken the TLS off, so the scheme says nothing.
    return origin.lower() in {f"http://{host.lower()}", f"https://{host.lower()}"}


def actor_of(connection: HTTPConnection) -> str | None:
    """Return the name that was given at the login; None for a program."""
    found: str | None = connection.state.actor
    return found


def dumped(value: object) -> str:
    """Return *value* as JSON for programs; instants as ISO 8601, ids as text."""
    return json.dumps(value, default=str)

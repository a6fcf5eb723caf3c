"""A participant with a ledger: every effect is a row, and no key keeps it from coming twice."""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import httpx
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from eventsaga.participant import IdempotencyMiddleware, create_tables, current
from eventsaga.participant.asgi import App, Message, Receive, Reply, Scope, Send, read_body
from eventsaga.store.postgres.connect import sqlalchemy_url

LEDGER = "CREATE TABLE ledger (id bigserial PRIMARY KEY, what text NOT NULL)"
SAGA = "01a2060a-c6c1-72b9-8647-d7fb79ea9b9b"

Handler = Callable[[Scope, bytes], Awaitable[Reply]]


def told(status: int, body: Any = None, *headers: tuple[str, str]) -> Reply:
    """Return a reply of JSON."""
    pairs = [("content-type", "application/json"), *headers]
    encoded = tuple((name.encode(), value.encode("latin-1")) for name, value in pairs)
    return Reply(status, encoded, json.dumps(body).encode())


async def write(session: AsyncSession, what: str = "charge") -> int:
    """Do something that can be counted, and return its number."""
    adding = text("INSERT INTO ledger (what) VALUES (:what) RETURNING id")
    number: int = (await session.execute(adding, {"what": what})).scalar_one()
    return number


async def charge(scope: Scope, _body: bytes) -> Reply:
    """Take effect, and say which number it has."""
    return told(201, {"id": await write(current().session)})


def serving(handler: Handler) -> App:
    """Return an ASGI application that answers all requests by *handler*."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(scope, receive, 1 << 30)
        assert body is not None
        await (await handler(scope, body)).send(send)

    return app


@dataclass
class World:
    """A database, and ways to ask whoever serves on it.

    Attributes:
        url: The database.
        engine: An engine on it.
        sql: A connection that looks on.
    """

    url: str
    engine: AsyncEngine
    sql: "asyncpg.Connection[Any]"
    calls: list[str] = field(default_factory=list[str])

    def serve(self, handler: Handler = charge, **options: Any) -> IdempotencyMiddleware:
        """Return the handler behind the middleware; `calls` has the paths that reach it."""

        async def counted(scope: Scope, body: bytes) -> Reply:
            self.calls.append(scope["path"])
            return await handler(scope, body)

        options.setdefault("database", self.engine)
        return IdempotencyMiddleware(serving(counted), **options)

    async def ledger(self) -> list[str]:
        """Return what took effect, in order."""
        return [row["what"] for row in await self.sql.fetch("SELECT what FROM ledger ORDER BY id")]

    async def keys(self) -> list[str]:
        """Return the keys under which a reply is stored."""
        rows = await self.sql.fetch("SELECT key FROM participant_keys ORDER BY key")
        return [row["key"] for row in rows]


@asynccontextmanager
async def inhabited(url: str) -> AsyncGenerator[World]:
    """Build the world in an empty database."""
    engine = create_async_engine(sqlalchemy_url(url), pool_size=60, max_overflow=0)
    sql = await asyncpg.connect(url)
    await sql.execute(LEDGER)
    await create_tables(engine)
    yield World(url, engine, sql)
    await engine.dispose()
    await sql.close()


async def ask(
    app: App,
    key: str | bytes | None = "k-1",
    *,
    method: str = "POST",
    path: str = "/charges",
    json: Any = None,
    headers: Mapping[str, str] | None = None,
    raises: bool = False,
) -> httpx.Response:
    """Send one request; with *raises*, let what the application raises through."""
    given: list[tuple[str | bytes, str | bytes]] = list((headers or {}).items())
    if key is not None:
        given.append((b"Idempotency-Key", key))
    transport = httpx.ASGITransport(app, raise_app_exceptions=raises)
    async with httpx.AsyncClient(transport=transport, base_url="http://participant") as client:
        raw = [(_bytes(name), _bytes(value)) for name, value in given]
        return await client.request(method, path, json=json, headers=raw)


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("latin-1")


def scope_of(key: str = "k-1", **more: Any) -> Scope:
    """Return the scope of a POST, for tests that speak ASGI themselves."""
    return {
        "type": "http",
        "method": "POST",
        "path": "/charges",
        "raw_path": b"/charges",
        "query_string": b"",
        "headers": [(b"idempotency-key", key.encode())],
        **more,
    }


def whole(body: bytes = b"") -> Receive:
    """Return a *receive* that gives *body*, and then says that the client has gone."""
    messages: list[Message] = [
        {"type": "http.disconnect"},
        {"type": "http.request", "body": body, "more_body": False},
    ]

    async def receive() -> Message:
        return messages.pop() if len(messages) > 1 else messages[0]

    return receive

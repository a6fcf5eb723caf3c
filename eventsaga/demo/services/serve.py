"""How does a service live? In a process of its own, until SIGTERM or until its parent dies."""

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import asyncpg
import uvicorn
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from eventsaga.demo.services.apply import Desk
from eventsaga.demo.services.inventory import INVENTORY
from eventsaga.demo.services.ledger import TABLES
from eventsaga.demo.services.operation import Service
from eventsaga.demo.services.orders import ORDERS
from eventsaga.demo.services.payments import PAYMENTS
from eventsaga.demo.services.shipping import SHIPPING
from eventsaga.demo.services.web import Office, build_app
from eventsaga.participant import create_tables
from eventsaga.store.postgres.connect import sqlalchemy_url

SERVICES: Final = {service.name: service for service in (ORDERS, INVENTORY, PAYMENTS, SHIPPING)}

_CONNECTIONS: Final = 8
_CONNECT_SECONDS: Final = 10.0
_PARENT_SECONDS: Final = 0.2
_GRACE_SECONDS: Final = 1  # for requests that are under way when the service is told to stop

# IF NOT EXISTS is not safe against another process that creates the same thing right now.
_LOCK_CREATION: Final = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))"
_CREATE_SCHEMA: Final = "SELECT format('CREATE SCHEMA IF NOT EXISTS %I', $1::text)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How one service runs.

    Attributes:
        service: Which one.
        database_url: Where its tables are.
        host: Address to listen on.
        port: Port to listen on; 0 for a free one.
        latency: Added to every unsafe request.
        slow: How long a request with a ``…_slow`` value takes.
        parent_pid: The process without which the service makes no sense.
    """

    service: Service
    database_url: str
    host: str
    port: int
    latency: timedelta
    slow: timedelta
    parent_pid: int


class _AnnouncingServer(uvicorn.Server):
    """Says where it is once it accepts connections, and ends without the signal's exit code."""

    def __init__(self, config: uvicorn.Config, announcement: dict[str, str | int]) -> None:
        super().__init__(config)
        self._announcement = announcement

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(json.dumps(self._announcement), flush=True)  # noqa: T201 - the launcher reads it

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        yield

    def stop(self) -> None:
        self.should_exit = True


async def serve(options: Options) -> None:
    """Serve until SIGTERM, SIGINT or the death of the parent.

    Raises:
        OSError: If the port is taken or the database is not reachable.
        asyncpg.PostgresError: If the database refuses us or our tables.
        asyncpg.InterfaceError: If the database URL is not one.
    """
    with socket.create_server((options.host, options.port)) as listener:
        async with _tables(options.service, options.database_url) as engine:
            await _serve_on(listener, engine, options)


async def _serve_on(listener: socket.socket, engine: AsyncEngine, options: Options) -> None:
    office = Office(
        service=options.service,
        engine=engine,
        desk=Desk(slow=options.slow),
        latency=options.latency,
    )
    config = uvicorn.Config(
        build_app(office),
        http="h11",
        lifespan="off",
        # A reply that is cut off on purpose is an error to uvicorn.
        log_level="critical",
        access_log=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    url = f"http://{options.host}:{listener.getsockname()[1]}"
    announcement: dict[str, str | int] = {
        "service": options.service.name,
        "url": url,
        "pid": os.getpid(),
    }
    server = _AnnouncingServer(config, announcement)
    watch = asyncio.create_task(_stop_with_parent(server, options.parent_pid))
    try:
        await server.serve(sockets=[listener])
    finally:
        watch.cancel()


@contextlib.asynccontextmanager
async def _tables(service: Service, database_url: str) -> AsyncGenerator[AsyncEngine]:
    """Create the service's tables and open connections that see no others."""
    schema = f"demo_{service.name}"
    conn = await asyncpg.connect(database_url, timeout=_CONNECT_SECONDS)
    try:
        async with conn.transaction():
            await conn.execute(_LOCK_CREATION, schema)
            await conn.execute(await conn.fetchval(_CREATE_SCHEMA, schema))
            await conn.execute("SELECT set_config('search_path', $1, true)", schema)
            await conn.execute(TABLES)
            await conn.execute(service.tables)
    finally:
        await conn.close()
    engine = create_async_engine(
        sqlalchemy_url(database_url),
        pool_size=_CONNECTIONS,
        max_overflow=0,
        pool_pre_ping=True,
        connect_args={
            "timeout": _CONNECT_SECONDS,
            "server_settings": {
                "search_path": schema,
                "application_name": f"eventsaga-{schema}",
            },
        },
    )
    try:
        await create_tables(engine)
        yield engine
    finally:
        await engine.dispose()


async def _stop_with_parent(server: _AnnouncingServer, parent_pid: int) -> None:
    """Stop *server* when the parent is gone, however it died: the kernel gives us another one."""
    while os.getppid() == parent_pid:  # noqa: ASYNC110 - the kernel sets no event
        await asyncio.sleep(_PARENT_SECONDS)
    server.stop()

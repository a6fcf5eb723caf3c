import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta

import httpx
import pytest

from eventsaga.runtime.http import SharedConnections, step_client

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class _Server:
    """Keeps connections open, counts them, and hangs on request."""

    def __init__(self) -> None:
        self.url = ""
        self.connections = 0
        self.together = asyncio.Barrier(5)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if b"/hang" in head:
                    await reader.read()  # until the client gives up
                    return
                if b"/together" in head:
                    await self.together.wait()
                writer.write(_ANSWER)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


@asynccontextmanager
async def _serving() -> AsyncGenerator[tuple[_Server, SharedConnections]]:
    counting = _Server()
    server = await asyncio.start_server(counting.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    counting.url = f"http://{host}:{port}"
    connections = SharedConnections()
    try:
        yield counting, connections
    finally:
        await connections.aclose()
        server.close()


def _client(connections: SharedConnections, seconds: float = 5) -> httpx.AsyncClient:
    return step_client(connections, {}, "key", timedelta(seconds=seconds))


async def test_one_attempt_after_the_other_uses_one_connection() -> None:
    async with _serving() as (server, connections):
        for _ in range(5):
            assert (await _client(connections).post(server.url + "/")).text == "ok"

        assert server.connections == 1


async def test_attempts_at_the_same_time_do_not_wait_for_each_other() -> None:
    async with _serving() as (server, connections):
        calls = (_client(connections).post(server.url + "/together") for _ in range(5))
        await asyncio.gather(*calls)
        await _client(connections).post(server.url + "/")

        assert server.connections == 5


async def test_a_connection_that_was_given_up_is_not_used_again() -> None:
    async with _serving() as (server, connections):
        with pytest.raises(httpx.ReadTimeout):
            await _client(connections, 0.1).post(server.url + "/hang")
        assert (await _client(connections).post(server.url + "/")).text == "ok"

        assert server.connections == 2


async def test_closing_one_attempts_client_leaves_the_others_connected() -> None:
    async with _serving() as (server, connections):
        async with _client(connections) as client:
            await client.post(server.url + "/")
        await _client(connections).post(server.url + "/")

        assert server.connections == 1

"""What does a step send? Requests that carry the keys by which the other side knows them.

All attempts share their connections; each attempt sees them through a client of its own,
which adds the headers.
"""

import ssl
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Final

import httpx

IDEMPOTENCY_KEY: Final = "Idempotency-Key"
CORRELATION_ID: Final = "X-Correlation-ID"

_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_CONNECT_SECONDS: Final = 5.0
_MAX_IDLE: Final = 100  # connections to one origin that wait for the next request

_Origin = tuple[str, str, int | None]


class _KeyedTransport(httpx.AsyncBaseTransport):
    """Numbers the unsafe requests of one attempt and keys each of them.

    The first has the step's key itself, the second ``<key>#2``, and so on: two different
    requests of a step never share a key, and a repeated attempt, which sends them in the
    same order, repeats their keys.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport, key: str) -> None:
        self._transport = transport
        self._key = key
        self._sent = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method not in _SAFE_METHODS and IDEMPOTENCY_KEY not in request.headers:
            self._sent += 1
            suffix = "" if self._sent == 1 else f"#{self._sent}"
            request.headers[IDEMPOTENCY_KEY] = self._key + suffix
        return await self._transport.handle_async_request(request)

    async def aclose(self) -> None:
        """Leave the pool open: other attempts use it."""


class SharedConnections(httpx.AsyncBaseTransport):
    """The connections of all attempts of a process, kept alive between requests.

    httpcore's own pool counts every connection anew for each request, which takes
    milliseconds once there are hundreds. Here each transport holds one connection, and
    the idle ones of an origin wait on a stack: there are as many connections as there
    were requests under way at once.
    """

    def __init__(self) -> None:
        self._idle: defaultdict[_Origin, list[httpx.AsyncHTTPTransport]] = defaultdict(list)
        self._context: ssl.SSLContext | None = None
        self._is_closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send *request* over an idle connection to its origin, or over a new one."""
        origin = (request.url.scheme, request.url.host, request.url.port)
        idle = self._idle[origin]
        transport = idle.pop() if idle else self._opened()
        try:
            response = await transport.handle_async_request(request)
        except BaseException:
            # Who knows what is still on its way: nobody else shall read it.
            await transport.aclose()
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _Returning(response.stream, lambda: self._take_back(origin, transport))
        return response

    async def aclose(self) -> None:
        """Close what is idle now, and everything else when it is."""
        self._is_closed = True
        for transports in self._idle.values():
            for transport in transports:
                await transport.aclose()
        self._idle.clear()

    def _opened(self) -> httpx.AsyncHTTPTransport:
        if self._context is None:
            # Reading the certificates takes longer than a request: once for all.
            self._context = httpx.create_ssl_context()
        one = httpx.Limits(max_connections=1, max_keepalive_connections=1)
        return httpx.AsyncHTTPTransport(verify=self._context, limits=one)

    async def _take_back(self, origin: _Origin, transport: httpx.AsyncHTTPTransport) -> None:
        idle = self._idle[origin]
        if self._is_closed or len(idle) >= _MAX_IDLE:
            await transport.aclose()
        else:
            idle.append(transport)


class _Returning(httpx.AsyncByteStream):
    """The body of a response; its connection is free again when it is closed."""

    def __init__(
        self, stream: httpx.AsyncByteStream, take_back: Callable[[], Awaitable[None]]
    ) -> None:
        self._stream = stream
        self._take_back = take_back
        self._is_closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            yield part

    async def aclose(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            await self._stream.aclose()
            await self._take_back()


def step_client(
    transport: httpx.AsyncBaseTransport, headers: Mapping[str, str], key: str, timeout: timedelta
) -> httpx.AsyncClient:
    """Return the client of one attempt.

    Args:
        transport: The shared pool.
        headers: Sent with every request.
        key: The step's idempotency key.
        timeout: Limit of the attempt. Connecting gets at most half of it, so that an
            address that does not answer ends as "not sent" and not as "in doubt".
    """
    seconds = timeout.total_seconds()
    limits = httpx.Timeout(seconds, connect=min(_CONNECT_SECONDS, seconds / 2))
    return httpx.AsyncClient(
        transport=_KeyedTransport(transport, key), headers=headers, timeout=limits
    )

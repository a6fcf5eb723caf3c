"""What does a step send? Requests that carry the keys by which the other side knows them.

All attempts share one pool of connections; each attempt sees it through a client of its
own, which adds the headers.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Final

import httpx

IDEMPOTENCY_KEY: Final = "Idempotency-Key"
CORRELATION_ID: Final = "X-Correlation-ID"

_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_CONNECT_SECONDS: Final = 5.0


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


def shared_transport(connections: int) -> httpx.AsyncBaseTransport:
    """Return the pool of connections that all attempts of a process share."""
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    return httpx.AsyncHTTPTransport(limits=limits)


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

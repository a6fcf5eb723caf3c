"""How do the requests of a step get to the recorder? With their real destination in a header.

Unlike through a proxy of the usual kind, requests over TLS can be read on their way too.
"""

import os
from typing import Final

import httpx

from eventsaga.runtime.http import SharedConnections

TARGET: Final = "X-Eventsaga-Drill-Target"
PID: Final = "X-Eventsaga-Drill-Pid"
FAILED: Final = "X-Eventsaga-Drill-Failed"
NOT_SENT: Final = "not sent"


def send_through(recorder: str) -> None:
    """Make every step of this process send by *recorder*, from now on."""
    send = SharedConnections.handle_async_request

    async def recorded(self: SharedConnections, request: httpx.Request) -> httpx.Response:
        # As a whole, so that the recorder knows its length beforehand.
        body = await request.aread()
        headers = httpx.Headers(request.headers)
        headers.pop("transfer-encoding", None)
        headers["Content-Length"] = str(len(body))
        headers[TARGET], headers[PID] = str(request.url), str(os.getpid())
        sent = httpx.Request(
            request.method, recorder, headers=headers, content=body, extensions=request.extensions
        )
        response = await send(self, sent)
        failed = response.headers.get(FAILED)
        if failed is None:
            return response
        await response.aclose()
        # What the step would have met without a recorder: not sent, or nobody knows.
        kind = httpx.ConnectError if failed == NOT_SENT else httpx.ReadError
        raise kind(f"{request.url.host} cannot be reached", request=request)

    SharedConnections.handle_async_request = recorded  # type: ignore[method-assign]

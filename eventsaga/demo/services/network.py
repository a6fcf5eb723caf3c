"""What becomes of a request and its reply on their way? They take their time, or get lost."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

WAY: Final = "way"
"""Under this name ``scope["state"]`` holds the `Way` of the reply."""


class Delivery(StrEnum):
    """What becomes of a reply on its way."""

    WHOLE = "whole"
    NEVER = "never"
    CUT = "cut"


@dataclass(slots=True)
class Way:
    """How one reply is delivered; whoever writes the reply says so."""

    delivery: Delivery = Delivery.WHOLE


class Network:
    """ASGI middleware between the callers and a service.

    Args:
        app: The service.
        latency: Added to every unsafe request: half on the way in, half on the way out.
    """

    def __init__(self, app: ASGIApp, latency: timedelta) -> None:
        self._app = app
        self._half = latency.total_seconds() / 2

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Carry one request in and its reply out."""
        if scope["type"] != "http" or scope["method"] == "GET":
            await self._app(scope, receive, send)
            return
        way = Way()

        async def carry(message: Message) -> None:
            is_start = message["type"] == "http.response.start"
            if is_start:
                await asyncio.sleep(self._half)
            if is_start and way.delivery is Delivery.NEVER:
                await _given_up(receive)
            if is_start or way.delivery is Delivery.WHOLE:
                await send(message)
            # The server closes a connection whose response was not completed.

        await asyncio.sleep(self._half)
        await self._app({**scope, "state": {**scope.get("state", {}), WAY: way}}, receive, carry)


async def _given_up(receive: Receive) -> None:
    """Return when the client waits no longer, or the service stops."""
    try:
        while (await receive())["type"] != "http.disconnect":
            pass
    except asyncio.CancelledError:
        return  # a 500 would be an answer

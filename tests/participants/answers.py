"""What do replies mean, and who gives them? Handlers, and eyes for problems."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from eventsaga.participant import current
from eventsaga.participant.asgi import Reply, Scope
from eventsaga.participant.transaction import KeyedRequest
from eventsaga.runtime.outcome import Verdict, judge
from tests.participants.world import (
    told,
    write,
)
from tests.store.barriers import PATIENCE


def verdict(response: httpx.Response) -> Verdict:
    """Return what eventsaga makes of a response."""
    with pytest.raises(httpx.HTTPStatusError) as raised:
        response.raise_for_status()
    return judge(raised.value)


def problem(response: httpx.Response) -> tuple[int, str, str | None]:
    """Return what a problem says: status, code, how long to wait."""
    assert response.headers["content-type"] == "application/problem+json"
    said = response.json()
    assert said["status"] == response.status_code
    return response.status_code, said["code"], response.headers.get("retry-after")


def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each request a lock of its own, so that none keeps another out."""
    numbers = itertools.count()

    def another(_request: KeyedRequest) -> str:
        return str(next(numbers))

    monkeypatch.setattr(KeyedRequest, "lock", property(another))


class Held:
    """A handler that takes effect, says so, and then waits."""

    def __init__(self) -> None:
        self.arrived = asyncio.Semaphore(0)
        self.go_on = asyncio.Event()

    async def __call__(self, _scope: Scope, _body: bytes) -> Reply:
        number = await write(current().session)
        self.arrived.release()
        await asyncio.wait_for(self.go_on.wait(), PATIENCE)
        return told(201, {"id": number})


def refusing(status: int) -> Callable[[Scope, bytes], Any]:
    async def refuse(_scope: Scope, _body: bytes) -> Reply:
        session = current().session
        await write(session, "refused")
        await session.commit()
        await write(session, "refused too")
        return told(status, "refused")

    return refuse

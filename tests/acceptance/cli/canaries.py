"""A saga that uses secrets at every place where a step may have one: ``canaries:sagas``.

They come from the environment, as secrets do, and none is put into the context.
"""

import os
from typing import Any

import httpx
from pydantic import BaseModel

from eventsaga import Retry, Saga, Step, StepContext

_ONCE = Retry(max_attempts=1)


class Order(BaseModel):
    """Where the other side is."""

    url: str


def _secret(name: str) -> str:
    return os.environ[f"SHOP_{name}"]


async def header(order: Order, step: StepContext) -> None:
    headers = {"Authorization": f"Bearer {_secret('TOKEN')}", "Cookie": _secret("COOKIE")}
    (await step.http.get(f"{order.url}/ok", headers=headers)).raise_for_status()


async def query(order: Order, step: StepContext) -> None:
    (await step.http.get(f"{order.url}/no?api_key={_secret('QUERY')}")).raise_for_status()


async def refused(_order: Order, step: StepContext) -> None:
    await step.http.get(f"http://ann:{_secret('USERINFO')}@127.0.0.1:1/x?k={_secret('QUERY')}")


async def cookie(order: Order, step: StepContext) -> dict[str, Any]:
    reply = await step.http.get(f"{order.url}/sets-cookie", auth=("ann", _secret("PASSWORD")))
    raise httpx.HTTPStatusError(str(reply.status_code), request=reply.request, response=reply)


sagas = [
    Saga(step.__name__, context=Order, steps=[Step(step.__name__, step, retry=_ONCE)])
    for step in (header, query, refused, cookie)
]

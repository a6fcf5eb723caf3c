"""What did the steps send, and what was answered? All of it, whoever dies meanwhile.

The recorder stands between the workers and the participants, in the process of the drill. A
worker that is killed with a request under way does not take the reply with it: the
participant still answers, and the recorder still reads it.
"""

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import httpx

from eventsaga.drill.sending import FAILED, NOT_SENT, PID, TARGET
from eventsaga.runtime.http import IDEMPOTENCY_KEY

_REPLAYED: Final = "Idempotent-Replayed"
_PATIENCE_SECONDS: Final = 60.0
_OUR_OWN: Final = frozenset({TARGET.lower(), PID.lower(), "host", "connection", "content-length"})
# Of one connection each: that between recorder and worker has its own.
_OF_A_HOP: Final = frozenset({"connection", "content-length", "keep-alive", "transfer-encoding"})


@dataclass(slots=True)
class Sent:
    """One request, as it reached the participant.

    Attributes:
        at: When it was sent on (UTC).
        method: Such as ``POST``.
        url: Where to.
        key: Its idempotency key; None if it had none.
        pid: The worker process.
        status: What was answered; None if nothing was.
        answered_at: When; None if nothing was.
        replayed: Whether the reply said ``Idempotent-Replayed: true``.
        digest: What tells its reply from another one.
    """

    at: datetime
    method: str
    url: str
    key: str | None
    pid: int
    status: int | None = None
    answered_at: datetime | None = None
    replayed: bool = False
    digest: str = ""

    @property
    def succeeded(self) -> bool:
        """Whether the reply said that it was done."""
        return self.status is not None and httpx.codes.is_success(self.status)


@dataclass(frozen=True, slots=True)
class Keyed:
    """All requests with one idempotency key.

    Attributes:
        key: The key.
        requests: How many reached the participant.
        effects: How often it took effect, as far as the replies tell: 2xx replies that are
            no replay. Of a participant that marks replays each that is not marked counts; of
            any other, each that is different from those before it.
        first_at: When the first reply of an effect came; None if there was none.
    """

    key: str
    requests: int
    effects: int
    first_at: datetime | None


def keyed(sent: Iterable[Sent]) -> list[Keyed]:
    """Return the requests by key, in the order in which the keys came first."""
    by_key: defaultdict[str, list[Sent]] = defaultdict(list)
    for request in sent:
        if request.key is not None:
            by_key[request.key].append(request)
    return [_counted(key, requests) for key, requests in by_key.items()]


def _counted(key: str, requests: list[Sent]) -> Keyed:
    done = [request for request in requests if request.succeeded]
    fresh = [request for request in done if not request.replayed]
    marks = len(fresh) < len(done)
    effects = len(fresh) if marks else len({(r.status, r.digest) for r in fresh})
    at = [request.answered_at for request in fresh if request.answered_at is not None]
    return Keyed(key, len(requests), effects, min(at, default=None))


class Recorder:
    """Sends requests on, and keeps a record of them.

    Attributes:
        url: Where workers send to.
        sent: What came by, in order.
    """

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.url = ""
        self.sent: list[Sent] = []
        self._client = client
        self._tasks: set[asyncio.Task[Any]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take one connection: one request, and its reply."""
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            request = await _read(reader)
            # On its own: it ends although the worker that asked is gone.
            task = asyncio.ensure_future(self._forward(request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            writer.write(await asyncio.shield(task))
            await writer.drain()
        writer.close()

    async def settle(self) -> None:
        """Return when every request that came by was answered or lost."""
        await asyncio.gather(*self._tasks)

    async def close(self) -> None:
        """Give up what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _forward(self, request: httpx.Request) -> bytes:
        record = Sent(
            at=datetime.now(UTC),
            method=request.method,
            url=str(request.url),
            key=request.headers.get(IDEMPOTENCY_KEY),
            pid=int(request.headers[PID]),
        )
        del request.headers[PID]
        self.sent.append(record)
        try:
            response = await self._client.send(request, stream=True)
            # As it came: what is compressed stays so.
            body = b"".join([part async for part in response.aiter_raw()])
            await response.aclose()
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol):
            return _reply(httpx.Response(502, headers={FAILED: NOT_SENT}), b"")
        except httpx.HTTPError:
            return _reply(httpx.Response(502, headers={FAILED: "no answer"}), b"")
        record.answered_at = datetime.now(UTC)
        record.status = response.status_code
        record.replayed = response.headers.get(_REPLAYED, "").lower() == "true"
        record.digest = hashlib.sha256(body).hexdigest()
        return _reply(response, body)


@asynccontextmanager
async def recording() -> AsyncGenerator[Recorder]:
    """Run a recorder on a free port of 127.0.0.1."""
    # No proxies of the environment: a step's own client does not use them either.
    async with httpx.AsyncClient(timeout=_PATIENCE_SECONDS, trust_env=False) as client:
        recorder = Recorder(client)
        server = await asyncio.start_server(recorder.serve, "127.0.0.1", 0)
        try:
            host, port = server.sockets[0].getsockname()
            recorder.url = f"http://{host}:{port}/"
            yield recorder
        finally:
            server.close()
            await recorder.close()


async def _read(reader: asyncio.StreamReader) -> httpx.Request:
    """Return the request, with the destination that it has in truth.

    It comes from `eventsaga.drill.sending`, so it is known how it is written.
    """
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.splitlines()[:-1]
    pairs = [line.partition(": ") for line in lines]
    headers = httpx.Headers([(name, value) for name, _, value in pairs])
    body = await reader.readexactly(int(headers["Content-Length"]))
    kept = [(name, value) for name, value in headers.multi_items() if name not in _OUR_OWN]
    request = httpx.Request(first.split()[0], headers[TARGET], headers=kept, content=body)
    request.headers[PID] = headers[PID]
    return request


def _reply(response: httpx.Response, body: bytes) -> bytes:
    lines = [f"HTTP/1.1 {response.status_code} {response.reason_phrase}"]
    lines += [f"{n}: {v}" for n, v in response.headers.multi_items() if n not in _OF_A_HOP]
    lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body

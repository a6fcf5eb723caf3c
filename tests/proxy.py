"""What can happen on the way to PostgreSQL? A proxy that loses messages at a chosen one.

It stands on 127.0.0.1 before a server and knows just enough of the protocol (message frames,
the texts of prepared statements) to see which statement is being executed:

    async with Proxy(database) as proxy, PostgresStore(proxy.url, settings) as store:
        fault = proxy.arm(Loss.ANSWER, "UPDATE eventsaga.sagas", held=True)
        ...                             # the store sends such a statement
        await fault.done.wait()         # PostgreSQL has committed it, the store does not know
        ...                             # whatever shall happen in between
        fault.go_on.set()               # the store's connection is dropped

Each fault strikes once, on the next statement that contains its text, over all connections.
`cut` and `mend` make PostgreSQL unreachable and reachable again; `stall` keeps all connections
open and lets nothing pass, until `mend`.
"""

import asyncio
import contextlib
import struct
from asyncio import StreamReader, StreamWriter
from dataclasses import dataclass, field
from enum import Enum, auto
from types import TracebackType
from typing import Final, Self

from sqlalchemy import URL, make_url

_ENCRYPTION_REQUESTS: Final = {80877103, 80877104}
_CANCEL_REQUEST: Final = 80877102
_GONE: Final = (ConnectionError, asyncio.IncompleteReadError)


class Loss(Enum):
    """What gets lost.

    `REQUEST`: the statement; the connection drops before PostgreSQL sees it.
    `ANSWER`: the answer; the connection drops after PostgreSQL has committed.
    `SILENCE`: the answer, and the connection stays open and silent for ever.
    `DELAY`: time; the statement arrives when `Fault.go_on` is set, even if nobody waits for
    its answer any more.
    """

    REQUEST = auto()
    ANSWER = auto()
    SILENCE = auto()
    DELAY = auto()


@dataclass(eq=False)
class Fault:
    """One loss.

    Attributes:
        loss: What gets lost.
        text: Part of the statement that it strikes.
        struck: Set when such a statement was sent.
        done: Set when PostgreSQL has answered it; never for `Loss.REQUEST`.
        go_on: What follows waits for it: the drop of the connection, or a delayed statement.
    """

    loss: Loss
    text: str
    struck: asyncio.Event = field(default_factory=asyncio.Event)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)


class Proxy:
    """A way to the server at *url* that can be broken.

    Attributes:
        url: The same database, over this way.
        executed: Texts of all statements that were sent, in order.
        loses_cancels: Whether requests to cancel a statement, which drivers send after a
            timeout over a connection of their own, get lost too.
        flowing: Set while messages pass.
    """

    def __init__(self, url: str) -> None:
        self.executed: list[str] = []
        self.loses_cancels = False
        self.flowing = asyncio.Event()
        self._target = make_url(url)
        self._faults: list[Fault] = []
        self._links: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """The database, by way of the proxy."""
        url = self._target.set(host="127.0.0.1", port=self._port, query={})
        return url.render_as_string(hide_password=False)

    async def __aenter__(self) -> Self:
        await self.mend()
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None
    ) -> None:
        await self.cut()

    def arm(self, loss: Loss, text: str, *, held: bool = False) -> Fault:
        """Lose *loss* at the next statement that contains *text*.

        Args:
            loss: What to lose.
            text: Part of a statement.
            held: Whether to wait for `Fault.go_on` before the loss becomes known.
        """
        fault = Fault(loss, text)
        if not held:
            fault.go_on.set()
        self._faults.append(fault)
        return fault

    async def cut(self) -> None:
        """Drop all connections, and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    def stall(self) -> None:
        """Let nothing pass, either way, and close nothing: a network that swallows packets."""
        self.flowing.clear()

    async def mend(self) -> None:
        """Take connections (again), and let pass what is under way."""
        self.flowing.set()
        if self._server is not None:
            return
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    def take_fault(self, statement: str) -> Fault | None:
        """Return the fault that strikes *statement*, if one does; it does not strike again."""
        self.executed.append(statement)
        for fault in self._faults:
            if fault.text in statement:
                self._faults.remove(fault)
                fault.struck.set()
                return fault
        return None

    async def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        try:
            server = await _connect(self._target)
            await _Link(self, (reader, writer), server).run()
        except (*_GONE, asyncio.CancelledError):
            pass  # both ends are closed below, which is all that is left to do
        finally:
            self._links.discard(task)
            writer.transport.abort()


async def _connect(target: URL) -> tuple[StreamReader, StreamWriter]:
    host = str(target.query.get("host") or target.host or "127.0.0.1")
    port = int(str(target.query.get("port") or target.port or 5432))
    if host.startswith("/"):
        return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
    return await asyncio.open_connection(host, port)


class _Link:
    """One client's connection and ours to the server."""

    def __init__(
        self,
        proxy: Proxy,
        client: tuple[StreamReader, StreamWriter],
        server: tuple[StreamReader, StreamWriter],
    ) -> None:
        self._proxy = proxy
        self._client, self._to_client = client
        self._server, self._to_server = server
        self._statements: dict[bytes, str] = {}
        self._fault: Fault | None = None

    async def run(self) -> None:
        """Carry messages both ways until one end is gone."""
        answers = asyncio.create_task(self._carry_answers())
        try:
            with contextlib.suppress(*_GONE):
                await self._open()
                await self._carry_requests()
            fault = self._fault
            if fault is not None and fault.loss in (Loss.SILENCE, Loss.DELAY):
                # The client has given up, the statement has not.
                await fault.done.wait()
        finally:
            answers.cancel()
            self._to_server.transport.abort()
            await asyncio.gather(answers, return_exceptions=True)

    async def _open(self) -> None:
        while True:
            head = await self._client.readexactly(8)
            length, code = struct.unpack("!ii", head)
            rest = await self._client.readexactly(length - 8)
            if code not in _ENCRYPTION_REQUESTS:
                break
            self._to_client.write(b"N")
        if code == _CANCEL_REQUEST and self._proxy.loses_cancels:
            raise ConnectionAbortedError
        await self._proxy.flowing.wait()
        self._to_server.write(head + rest)

    async def _carry_requests(self) -> None:
        while True:
            kind, frame = await _read_frame(self._client)
            await self._proxy.flowing.wait()
            fault = self._proxy_sees(kind, frame)
            if fault is None:
                self._to_server.write(frame)
                continue
            # The rest of the request is in hand before anything happens to it.
            while kind not in (b"S", b"Q"):
                kind, more = await _read_frame(self._client)
                frame += more
            await self._strike(fault, frame)

    async def _strike(self, fault: Fault, request: bytes) -> None:
        if fault.loss in (Loss.REQUEST, Loss.DELAY):
            await fault.go_on.wait()
        if fault.loss is Loss.REQUEST:
            raise ConnectionAbortedError
        self._fault = fault
        self._to_server.write(request)

    async def _carry_answers(self) -> None:
        with contextlib.suppress(*_GONE):
            while True:
                kind, frame = await _read_frame(self._server)
                await self._proxy.flowing.wait()
                fault = self._fault
                if fault is None or fault.loss is Loss.DELAY:
                    self._to_client.write(frame)
                if fault is not None and kind == b"Z":
                    await self._answered(fault)
        # The server is gone, or the answer is lost: so is the client's connection.
        self._to_client.transport.abort()

    async def _answered(self, fault: Fault) -> None:
        fault.done.set()
        if fault.loss is Loss.ANSWER:
            await fault.go_on.wait()
            raise ConnectionAbortedError
        if fault.loss is Loss.DELAY:
            self._fault = None

    def _proxy_sees(self, kind: bytes, frame: bytes) -> Fault | None:
        body = frame[5:]
        if kind == b"P":
            name, text, _ = body.split(b"\0", 2)
            self._statements[name] = text.decode()
        elif kind == b"B":
            _portal, name, _ = body.split(b"\0", 2)
            return self._proxy.take_fault(self._statements[name])
        elif kind == b"Q":
            return self._proxy.take_fault(body.rstrip(b"\0").decode())
        return None


async def _read_frame(reader: StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readexactly(5)
    length: int = struct.unpack("!i", head[1:])[0]
    return head[:1], head + await reader.readexactly(length - 4)

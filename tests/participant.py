"""The other side of HTTP steps: a real server that answers by a script and remembers all.

The script says, per path, how the first, second … request is answered; the last answer is
repeated. Nothing is mocked: connections are really refused, cut and left hanging.
"""

import asyncio
import re
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Answer:
    """How one request is answered.

    Attributes:
        status: Status code.
        headers: Sent along.
        body: JSON text.
        cut: Close the connection instead of answering.
        until: Answer only when this is set.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict[str, str])
    body: str = "{}"
    cut: bool = False
    until: asyncio.Event | None = None


@dataclass(frozen=True)
class Seen:
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]

    @property
    def key(self) -> str:
        """Its idempotency key."""
        return self.headers["idempotency-key"]


@dataclass
class Participant:
    """A running server.

    Attributes:
        url: Where it listens.
        script: Answers by path.
        seen: All requests, in order.
    """

    url: str = ""
    script: dict[str, Sequence[Answer]] = field(default_factory=dict[str, Sequence[Answer]])
    seen: list[Seen] = field(default_factory=list[Seen])
    _counts: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))

    def keys(self, path: str) -> list[str]:
        """Return the keys under which *path* was asked for, in order."""
        return [request.key for request in self.seen if request.path == path]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and close."""
        try:
            answer = await self._answer(reader)
            if not answer.cut:
                lines = [f"HTTP/1.1 {answer.status} Scripted", "Connection: close"]
                lines += [f"{name}: {value}" for name, value in answer.headers.items()]
                lines += [f"Content-Length: {len(answer.body)}", "", answer.body]
                writer.write("\r\n".join(lines).encode())
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client gave up
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> Answer:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *rest = head.rstrip().split("\r\n")
        method, path, _ = first.split(" ")
        headers = {
            name.lower(): value for name, value in (line.split(": ", 1) for line in rest if line)
        }
        length = re.fullmatch(r"\d+", headers.get("content-length", "0"))
        await reader.readexactly(int(length.group()) if length else 0)
        self.seen.append(Seen(method, path, headers))
        answers = self.script.get(path, (Answer(),))
        number = min(self._counts[path], len(answers) - 1)
        self._counts[path] += 1
        answer = answers[number]
        if answer.until is not None:
            await answer.until.wait()
        return answer


@asynccontextmanager
async def running() -> AsyncGenerator[Participant]:
    """Serve a participant on a free port of 127.0.0.1."""
    participant = Participant()
    server = await asyncio.start_server(participant.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    participant.url = f"http://{host}:{port}"
    try:
        yield participant
    finally:
        server.close()

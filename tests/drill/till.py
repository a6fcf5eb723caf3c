"""Where do the sagas of these tests pay? At a till that counts, and may not look at keys."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count


@dataclass
class Till:
    """A server on a free port.

    Attributes:
        heeds_keys: Whether a key is honoured, and its first reply given again.
        url: Where it listens.
        charged: Keys of the charges that were made, in order.
        refunded: The same of what was given back.
    """

    heeds_keys: bool = True
    url: str = ""
    charged: list[str] = field(default_factory=list[str])
    refunded: list[str] = field(default_factory=list[str])
    _replies: dict[str, str] = field(default_factory=dict[str, str])
    _numbers: "count[int]" = field(default_factory=count)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and close."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.rstrip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (x.partition(": ") for x in lines)}
        path, key = first.split(" ")[1], headers["idempotency-key"]
        if not (self.heeds_keys and key in self._replies):
            (self.charged if path == "/charge" else self.refunded).append(key)
            self._replies[key] = f'{{"receipt": "{next(self._numbers)}"}}'
        body = self._replies[key]
        lines = ["HTTP/1.1 200 OK", "Connection: close", f"Content-Length: {len(body)}", "", body]
        writer.write("\r\n".join(lines).encode())
        await writer.drain()
        writer.close()


@asynccontextmanager
async def open_till(*, heeds_keys: bool) -> AsyncGenerator[Till]:
    """Run a till while the block runs."""
    till = Till(heeds_keys)
    server = await asyncio.start_server(till.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    till.url = f"http://{host}:{port}"
    try:
        yield till
    finally:
        server.close()

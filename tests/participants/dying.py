"""A process that serves one request and kills itself on the way: ``dying URL MOMENT``."""

import asyncio
import os
import signal
import sys

from eventsaga.participant import IdempotencyMiddleware, current
from eventsaga.participant.asgi import Message, Receive, Scope, Send
from tests.participants.world import scope_of, told, whole, write


def die() -> None:
    """Be gone, without another word to anybody."""
    os.kill(os.getpid(), signal.SIGKILL)


async def main(url: str, moment: str) -> None:
    """Serve one request."""

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        await write(current().session)
        if moment == "written":
            die()
        await told(201, "from the dead").send(send)

    async def send(_message: Message) -> None:
        die()  # committed, and nothing sent yet

    await IdempotencyMiddleware(app, url)(scope_of(), whole(), send)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

"""How does a file of orders run? As it is read, so many at a time, and each order once."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from typing import Final

import asyncpg
from rich.console import Console

from eventsaga.client import Orchestrator, SagaHandle
from eventsaga.demo.around import After, look_around
from eventsaga.demo.crew import SETTINGS
from eventsaga.demo.lines import BadLineError, Line, Source
from eventsaga.demo.order import SLOW_PAYMENT, Order, OrderRequest, ServiceUrls, order_saga
from eventsaga.demo.place import Place, stream_place
from eventsaga.demo.report import write_json
from eventsaga.demo.services import EFFECTS_APPLIED_TWICE, running_services
from eventsaga.demo.tally import Tally
from eventsaga.embedded import EmbeddedPostgres
from eventsaga.errors import EventSagaError, KeyConflictError, PayloadError

AT_ONCE: Final = 32


async def run_stream(
    source: Source, postgres: EmbeddedPostgres, console: Console, *, as_json: bool, after: After
) -> int:
    """Run the orders of *source*, and return 0 if all lines were good, 1 if not.

    Args:
        source: Where the orders stand.
        postgres: The server.
        console: Where people read the summary; the rest goes to standard error.
        as_json: Whether one JSON document goes to standard output.
        after: What happens then.
    """
    began = time.monotonic()
    tally = Tally(source, Console(stderr=True, highlight=False))
    async with _opened(postgres) as (place, orchestrator):
        with tally.progress():
            await _Stream(orchestrator, tally).run(source)
        twice = await _applied_twice(place)
        seconds = time.monotonic() - began
        tally.tell(console, twice, seconds)
        if as_json:
            write_json({**tally.to_json(twice, seconds), "database_url": place.url})
        if after is not After.END:
            await look_around(console, place, tally.shown, after)
    return 1 if tally.bad or twice else 0


@contextlib.asynccontextmanager
async def _opened(postgres: EmbeddedPostgres) -> AsyncGenerator[tuple[Place, Orchestrator]]:
    async with (
        stream_place(postgres) as place,
        running_services(place.url, slow=SLOW_PAYMENT) as services,
    ):
        saga = order_saga(ServiceUrls(**services.urls))
        async with Orchestrator(place.url, [saga], settings=SETTINGS) as orchestrator:
            yield place, orchestrator


async def _applied_twice(place: Place) -> int:
    """Return how many effects the ledgers have more than once."""
    db = await asyncpg.connect(place.url)
    try:
        return len(await db.fetch(EFFECTS_APPLIED_TWICE))
    finally:
        db.terminate()


class _Stream:
    """Orders on their way: read, started, and waited for.

    Args:
        orchestrator: Runs them, in this process.
        tally: Is told of each line.
    """

    def __init__(self, orchestrator: Orchestrator, tally: Tally) -> None:
        self._orchestrator = orchestrator
        self._tally = tally
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._starting: dict[str, asyncio.Event] = {}

    async def run(self, source: Source) -> None:
        """Run everything that *source* has.

        Raises:
            EventSagaError: If the database is gone.
        """
        try:
            async with asyncio.TaskGroup() as group:
                async for line in source.lines():
                    order = self._parsed(line)
                    if order is not None:
                        await self._slots.acquire()
                        group.create_task(self._run_one(line, order, await self._turn(order)))
        except* EventSagaError as failures:
            raise _first(failures) from None

    def _parsed(self, line: Line) -> OrderRequest | None:
        try:
            order = line.parse()
        except BadLineError as error:
            self._tally.refuse(line, str(error))
            return None
        self._tally.take(line, blank=order is None)
        return order

    async def _turn(self, order: OrderRequest) -> asyncio.Event:
        """Wait for an earlier line of the same order to be started: the first one counts."""
        while (earlier := self._starting.get(order.order_id)) is not None:
            await earlier.wait()
        self._starting[order.order_id] = asyncio.Event()
        return self._starting[order.order_id]

    async def _run_one(self, line: Line, order: OrderRequest, started: asyncio.Event) -> None:
        try:
            try:
                handle = await self._start(line, order)
            finally:
                del self._starting[order.order_id]
                started.set()
            if handle is not None:
                self._tally.end(line, order, await handle.result(), created=handle.created)
        finally:
            self._slots.release()

    async def _start(self, line: Line, order: OrderRequest) -> SagaHandle | None:
        context = Order.model_validate(order.model_dump())
        try:
            return await self._orchestrator.start("order", context, key=order.order_id)
        except KeyConflictError as error:
            known = f"order_id {order.order_id} has another content in saga {error.saga_id}"
            self._tally.refuse(line, f"{known}, which was started before")
        except PayloadError as error:
            self._tally.refuse(line, str(error))
        return None


def _first(failures: BaseExceptionGroup[EventSagaError]) -> EventSagaError:
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first

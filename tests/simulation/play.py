"""What happens in one simulation? A few processes, a few sagas, many faults, all from one seed.

After a while the faults stop. Then everything must come to rest within the time that is
promised, and what the tables say must be what the participant did.
"""

import asyncio
import contextlib
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, TypeVar
from unittest import mock
from uuid import UUID

from eventsaga import Orchestrator, Saga, SagaHandle, Settings
from eventsaga.errors import EventSagaError
from eventsaga.testing.virtual import VirtualClock
from tests.simulation.judge import judged, rests
from tests.simulation.loop import PROCESS, ProcessLoop
from tests.simulation.server import RemoteStore, Tables, Weather
from tests.simulation.world import SHAPES, Participant, Work

_SETTINGS: Final = Settings(
    poll=timedelta(seconds=2),
    release_after=timedelta(seconds=2),
    poison_claims=1000,
    append_writers=2,
    append_batch=3,
)
_WORKERS: Final = 2
_STORM_SECONDS: Final = 20.0
# After the last fault: a lease, and the longest chain of pauses between attempts.
_CALM_SECONDS: Final = 400.0

_Answer = TypeVar("_Answer")


@dataclass
class Played:
    """How a simulation ended.

    Attributes:
        seed: Of all lots.
        violations: What must not be.
        log: What was done to whom, with the virtual time.
        endings: How many sagas ended how.
        faults: How often what was done.
    """

    seed: int
    violations: list[str] = field(default_factory=list[str])
    log: list[str] = field(default_factory=list[str])
    endings: Counter[str] = field(default_factory=Counter[str])
    faults: Counter[str] = field(default_factory=Counter[str])


class _Play:
    def __init__(self, loop: ProcessLoop, seed: int) -> None:
        self.played = Played(seed)
        self._loop = loop
        self._lots = random.Random(seed)  # noqa: S311 - a simulation
        self._clock = VirtualClock(loop)
        self._tables = Tables(self._clock.now)
        self._weather = Weather(
            random.Random(seed + 1),  # noqa: S311
            trouble=self._lots.choice((0.0, 0.02, 0.1, 0.3)),
            slow=self._lots.choice((0.0, 0.05, 0.2)),
        )
        self._participant = SHAPES.participant = Participant(
            random.Random(seed + 2),  # noqa: S311
            self._weather,
            refusals=self._lots.choice((0.0, 0.1, 0.3)),
            overload=self._lots.choice((0.0, 0.1)),
        )
        chosen = self._lots.sample(SHAPES.names, 2)
        self._sagas = [SHAPES.kid, *map(SHAPES.saga, chosen)]
        self._born = 0
        self._living: list[int] = []
        self._lives: list[asyncio.Task[None]] = []
        self._started: list[UUID] = []

    # -- processes -------------------------------------------------------------------------

    def _spawn(self) -> None:
        """Start a worker process; it lives until it is killed."""
        self._born += 1
        process = self._born
        self._living.append(process)
        token = PROCESS.set(process)
        try:
            self._lives.append(self._loop.create_task(self._life()))
        finally:
            PROCESS.reset(token)

    async def _life(self) -> None:
        while True:
            orchestrator = self._orchestrator(worker=True)
            with contextlib.suppress(EventSagaError):
                async with orchestrator:
                    await self._loop.create_future()
            await asyncio.sleep(0.5)  # it could not be opened

    def _orchestrator(self, *, worker: bool) -> Orchestrator:
        store: Any = RemoteStore(self._tables, self._weather, _SETTINGS)
        return Orchestrator(
            store, self._sagas, worker=worker, settings=_SETTINGS, clock=self._clock
        )

    def _strike(self) -> None:
        """Do something to somebody."""
        what = self._lots.choice(("kill", "kill", "freeze", "cut", "down", "nothing"))
        seconds = self._lots.choice((0.5, 3.0, 11.0, 14.0))
        process = self._lots.choice(self._living)
        self.played.log.append(f"{self._loop.time():8.3f} {what} {process} for {seconds}")
        self.played.faults[what] += 1
        match what:
            case "kill":
                self._loop.kill(process)
                self._living.remove(process)
                self._loop.call_later(seconds if self._living else 0.5, self._spawn)
                if not self._living:
                    self._spawn()
            case "freeze":
                self._loop.freeze(process)
                self._loop.call_later(seconds, self._loop.thaw, process)
            case "cut":
                self._weather.cut.add(process)
                self._loop.call_later(seconds, self._weather.cut.discard, process)
            case "down":
                self._weather.down = True
                self._loop.call_later(min(seconds, 3.0), self._weather.back_up)
            case _:
                pass

    # -- the outside -----------------------------------------------------------------------

    async def _client(self) -> None:
        """Start sagas, and meddle with them."""
        async with contextlib.AsyncExitStack() as stack:
            client = self._orchestrator(worker=False)
            await self._insist(lambda: stack.enter_async_context(client))
            for number in range(self._lots.randint(2, 5)):
                await asyncio.sleep(self._lots.uniform(0, 3))
                await self._start(client, self._lots.choice(self._sagas[1:]), number)
                for _ in range(self._lots.randint(0, 2)):
                    await asyncio.sleep(self._lots.uniform(0, 4))
                    with contextlib.suppress(EventSagaError, TimeoutError):
                        await self._meddle(client, self._lots.choice(self._started))

    async def _start(self, client: Orchestrator, saga: Saga[Work], number: int) -> None:
        async def start() -> SagaHandle:
            return await client.start(saga, Work(number=number), key=f"k{number}")

        handle = await self._insist(start)
        self._started.append(handle.id)
        again = await self._insist(start)
        if again.id != handle.id:
            self.played.violations.append(f"one key, two sagas: {handle.id}, {again.id}")

    async def _insist(self, ask: Callable[[], Awaitable[_Answer]]) -> _Answer:
        while True:
            try:
                return await ask()
            except EventSagaError:
                await asyncio.sleep(0.3)

    async def _meddle(self, client: Orchestrator, saga_id: UUID) -> None:
        match self._lots.choice(("cancel", "go", "go", "retry", "undo")):
            case "cancel":
                await client.cancel(saga_id, "no more", timeout=1)
            case "go":
                await client.signal(saga_id, "go", {})
            case "retry":
                await client.retry(saga_id, reason="again", actor="sim", timeout=1)
            case _:
                await client.undo(saga_id, reason="back", actor="sim", timeout=1)

    # -- the whole -------------------------------------------------------------------------

    async def play(self) -> Played:
        """Let it storm, let it calm down, and judge."""
        for _ in range(_WORKERS):
            self._spawn()
        client = asyncio.create_task(self._client())
        for _ in range(self._lots.randint(1, 5)):
            await asyncio.sleep(self._lots.uniform(0, 6))
            self._strike()
        await asyncio.sleep(max(0.0, _STORM_SECONDS - self._loop.time()))
        self._weather.clear_up()
        await client
        calm = self._loop.time() + _CALM_SECONDS
        while self._loop.time() < calm and not all(map(rests, self._tables.rows)):  # noqa: ASYNC110 - virtual
            await asyncio.sleep(5)
        await asyncio.sleep(12)  # what is still on its way arrives
        definitions = {saga.name: saga.definition for saga in self._sagas}
        self.played.violations += await judged(self._tables, self._participant, definitions)
        self.played.violations += self._loop.unexpected
        self.played.endings.update(row["status"] for row in self._tables.rows)
        return self.played


@contextlib.contextmanager
def _seeded(seed: int) -> Generator[None]:
    """Draw everything that the engine draws from one seed: ids, salts, jitter, time of day."""
    lots = random.Random(seed + 3)  # noqa: S311
    before = random.getstate()
    random.seed(seed + 4)
    ticks = iter(range(1_700_000_000_000_000_000, 1 << 63, 1_000_000))
    with (
        mock.patch.object(os, "urandom", lots.randbytes),
        mock.patch("eventsaga.identity.time.time_ns", side_effect=ticks),
        mock.patch("eventsaga.runtime.lease.this_process", return_value=None),
    ):
        yield
    random.setstate(before)


def play(seed: int) -> Played:
    """Play one simulation."""
    with _seeded(seed):
        loop = ProcessLoop(random.Random(seed + 5))  # noqa: S311
        asyncio.set_event_loop(loop)
        try:
            return loop.run_until_complete(_Play(loop, seed).play())
        finally:
            asyncio.set_event_loop(None)
            loop.close()

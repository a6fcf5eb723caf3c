"""What would my saga do? The whole engine on a store in memory, in virtual time.

simulator = Simulator(order_saga, outcomes={"charge": PermanentError("declined")})
simulated = simulator.run(Order(...))
assert simulated.status is Status.COMPENSATED
print(simulated.timeline())
"""

import asyncio
import contextlib
import random
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Self

from pydantic import BaseModel

from eventsaga.client import Orchestrator, SagaHandle, SagaState
from eventsaga.client.view import view
from eventsaga.core.evolve import replay
from eventsaga.core.grammar import first_violation
from eventsaga.core.state import State, Status
from eventsaga.observe.timeline import timeline
from eventsaga.saga import Saga
from eventsaga.settings import Settings
from eventsaga.store.ports import DefinitionKey, StoredEvent
from eventsaga.testing.memory import Crash, MemoryStore
from eventsaga.testing.virtual import VirtualClock, VirtualLoop
from eventsaga.testing.world import Effect, Fault, Outcomes, World, stands

# One worker at a time and nothing to wait for: hours between heartbeats cost nobody anything.
_SETTINGS: Final = Settings(
    heartbeat=timedelta(hours=1),
    lease=timedelta(hours=4),
    lease_margin=timedelta(seconds=1),
    poll=timedelta(hours=1),
    release_after=timedelta(days=40_000),
    drain_timeout=timedelta(seconds=1),
)
# A worker that died is noticed after so long; see `Settings.lease`.
_TAKEOVER: Final = 10.0
_KEY: Final = "simulated"

Script = Callable[[SagaHandle], Awaitable[object]]
"""What somebody outside does meanwhile: ``async def script(handle): …``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """How a simulated saga ended.

    Attributes:
        state: Where it stands, with the context model.
        history: Its events.
        effects: What participants did, in order, once for each key.
        calls: How many attempts reached a participant.
        appends: How often a worker wrote.
    """

    state: SagaState[Any]
    history: tuple[StoredEvent, ...]
    effects: tuple[Effect, ...]
    calls: int
    appends: int

    @property
    def status(self) -> Status:
        """Where the saga stands as a whole."""
        return self.state.status

    @property
    def context(self) -> Any:
        """The context model."""
        return self.state.context

    def stands(self, step: str) -> bool:
        """Whether the effect of *step* happened and was not undone."""
        return stands(self.effects, State(self.state.saga_id), step)

    def timeline(self) -> str:
        """Return what happened, one line an attempt, with seconds since the start."""
        begun = self.history[0].event.at
        lines: list[str] = []
        for line in timeline(self.history):
            seconds = (line.at - begun).total_seconds()
            parts = (line.step or "", line.operation or "", line.outcome, line.detail)
            lines.append(f"{seconds:10.3f}  " + "  ".join(part for part in parts if part))
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Plan:
    """What goes wrong in a run, by the number of the attempt and of the append."""

    attempts: Mapping[int, Fault]
    appends: Mapping[int, Crash]


NO_FAULTS: Final = Plan({}, {})


class Simulator:
    """Runs a saga without PostgreSQL and without waiting.

    Args:
        saga: What to run; its children run too.
        outcomes: What steps answer; see `eventsaga.testing.Outcomes`. Functions of the saga
            itself are not called, so nothing real is reached.
        honest: Whether participants honour idempotency keys.
        seed: Of the jitter of retries.
    """

    def __init__(
        self,
        saga: Saga[Any],
        outcomes: Outcomes | None = None,
        *,
        honest: bool = True,
        seed: int = 0,
    ) -> None:
        self._saga = saga
        self._outcomes = outcomes or {}
        self._honest = honest
        self._seed = seed

    def run(
        self,
        context: BaseModel | Mapping[str, Any],
        script: Script | None = None,
        *,
        until: timedelta = timedelta(days=365),
        plan: Plan = NO_FAULTS,
    ) -> Simulated:
        """Run the saga to its end, or until it is parked.

        Args:
            context: Its input.
            script: What somebody outside does meanwhile, for example a signal after an
                ``asyncio.sleep``, which passes in virtual time.
            until: The longest time to simulate; then it is returned as it stands.
            plan: What goes wrong.

        Raises:
            AssertionError: If the engine broke its own rules: please report it.
        """
        return _in_loop(lambda loop: self._played(loop, context, script, until, plan), self._seed)

    async def _played(
        self,
        loop: VirtualLoop,
        context: BaseModel | Mapping[str, Any],
        script: Script | None,
        until: timedelta,
        plan: Plan,
    ) -> Simulated:
        stage = _Stage(loop, self._saga, self._outcomes, plan, honest=self._honest)
        async with stage:
            handle = await stage.started(context)
            acting = None if script is None else asyncio.create_task(_acted(script, handle))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(until.total_seconds()):
                    await stage.settled(handle, acting)
            if acting is not None:
                acting.cancel()
                results = await asyncio.gather(acting, return_exceptions=True)
                _raise_first(results)
            return await stage.simulated(handle)


async def _acted(script: Script, handle: SagaHandle) -> None:
    await script(handle)


def _raise_first(results: Sequence[object]) -> None:
    for result in results:
        if isinstance(result, Exception):
            raise result


class _Stage:
    """A store, participants, and one worker after the other."""

    def __init__(
        self, loop: VirtualLoop, saga: Saga[Any], outcomes: Outcomes, plan: Plan, *, honest: bool
    ) -> None:
        self._clock = VirtualClock(loop)
        self._world = World(outcomes, self._clock.now, fault=plan.attempts.get, honest=honest)
        self._saga = self._world.scripted(saga)
        self._died = asyncio.Event()
        self._store = MemoryStore(
            self._clock.now, crash=plan.appends.get, crashed=lambda _worker: self._died.set()
        )
        self._orchestrator = self._new()

    def _new(self) -> Orchestrator:
        return Orchestrator(self._store, [self._saga], settings=_SETTINGS, clock=self._clock)

    async def __aenter__(self) -> Self:
        await self._orchestrator.__aenter__()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._orchestrator.vanish()

    async def started(self, context: BaseModel | Mapping[str, Any]) -> SagaHandle:
        """Start the saga; a client whose worker died starts it again, with the same key."""
        while True:
            starting = asyncio.ensure_future(
                self._orchestrator.start(self._saga, context, key=_KEY)
            )
            if await self._survived(starting):
                return await starting
            starting.cancel()

    async def settled(self, handle: SagaHandle, acting: asyncio.Task[None] | None) -> None:
        """Wait until the saga has settled and nobody outside has anything to do."""
        while True:
            waiting = asyncio.ensure_future(self._orchestrator.wait(handle.id))
            if await self._survived(waiting):
                if acting is None or acting.done():
                    return
                await asyncio.wait({acting})
            else:
                waiting.cancel()

    async def _survived(self, task: "asyncio.Future[Any]") -> bool:
        """Wait for *task*; if the worker dies before, replace it and return False."""
        died = asyncio.ensure_future(self._died.wait())
        await asyncio.wait({task, died}, return_when=asyncio.FIRST_COMPLETED)
        if not self._died.is_set():
            died.cancel()
            return True
        self._died.clear()
        await self._orchestrator.vanish()
        await asyncio.sleep(_TAKEOVER)
        self._store.expire_leases()
        self._orchestrator = self._new()
        await self._orchestrator.__aenter__()
        return False

    async def simulated(self, handle: SagaHandle) -> Simulated:
        """Return how the saga ended."""
        self._world.land_late()
        history = await self._store.history(handle.id)
        events = [stored.event for stored in history]
        violation = first_violation(events)
        assert violation is None, f"the engine broke its own rules: {violation}"
        state = replay(events, State(handle.id))
        key: DefinitionKey = (state.saga_name, state.version, state.fingerprint)
        return Simulated(
            state=view(state, {key: self._saga}),
            history=history,
            effects=tuple(self._world.effects),
            calls=self._world.calls,
            appends=self._store.appends,
        )


def _in_loop(play: Callable[[VirtualLoop], Awaitable[Simulated]], seed: int) -> Simulated:
    """Run *play* in a loop of its own, also for a caller that has one."""
    before = random.getstate()
    random.seed(seed)
    try:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return _run(play)
        results: list[Simulated | BaseException] = []
        thread = threading.Thread(target=_collect, args=(play, results), daemon=True)
        thread.start()
        thread.join()
        (result,) = results
        if isinstance(result, BaseException):
            raise result
        return result
    finally:
        random.setstate(before)


def _collect(
    play: Callable[[VirtualLoop], Awaitable[Simulated]],
    results: list[Simulated | BaseException],
) -> None:
    try:
        results.append(_run(play))
    except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
        results.append(error)


def _run(play: Callable[[VirtualLoop], Awaitable[Simulated]]) -> Simulated:
    loop = VirtualLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(_awaited(play(loop)))


async def _awaited(played: Awaitable[Simulated]) -> Simulated:
    return await played

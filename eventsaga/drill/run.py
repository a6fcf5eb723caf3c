"""How does one run go? A saga starts, its worker suffers, others take over, and it is judged."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from eventsaga.client import Orchestrator, SagaHandle
from eventsaga.drill.boundary import CUT, Passing
from eventsaga.drill.errors import DrillError, WorkerEndedError
from eventsaga.drill.judge import Finding, judge
from eventsaga.drill.plan import Case, Mode, Point
from eventsaga.drill.process import LEASE, WorkerProcess
from eventsaga.drill.recorder import Recorder, recording
from eventsaga.drill.report import Outcome, Result, fault_of
from eventsaga.drill.scratch import Restartable, Scratch
from eventsaga.drill.target import Ended, Target
from eventsaga.errors import DatabaseUnavailableError
from eventsaga.observe.timeline import timeline
from eventsaga.settings import Settings

_LOOK_SECONDS: Final = 0.05
_WATCH: Final = Point("*", "watch")
# Hooks, children and hand-overs too: somebody has it, or it is due at some time.
_UNFINISHED: Final = """
SELECT EXISTS (SELECT FROM eventsaga.sagas WHERE owner IS NOT NULL OR wake_at IS NOT NULL)
"""
# A worker that lost its lease goes on under another identity; the old one is swept some time.
_IDENTITIES: Final = """
SELECT coalesce(array_agg(worker_id), '{}') FROM eventsaga.workers WHERE pid = $1
"""
_HAS_LEASE: Final = """
SELECT EXISTS (SELECT FROM eventsaga.workers WHERE pid = $1 AND lease_until > clock_timestamp())
"""
_IS_NEW: Final = """
SELECT EXISTS (SELECT FROM eventsaga.workers WHERE pid = $1 AND worker_id <> ALL ($2))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What all runs stand on.

    Attributes:
        target: What is drilled.
        timeout: Seconds that a saga may take to its end, faults included.
        same_clock: Whether the database's clock is that of this machine.
        cut: Where a saga is held to be cancelled, and which passing; None if it never is.
    """

    target: Target
    timeout: float
    same_clock: bool = True
    cut: tuple[Passing, int] | None = None


@dataclass(slots=True)
class Run:
    """One run on a database of its own.

    Attributes:
        ground: What it stands on.
        server: Where its database is.
        database_url: Its database.
        orchestrator: Starts the saga and looks at it; it runs none.
        recorder: What the steps send goes through it.
        back: Whether the saga is made to compensate.
        workers: Those that were started.
        struck_at: When the fault struck, by the monotonic clock; None if it did not.
        settled_at: When the saga had ended; None if it has not.
    """

    ground: Ground
    server: Scratch
    database_url: str
    orchestrator: Orchestrator
    recorder: Recorder
    back: bool
    handle: SagaHandle | None = None
    workers: list[WorkerProcess] = field(default_factory=list[WorkerProcess])
    struck_at: float | None = None
    settled_at: float | None = None

    async def start(self) -> None:
        """Start the saga, and send it its signals."""
        target = self.ground.target
        self.handle = await self.orchestrator.start(target.saga, target.input())
        for name, payload in target.signals.items():
            await self.handle.signal(name, payload)

    async def hire(self, *points: Point) -> WorkerProcess:
        """Start a worker, which waits for `WorkerProcess.go`."""
        cut = self.ground.cut
        if self.back and not self.workers:
            assert cut is not None, "there is a way back"
            passing, nth = cut
            hold = Point(CUT, "hold", passing.text, nth)
            seen = [Point(place, "cancelled") for place in ("after_append", "after_read_back")]
            points = (*seen, *points, hold)
        module = self.ground.target.module
        worker = await WorkerProcess.spawn(module, self.database_url, self.recorder.url, points)
        self.workers.append(worker)
        return worker

    async def play(self, case: Case | None) -> None:
        """Run the saga to its end, through the fault of *case*.

        Raises:
            TimeoutError: If it does not end.
            WorkerEndedError: If a worker ends that should not.
        """
        async with asyncio.timeout(self.ground.timeout):
            await self.start()
            first = await self.hire(_WATCH if case is None else case.fault)
            spares = [await self.hire(*points) for points in _spares(case)]
            await first.go()
            cancelling = asyncio.ensure_future(self._cancel(first))
            try:
                await self._suffer(first, spares, case)
            finally:
                cancelling.cancel()
            await self.recorder.settle()

    async def _suffer(
        self, first: WorkerProcess, spares: Sequence[WorkerProcess], case: Case | None
    ) -> None:
        settled = asyncio.ensure_future(self._settled(first))
        struck = asyncio.ensure_future(first.struck.wait())
        try:
            await asyncio.wait([settled, struck], return_when=asyncio.FIRST_COMPLETED)
        finally:
            struck.cancel()
            if not settled.cancel() and first.struck.is_set():
                settled.exception()  # that it is gone is known
        if case is None or not first.struck.is_set():
            await settled  # raises what it met
            await first.drain()
            return
        self.struck_at = time.monotonic()
        match case.mode:
            case Mode.KILL | Mode.DOUBLE:
                await first.ended.wait()
                await self._taken_over(spares)
            case Mode.PAUSE:
                await self._taken_over(spares)
                await self._wake(first)
            case Mode.DB_RESTART:
                await self._restart(first)
                await self._settled(first)
            case Mode.COMMIT_LOST:
                await self._settled(first)

    async def _taken_over(self, spares: Sequence[WorkerProcess]) -> None:
        """Let the others work, one after the other: all but the last may die."""
        for spare in spares:
            await spare.go()
            try:
                await self._settled(spare)
            except WorkerEndedError:
                if spare is spares[-1] or not spare.struck.is_set():
                    raise
            else:
                # What it says last may still be on its way.
                return await spare.drain()
        return None

    async def _wake(self, zombie: WorkerProcess) -> None:
        """Let a stopped worker go on, until it has understood that it lost its lease."""
        async with self.orchestrator.store.connection() as connection:
            before: list[UUID] = await connection.fetchval(_IDENTITIES, zombie.pid)
            while await connection.fetchval(_HAS_LEASE, zombie.pid):
                await _pause()
            zombie.resume()
            while not await connection.fetchval(_IS_NEW, zombie.pid, before):
                zombie.require_running()
                await _pause()
        await zombie.drain()

    async def _restart(self, worker: WorkerProcess) -> None:
        assert isinstance(self.server, Restartable), "only a server of our own is restarted"
        await self.server.kill()
        worker.resume()
        await self.server.start()
        self.struck_at = time.monotonic()

    async def _settled(self, worker: WorkerProcess) -> None:
        """Return when nothing is left to do; *worker* must live until then."""
        while await self._is_unfinished():
            if worker.ended.is_set() and await self._is_unfinished():
                worker.require_running()
            await _pause()
        self.settled_at = time.monotonic()

    async def _is_unfinished(self) -> bool:
        try:
            async with self.orchestrator.store.connection() as connection:
                return bool(await connection.fetchval(_UNFINISHED))
        except DatabaseUnavailableError:
            return True  # it is being restarted

    async def _cancel(self, worker: WorkerProcess) -> None:
        """Cancel the saga when its worker holds it."""
        await worker.held.wait()
        assert self.handle is not None, "it was started"
        # Not waited for: it may be another worker that takes it.
        await self.orchestrator.cancel(
            self.handle.id, "drill: the way back", actor="drill", timeout=0
        )

    def went_through(self, case: Case | None) -> bool:
        """Whether every fault of *case* has struck."""
        faults = 0 if case is None else 1 if case.second is None else 2
        return len(self.workers) >= faults and all(
            worker.struck.is_set() for worker in self.workers[:faults]
        )

    async def ended(self, case: Case | None) -> Ended:
        """Return how the saga stands."""
        assert self.handle is not None, "it was started"
        return Ended(
            saga_id=self.handle.id,
            state=await self.handle.state(),
            history=await self.handle.history(),
            requests=tuple(self.recorder.sent),
            database_url=self.database_url,
            fault=None if case is None else fault_of(case),
        )


async def _pause() -> None:
    # What is waited for is in a database, or another process: nobody calls us.
    await asyncio.sleep(_LOOK_SECONDS)


def _spares(case: Case | None) -> list[tuple[Point, ...]]:
    """Return what each of the other workers does to itself."""
    if case is None or case.mode in {Mode.DB_RESTART, Mode.COMMIT_LOST}:
        return []
    return [()] if case.second is None else [(case.second,), ()]


@asynccontextmanager
async def _prepared(ground: Ground, server: Scratch, *, back: bool) -> AsyncGenerator[Run]:
    async with AsyncExitStack() as stack:
        recorder = await stack.enter_async_context(recording())
        url = await stack.enter_async_context(server.database())
        orchestrator = await stack.enter_async_context(
            Orchestrator(
                url,
                ground.target.family,
                worker=False,
                settings=Settings.from_environment(LEASE),
            )
        )
        run = Run(ground, server, url, orchestrator, recorder, back)
        try:
            yield run
        finally:
            for worker in run.workers:
                await worker.end()


async def play(
    ground: Ground,
    server: Scratch,
    case: Case | None,
    *,
    back: bool,
    expected: str | None = None,
) -> tuple[Result, list[Passing]]:
    """Play one run; return how it went, and what its first worker said it came by.

    Args:
        ground: What it stands on.
        server: Where it gets its database; for ``db-restart``, a `Restartable`.
        case: The fault; None for none.
        back: Whether the saga is made to compensate.
        expected: How it must end; None for a clean run.

    Raises:
        DrillError: If it could not be tried.
    """
    began = time.monotonic()
    async with _prepared(ground, server, back=back) as run:
        findings: list[Finding] = []
        try:
            await run.play(case)
        except TimeoutError:
            findings.append(Finding("ending", f"it has not ended after {ground.timeout:g} s"))
        except WorkerEndedError as error:
            if run.handle is None or (case is None and not run.workers[0].ready.is_set()):
                raise DrillError(str(error)) from error
            findings.append(Finding("worker", str(error)))
        ended = await run.ended(case)
        if not findings:
            findings = await judge(
                ground.target,
                run.orchestrator,
                ended,
                expected=expected,
                same_clock=ground.same_clock,
            )
        passings = list(run.workers[0].passings) if run.workers else []
        recovered = None
        if run.struck_at is not None and run.settled_at is not None:
            recovered = round(max(0.0, run.settled_at - run.struck_at), 3)
        result = Result(
            case=case,
            outcome=_outcome(findings, struck=run.went_through(case)),
            saga_id=ended.saga_id,
            status=str(ended.state.status),
            recovered=recovered,
            seconds=time.monotonic() - began,
            findings=findings,
            requests=ended.requests,
            lines=timeline(ended.history),
        )
        return result, passings


def _outcome(findings: Sequence[Finding], *, struck: bool) -> Outcome:
    if findings:
        return Outcome.VIOLATED
    return Outcome.OK if struck else Outcome.NOT_REACHED

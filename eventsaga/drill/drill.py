"""How does a whole drill go? One clean run each way teaches the boundaries; then each is tried."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import make_url

from eventsaga.core.state import Status
from eventsaga.drill.boundary import Boundary, Passing, boundaries, cut_of
from eventsaga.drill.errors import DrillError
from eventsaga.drill.plan import Case, Mode, cases
from eventsaga.drill.report import Report, Result
from eventsaga.drill.run import Ground, play
from eventsaga.drill.scratch import Restartable, Scratch, Setup, restartable, scratch
from eventsaga.drill.target import Check, Target, find_saga
from eventsaga.errors import EventSagaError

Progress = Callable[[int, int, Result], Awaitable[None] | None]
"""Called after each run: runs done, runs in all, and how it went."""

JOBS: Final = 4
TIMEOUT_SECONDS: Final = 60.0

_WENT_BACK: Final = frozenset({Status.COMPENSATED, Status.PARKED, Status.FAILED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How it is drilled.

    Attributes:
        modes: Kinds of faults.
        back: Whether the way back is drilled as well.
        at: Only boundaries with this text in their title; empty for all.
        jobs: Runs at a time.
        timeout: Seconds that a saga may take to its end, faults included.
    """

    modes: Sequence[Mode] = (Mode.KILL,)
    back: bool = True
    at: str = ""
    jobs: int = JOBS
    timeout: float = TIMEOUT_SECONDS


async def drill(
    server_url: str,
    module: str,
    *,
    saga: str | None = None,
    context: Mapping[str, Any],
    checks: Sequence[Check] = (),
    signals: Mapping[str, Mapping[str, Any] | None] | None = None,
    setup: Setup | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
) -> Report:
    """Drill a saga on scratch databases of a server, and return how it went.

    Args:
        server_url: A database of the server. Databases are added to it and dropped again.
        module: What holds the saga, as ``module:name``; worker processes import it.
        saga: Its name; None if there is only one.
        context: Its input; ``{run}`` in a text is replaced by something new in each run.
        checks: What must hold at each end, beside our own invariants.
        signals: Sent to each saga right after its start, by name.
        setup: Called with the URL of a scratch database, to make what the saga needs there.
        options: Faults, concurrency and patience; None for the default.
        progress: Called after each run.

    Raises:
        DrillError: If it cannot be tried; the message says why.
        DatabaseUnavailableError: If the server cannot be reached.
    """
    async with scratch(server_url, setup) as server:
        async with server.database() as url:
            chosen, family = find_saga(module, saga, url)
        target = Target(
            module=module,
            saga=chosen,
            family=family,
            context=context,
            checks=checks,
            signals=signals or {},
            setup=setup,
        )
        return await _Drill(target, server, options or Options(), progress).run()


class _Drill:
    """A drill, while it goes on."""

    def __init__(
        self, target: Target, server: Scratch, options: Options, progress: Progress | None
    ) -> None:
        self._target = target
        self._server = server
        self._options = options
        self._progress = progress
        self._ground = Ground(
            target=target, timeout=options.timeout, same_clock=_is_here(server.url)
        )
        self._clean: list[Result] = []
        self._notes: list[str] = []
        self._done = 0

    async def run(self) -> Report:
        began = time.monotonic()
        learned = await self._learn()
        # What breaks without a fault need not be tried with one.
        results = await self._try(self._chosen(learned)) if all(r.ok for r in self._clean) else []
        definition = self._target.saga.definition
        return Report(
            saga=definition.name,
            version=definition.version,
            boundaries=learned,
            clean=self._clean,
            results=results,
            notes=self._notes,
            seconds=time.monotonic() - began,
        )

    async def _learn(self) -> list[Boundary]:
        clean, passed = await play(self._ground, self._server, None, back=False)
        self._clean.append(clean)
        went_back = clean.status in _WENT_BACK
        learned = boundaries(passed, back=False)
        if went_back or not self._options.back or not clean.ok:
            return learned
        return learned + await self._learn_back(passed, len(learned))

    async def _learn_back(self, forward: Sequence[Passing], known: int) -> list[Boundary]:
        definition = self._target.saga.definition
        cut = cut_of(forward, definition.steps, definition.pivot)
        if cut is None:
            self._notes.append(
                "the way back was not drilled: no step comes before its end or pivot"
            )
            return []
        self._ground = replace(self._ground, cut=cut)
        clean, passed = await play(self._ground, self._server, None, back=True)
        if clean.ok and clean.status not in _WENT_BACK:
            said = f"cancelled at {cut[0].text}, the saga ended as {clean.status}"
            self._notes.append(f"the way back was not drilled: {said}")
            return []
        self._clean.append(clean)
        return boundaries(passed, first=known, back=True, after=_held_at(passed, cut))

    def _chosen(self, learned: Sequence[Boundary]) -> Sequence[Boundary]:
        """Return the boundaries that were asked for.

        Raises:
            DrillError: If there is none.
        """
        at = self._options.at
        chosen = [boundary for boundary in learned if at in boundary.title]
        if not chosen:
            titles = "; ".join(boundary.title for boundary in learned)
            raise DrillError(f"no boundary is at {at!r}; there are: {titles}")
        return chosen

    async def _try(self, learned: Sequence[Boundary]) -> list[Result]:
        planned = cases(learned, self._options.modes)
        waiting = list(reversed(planned))
        found: dict[int, Result] = {}

        async def work(servers: AsyncExitStack) -> None:
            own: Restartable | None = None
            while waiting:
                case = waiting.pop()
                if case.mode is Mode.DB_RESTART and own is None:
                    own = await servers.enter_async_context(restartable(self._target.setup))
                server = own if own is not None and case.mode is Mode.DB_RESTART else self._server
                found[case.number] = result = await self._play(server, case)
                await self._tell(len(found), len(planned), result)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._options.jobs, len(planned))):
                    group.create_task(_with_stack(work))
        except* EventSagaError as errors:
            raise _first(errors) from None
        return [found[case.number] for case in planned]

    async def _play(self, server: Scratch, case: Case) -> Result:
        expected = self._clean[-1 if case.boundary.back else 0].status
        result, _ = await play(
            self._ground, server, case, back=case.boundary.back, expected=expected
        )
        return result

    async def _tell(self, done: int, total: int, result: Result) -> None:
        if self._progress is not None:
            told = self._progress(done, total, result)
            if told is not None:
                await told


def _is_here(server_url: str) -> bool:
    """Whether the server is on this machine, as far as its URL says."""
    url = make_url(server_url)
    host = url.query.get("host") or url.host or ""
    return str(host).startswith(("/", "localhost", "127.")) or not host


def _first(errors: BaseExceptionGroup[EventSagaError]) -> EventSagaError:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


async def _with_stack(work: Callable[[AsyncExitStack], Awaitable[None]]) -> None:
    async with AsyncExitStack() as stack:
        await work(stack)


def _held_at(passings: Sequence[Passing], cut: tuple[Passing, int]) -> int:
    """Return the index of the passing that follows the one at which the saga was held."""
    passing, nth = cut
    seen = 0
    for index, one in enumerate(passings, 1):
        seen += one.place == passing.place and passing.text in one.text
        if seen == nth:
            return index
    return len(passings)

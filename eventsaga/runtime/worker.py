"""All sagas of a process: claimed, driven, recovered, and handed over at the end.

The worker owns no logic of sagas: it finds those that nobody drives, gives each a `Run`,
and passes on what arrives for them. Recovery is what `_adopt` does after every claim.
"""

import asyncio
import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final
from uuid import UUID

from eventsaga import failpoints
from eventsaga.core.commands import Recover
from eventsaga.core.definition import ForEachDefinition, StepDefinition
from eventsaga.core.difference import changes
from eventsaga.core.state import State
from eventsaga.errors import DatabaseUnavailableError, DefinitionChangedError
from eventsaga.observe import trace
from eventsaga.observe.log import logger
from eventsaga.observe.observer import Observers
from eventsaga.runtime import recover
from eventsaga.runtime.clock import Clock, DatabaseClock
from eventsaga.runtime.execute import Tools
from eventsaga.runtime.http import SharedConnections
from eventsaga.runtime.lease import Lease
from eventsaga.runtime.limits import Limiter
from eventsaga.runtime.prepare import prepare_child
from eventsaga.runtime.run import Run
from eventsaga.runtime.threads import Threads
from eventsaga.saga import Limit, Saga
from eventsaga.settings import Settings
from eventsaga.store.ports import (
    MAIL_OF_ONE,
    NOBODY,
    Append,
    Claimed,
    DefinitionKey,
    Dismissal,
    GivenUp,
    Message,
    Refused,
    Start,
    Started,
    StartResult,
    Store,
    Suspicion,
    Transaction,
)

_log = logger("worker")

_CLAIM_BATCH: Final = 200
_SHORTEST_POLL: Final = 0.02
_MAIL_BATCH: Final = 200
_GIVE_UP_BATCH: Final = 500
_GLANCE_SECONDS: Final = 0.1
_LOOK_AROUND_SECONDS: Final = 30.0
# No name may fill the last tenth of a worker's room by its own starts.
_RESERVE: Final = 10
_BREATH: Final = timedelta(seconds=10)


def definition_key(saga: Saga[Any]) -> DefinitionKey:
    """Return what a worker must have to run sagas of *saga*."""
    definition = saga.definition
    return definition.name, definition.version, definition.fingerprint


class Worker:
    """Runs sagas until it is told to stop.

    Args:
        store: Where sagas are kept.
        sagas: What it can run, by definition.
        settings: Limits and times.
        clock: The database's time, which the worker's heartbeat keeps.
        settled: Called with the id and state of each saga that ended or was parked here.
        observers: Told of every event that this worker appends; None for nobody.
    """

    def __init__(
        self,
        store: Store,
        sagas: Mapping[DefinitionKey, Saga[Any]],
        settings: Settings,
        clock: DatabaseClock,
        settled: Callable[[UUID, State], None],
        *,
        observers: Observers | None = None,
    ) -> None:
        self.settings = settings
        self.observers = Observers() if observers is None else observers
        self.draining = False
        self._store = store
        self._sagas = sagas
        self._settled = settled
        self._clock = clock
        self._lease = Lease(
            store,
            settings,
            clock,
            tuple(sagas),
            lost=self._lease_lost,
            safe=self._lease_safe,
            freed=self.poke,
        )
        self.tools = Tools(
            clock=self._clock,
            transport=SharedConnections(),
            threads=Threads(settings.thread_pool),
            is_traced=trace.is_on(),
        )
        self._limiter = Limiter(store, lambda: self.worker_id, clock)
        self._priorities = {saga.name: saga.priority for saga in sagas.values() if saga.priority}
        self._max_running = {
            saga.name: saga.max_running for saga in sagas.values() if saga.max_running is not None
        }
        # What may go on although the database may have lost commits.
        self._live = frozenset(
            key for key, saga in sagas.items() if settings.trust_keys and _keys_live(saga)
        )
        self._runs: dict[UUID, Run] = {}
        # Of each it is the last claim without progress.
        self._suspects: set[UUID] = set()
        self._running: Counter[str] = Counter()
        self._starting: set[UUID] = set()
        self._leaving: dict[UUID, GivenUp] = {}
        self._poke = asyncio.Event()
        self._quiet = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._chores: set[asyncio.Task[None]] = set()
        # The answer to a claim may have been lost: what it took must be looked up.
        self._claim_in_doubt = False
        # Sagas that wait until somebody accepts the incarnation of the database.
        self._held = 0
        self._starved = False
        self._next_claim_at = 0.0
        self._held_back = False
        self._looked_around_at = float("-inf")

    # -- life ------------------------------------------------------------------------------

    async def open(self) -> None:
        """Take a lease and begin to claim.

        Raises:
            DatabaseUnavailableError: If the database cannot be reached.
        """
        await self._refuse_changed_definitions()
        await self._lease.acquire()
        await self._see_incarnation()
        self._tasks = [
            asyncio.create_task(self._lease.keep(), name="eventsaga-lease"),
            asyncio.create_task(self._watch(), name="eventsaga-claims"),
        ]
        _log.info("worker_started", worker_id=str(self.worker_id), sagas=sorted(self.saga_names))

    async def _refuse_changed_definitions(self) -> None:
        conflicts = await self._store.conflicting(tuple(self._sagas))
        if not conflicts:
            return
        lines: list[str] = []
        for (name, version, fingerprint), sagas in conflicts:
            old = await self._store.graph((name, version, fingerprint))
            new = next(
                saga.definition for key, saga in self._sagas.items() if key[:2] == (name, version)
            )
            lines.append(
                f"saga {name!r} version {version} has changed ({changes(old, new)}) while "
                f"{sagas} of its sagas are unfinished"
            )
        raise DefinitionChangedError("; ".join(lines))

    async def drain(self) -> None:
        """Stop claiming, let running attempts end, give everything up, and stop.

        Attempts that stand in the queue of a limit or of the threads are taken back.
        Attempts that do not end within ``drain_timeout`` are cut short and recorded as
        interrupted; another worker runs them again with the same key.
        """
        if self.draining:
            return
        self.draining = True
        _log.info("draining", worker_id=str(self.worker_id), limit=self.settings.drain_timeout)
        for run in tuple(self._runs.values()):
            run.hold_back()
        self._poke.set()
        watcher = self._tasks.pop()
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)
        if not await self._quiet_within(self.settings.drain_timeout):
            for run in tuple(self._runs.values()):
                if run.is_busy:
                    run.hand_over()
            await self._quiet_within(self.settings.lease)
        await self._leave()

    async def close(self) -> None:
        """Drain, and free what the worker held."""
        await self.drain()
        for task in (*self._tasks, *self._chores):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._chores, return_exceptions=True)
        await self._limiter.aclose()
        await self.tools.transport.aclose()
        self.tools.threads.shutdown()

    async def vanish(self) -> None:
        """Stop as if the process had died: nothing is finished, recorded or given up."""
        self.draining = True
        for run in tuple(self._runs.values()):
            run.abandon()
        self._runs.clear()
        for task in (*self._tasks, *self._chores):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._chores, return_exceptions=True)
        await self._limiter.aclose()
        self.tools.threads.shutdown()

    async def _leave(self) -> None:
        for run in tuple(self._runs.values()):
            run.abandon()
        self._runs.clear()
        try:
            async with asyncio.timeout(self.settings.lease.total_seconds()):
                released = await self._store.release(self.worker_id)
            _log.info("worker_stopped", worker_id=str(self.worker_id), released=released)
        except (DatabaseUnavailableError, TimeoutError) as error:
            # As good as a crash: the lease ends by itself.
            _log.warning("worker_stopped_without_release", error=str(error))

    async def _quiet_within(self, limit: timedelta) -> bool:
        until = self._clock.monotonic() + limit.total_seconds()
        while self._starting or any(run.is_busy for run in self._runs.values()):
            if self._clock.monotonic() > until:
                return False
            self._quiet.clear()
            # A run may fall quiet without leaving: hence also a look now and then.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GLANCE_SECONDS):
                    await self._quiet.wait()
        return True

    # -- starting --------------------------------------------------------------------------

    @property
    def saga_names(self) -> set[str]:
        """Names of the sagas that this worker runs."""
        return {name for name, _, _ in self._sagas}

    def has_room(self, saga: Saga[Any]) -> bool:
        """Whether a new one of *saga* can be driven here from its first moment."""
        if self.draining or saga.max_running is not None or not self._lease.is_safe:
            return False
        return self._room > 0 and self._running[saga.name] < self._share

    @property
    def _share(self) -> int:
        """Most sagas of one name: a flood of them must leave room for the others."""
        most = self.settings.max_concurrency
        return most if len(self.saga_names) == 1 else most - max(1, most // _RESERVE)

    @property
    def _room(self) -> int:
        return self.settings.max_concurrency - len(self._runs) - len(self._starting)

    def runs(self, saga_id: UUID) -> bool:
        """Whether the saga is driven by this worker now, and has not settled."""
        run = self._runs.get(saga_id)
        return saga_id in self._starting if run is None else not run.is_settled

    def start(self, saga: Saga[Any], start: Start) -> None:
        """Create a saga that this worker drives from its first moment."""
        saga_id, done, owner = start.state.saga_id, start.done, self.worker_id

        def started(result: StartResult) -> None:
            self._starting.discard(saga_id)
            # If the lease was lost meanwhile, the saga is an orphan like any other.
            if isinstance(result, Started) and result.created:
                self.observers.committed(start.state, start.events)
                if owner == self.worker_id:
                    self._drive(Run(saga, start.state, result.last_hash, self))
            self._quiet.set()
            done(result)

        self._starting.add(saga_id)
        start.done = started
        self._store.start(start, owner)

    def poke(self) -> None:
        """Look for due sagas and mail now, not at the next poll."""
        self._poke.set()

    # -- what a run asks for: see `Host` ---------------------------------------------------

    @property
    def worker_id(self) -> UUID:
        """The identity under which this process owns sagas now."""
        return self._lease.worker_id

    @property
    def clock(self) -> Clock:
        """The database's time."""
        return self._clock

    @property
    def may_start_effects(self) -> bool:
        """Whether enough of the lease is left to begin something.

        Who is told no is asked again when the lease is safe.
        """
        safe = self._lease.is_safe
        self._held_back = self._held_back or not safe
        return safe

    def append(self, append: Append) -> None:
        """Append for this worker."""
        self._store.append(append, self.worker_id)

    async def begin(self, timeout: timedelta) -> Transaction:  # noqa: ASYNC109
        """Open a transaction for a transactional step that may take *timeout*."""
        return await self._store.begin(timeout)

    def permit(self, limit: Limit) -> contextlib.AbstractAsyncContextManager[None]:
        """Wait for a permit of *limit*, and hold it until the block ends."""
        return self._limiter.permit(limit)

    async def start_child(
        self, saga: Saga[Any], child: UUID, context: dict[str, Any], parent: State, step: str
    ) -> None:
        """See to it that a child exists; on return it is durable."""
        start = prepare_child(saga, child, context, parent=parent, step=step, at=self._clock.now())
        answer: asyncio.Future[StartResult] = asyncio.get_running_loop().create_future()

        def done(result: StartResult) -> None:
            if not answer.done():
                answer.set_result(result)

        start.done = done
        self._store.start(start, None)
        result = await answer
        if isinstance(result, Refused):
            raise result.error
        self.poke()

    async def post(self, message: Message) -> None:
        """Leave a message in the inbox of another saga; on return it is durable."""
        await self._store.post(message)
        self.poke()

    async def mail_of(self, saga_id: UUID) -> list[Message]:
        """Return the open requests to a saga, oldest first."""
        return await self._store.read_mail_of(saga_id, _MAIL_BATCH)

    def dismiss(self, dismissals: Sequence[Dismissal]) -> Coroutine[Any, Any, None]:
        """Answer requests that cause no event, as the owner that this worker is now."""
        return self._dismiss(self.worker_id, dismissals)

    async def _dismiss(self, owner: UUID, dismissals: Sequence[Dismissal]) -> None:
        for saga_id, _, reason, *_ in dismissals:
            if reason is not None:
                _log.info("message_refused", saga_id=str(saga_id), reason=reason)
        await self._store.dismiss_mail(owner, dismissals)
        if any(dismissal.outbox for dismissal in dismissals):
            self.poke()

    def settled(self, run: Run) -> None:
        """Take note that the saga of *run* has ended or is parked."""
        self._settled(run.saga_id, run.state.copy())
        if run.state.parent_id is not None:
            self.poke()  # its parent may be told here

    def ended(self, run: Run) -> None:
        """Take note that *run* is over here."""
        self._forget(run)

    def give_up(self, run: Run, wake_at: datetime | None) -> None:
        """Leave a saga to anybody, from *wake_at* on; None for never."""
        self._forget(run)
        self._release(GivenUp(run.saga_id, wake_at, run.state.seq))

    def fenced(self, run: Run) -> None:
        """Take note that another worker owns the saga, or that its events are not those here.

        They are not after a failover that lost some. The saga is still this worker's then.
        """
        self._forget(run)
        _log.warning("saga_lost", saga_id=str(run.saga_id), worker_id=str(self.worker_id))
        self._claim_in_doubt = True
        self._release(GivenUp(run.saga_id, self._clock.now()))

    def failed(self, run: Run, error: Exception) -> None:
        """Let the saga rest for a while: it is not its fault, and not for this moment."""
        self._forget(run)
        _log.error("saga_stopped", saga_id=str(run.saga_id), exc_info=error)
        rest = self._clock.now() + _BREATH
        self._release(GivenUp(run.saga_id, rest))

    def _release(self, saga: GivenUp) -> None:
        # Until that is done it is still this worker's, and must not be found as forgotten.
        is_under_way = bool(self._leaving)
        self._leaving[saga.saga_id] = saga
        if not is_under_way:
            self.do(self._released())

    async def _released(self) -> None:
        """Give up all that leave, those of the meantime together."""
        try:
            while self._leaving:
                batch = tuple(islice(self._leaving.values(), _GIVE_UP_BATCH))
                await self._store.give_up(self.worker_id, batch)
                for saga in batch:
                    # It may have come back, and be about to leave again.
                    if self._leaving[saga.saga_id] is saga:
                        del self._leaving[saga.saga_id]
        finally:
            # After an error they are found as forgotten, and leave again.
            self._leaving.clear()

    def _keep(self, run: Run) -> None:
        self._runs[run.saga_id] = run
        self._running[run.saga.name] += 1

    def _forget(self, run: Run) -> None:
        if self._runs.get(run.saga_id) is run:
            del self._runs[run.saga_id]
            self._running[run.saga.name] -= 1
        self._quiet.set()
        if self._starved and self._room >= min(
            _CLAIM_BATCH, self.settings.max_concurrency // 4 or 1
        ):
            self._poke.set()

    def do(self, chore: Coroutine[Any, Any, Any]) -> None:
        """Run *chore* beside everything else."""
        task = asyncio.ensure_future(self._careful(chore))
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    async def _careful(self, chore: Any) -> None:
        try:
            await chore
        except DatabaseUnavailableError as error:
            # Whatever it was, the next look at the tables finds it undone.
            self._claim_in_doubt = True
            _log.warning("chore_failed", error=str(error))

    # -- leases ----------------------------------------------------------------------------

    def _lease_lost(self, previous: UUID) -> None:
        _log.error("lease_lost", worker_id=str(previous), sagas=len(self._runs))
        for run in tuple(self._runs.values()):
            run.abandon()
        self._runs.clear()
        self._running.clear()
        self._poke.set()

    def _lease_safe(self) -> None:
        if not self._held_back:
            return
        self._held_back = False
        for run in tuple(self._runs.values()):
            run.perform()

    # -- claiming and recovering -----------------------------------------------------------

    async def _watch(self) -> None:
        """Poll for work: often while there is some, rarely while there is none."""
        longest = self.settings.poll.total_seconds()
        pause = _SHORTEST_POLL
        while True:
            try:
                found = await self._look() if self._lease.is_safe else 0
            except DatabaseUnavailableError as error:
                self._claim_in_doubt = True
                found = 0
                _log.warning("claim_failed", error=str(error))
            except Exception:  # noqa: BLE001 - one look that fails must not be the last one
                self._claim_in_doubt = True
                found = 0
                _log.exception("claim_failed")
            pause = _SHORTEST_POLL if found else min(longest, pause * 2)
            held_back = self._next_claim_at - self._clock.monotonic()
            if held_back > 0:
                await self._pause(held_back)
            elif found < _CLAIM_BATCH:
                await self._pause(pause)

    async def _pause(self, seconds: float) -> None:
        self._poke.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._poke.wait()

    async def _look(self) -> int:
        """Take what is due and read mail; return how much was found."""
        worker_id = self.worker_id
        claimed = await self._claimed(worker_id)
        read_at = self._clock.now()
        messages = await self._store.read_mail(worker_id, _MAIL_BATCH)
        is_all = len(messages) < _MAIL_BATCH
        if failpoints.armed and claimed:
            await failpoints.reach("before_recovery")
        if worker_id != self.worker_id:
            return 1  # the lease was lost meanwhile: these sagas are not ours any more
        mail: defaultdict[UUID, list[Message]] = defaultdict(list)
        for message in messages:
            mail[message.saga_id].append(message)
        for saga in claimed:
            self._adopt(saga, mail.pop(saga.saga_id, ()), read_at if is_all else None)
        if failpoints.armed and claimed:
            await failpoints.reach("after_recovery")
        for saga_id, received in mail.items():
            run = self._runs.get(saga_id)
            if run is not None:  # else it has just ended here, or is just being started
                self._pass_on(run, received)
        await self._look_around()
        return max(len(claimed), len(messages))

    async def _claimed(self, worker_id: UUID) -> list[Claimed]:
        """Claim what there is room for, and what an answer that was lost had granted.

        All for one identity: who gets a new one meanwhile is not given anything.
        """
        claimed: list[Claimed] = []
        if self._claim_in_doubt:
            # The errors that make a claim doubtful are those of a failover too.
            held = await self._see_incarnation()
            known = [*self._runs, *self._starting, *self._leaving]
            claimed = await self._store.load_owned(worker_id, known, self._live)
            # What is held was not loaded; nobody else finds what this worker owns.
            self._claim_in_doubt = held
        rate = self.settings.recovery_rate
        limit = min(self._room, _CLAIM_BATCH, rate)
        if self._clock.monotonic() < self._next_claim_at:
            limit = 0
        if limit > 0:
            claimed += await self._store.claim(
                worker_id,
                tuple(self._sagas),
                limit,
                priorities=self._priorities,
                max_running=self._max_running,
                live=self._live,
                suspicion=self._suspicion(),
            )
            takeovers = sum(saga.previous_owner is not None for saga in claimed)
            self._next_claim_at = self._clock.monotonic() + takeovers / rate
        # More may be due than there is room for: the next room that there is, is used.
        self._starved = limit <= len(claimed)
        return claimed

    def _suspicion(self) -> Suspicion:
        most = self.settings.poison_claims
        if most == 1:
            return NOBODY
        known = (self._runs.get(saga_id) for saga_id in self._suspects)
        self._suspects = {run.saga_id for run in known if run and not run.has_progressed}
        return Suspicion(most - 1, bool(self._suspects))

    async def _see_incarnation(self) -> bool:
        """Note which history of the database this is; return, and say, if sagas are held for it."""
        seen = await self._store.see_incarnation()
        if seen.held and seen.held != self._held:
            _log.error(
                "sagas_held",
                sagas=seen.held,
                system_identifier=seen.system_identifier,
                timeline=seen.timeline,
                remedy="the database may have lost commits: see `eventsaga recover --help`",
            )
        self._held = seen.held
        return bool(seen.held)

    async def _look_around(self) -> None:
        """Now and then: tidy the inbox, and look again for what a lost answer has granted."""
        now = self._clock.monotonic()
        if now - self._looked_around_at < _LOOK_AROUND_SECONDS:
            return
        self._looked_around_at = now
        # A claim that was given up on here may yet have been granted there.
        self._claim_in_doubt = True
        await self._store.sweep()

    def _adopt(self, claimed: Claimed, mail: Sequence[Message], read_at: datetime | None) -> None:
        """Go on with a saga where its history ends.

        Its mail is decided before it goes on: a signal that came in time counts although its
        time is over by now, and a saga that was claimed for its mail alone would otherwise
        go back to sleep before it was read.
        """
        if claimed.saga_id in self._runs:
            return
        try:
            saga, state, last_hash = recover.load(claimed, self._sagas)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it is wrong with it alone
            _log.error("saga_unreadable", saga_id=str(claimed.saga_id), error=repr(error))
            rest = self._clock.now() + _BREATH
            self._release(GivenUp(claimed.saga_id, rest))
            return
        command = recover.next_command(
            claimed,
            state,
            worker_id=self.worker_id,
            now=self._clock.now(),
            most_claims=self.settings.poison_claims,
        )
        if isinstance(command, Recover):
            _log.info(
                "saga_recovered",
                saga_id=str(claimed.saga_id),
                previous=str(command.previous_worker_id),
            )
        run = Run(saga, state, last_hash, self)
        self._keep(run)
        if claimed.claims == self.settings.poison_claims:
            self._suspects.add(run.saga_id)
        if command is not None:
            run.enqueue(command)
        for message in mail:
            run.receive(message)
        run.wake(mail_read_at=read_at if len(mail) < MAIL_OF_ONE else None)

    def _drive(self, run: Run) -> None:
        self._keep(run)
        run.perform()

    def _pass_on(self, run: Run, mail: Sequence[Message]) -> None:
        """Have *run* decide what it is asked, together with what has queued."""
        for message in mail:
            run.receive(message)
        run.decide()


def _keys_live(saga: Saga[Any]) -> bool:
    """Whether every key that *saga* may have sent is remembered for ever."""
    tasks = (
        saga.definition.task(name)
        for name, leaf in saga.definition.steps.items()
        if isinstance(leaf, StepDefinition | ForEachDefinition)
    )
    return all(task.key_ttl is None for task in tasks)

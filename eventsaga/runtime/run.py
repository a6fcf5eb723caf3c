"""One saga in memory: commands come in, appends and attempts go out.

A run is an actor without a task of its own. Commands (results, timers, requests) queue in
its mailbox; while an append is in flight nothing is decided, afterwards everything that
has queued is decided at once and appended together. What is due comes from `react`, after
an append as after a replay, so a run that was just recovered takes the normal path.
"""

import asyncio
from collections import deque
from dataclasses import replace
from datetime import datetime
from typing import Any, Protocol, assert_never
from uuid import UUID

from eventsaga.core.commands import (
    Command,
    HandOver,
    Wake,
)
from eventsaga.core.decide import transition
from eventsaga.core.events import (
    Operation,
    SagaEvent,
    SagaRecovered,
    StepCompensationStarted,
    StepInDoubt,
    StepStarted,
)
from eventsaga.core.react import RunStep, WakeAt, react
from eventsaga.core.state import Phase, State
from eventsaga.errors import IllegalCommandError
from eventsaga.runtime.clock import Clock
from eventsaga.runtime.execute import Ended, Tools, run_attempt
from eventsaga.saga import Saga
from eventsaga.settings import Settings
from eventsaga.store.ports import Append, AppendResult, Committed, Fenced, Refused


class Host(Protocol):
    """What a run needs of the worker that it lives in."""

    settings: Settings
    tools: Tools

    @property
    def clock(self) -> Clock:
        """The database's time."""
        ...

    @property
    def may_start_effects(self) -> bool:
        """Whether enough of the lease is left to begin something."""
        ...

    @property
    def draining(self) -> bool:
        """Whether the worker is about to stop."""
        ...

    def append(self, append: Append) -> None:
        """Append for this worker."""
        ...

    def discard_mail(self, saga_id: UUID, message_id: UUID) -> None:
        """Delete a request that caused no event."""
        ...

    def ended(self, run: "Run", *, settled: bool) -> None:
        """Take note that *run* is over here: the saga settled, or sleeps in the table."""
        ...

    def give_up(self, run: "Run", wake_at: datetime) -> None:
        """Leave the saga of *run*, which has nothing to do until *wake_at*, to anybody."""
        ...

    def fenced(self, run: "Run") -> None:
        """Take note that another worker owns the saga of *run*."""
        ...

    def failed(self, run: "Run", error: Exception) -> None:
        """Take note that *run* cannot go on because of *error*, which is not the saga's."""
        ...


class Run:
    """A saga that this worker owns.

    Args:
        saga: Its functions.
        state: Where it stands, all of it committed.
        last_hash: Head of its chain.
        host: The worker.
    """

    __slots__ = (
        "_appending",
        "_attempts",
        "_handing_over",
        "_host",
        "_last_hash",
        "_mailbox",
        "_messages",
        "_next_state",
        "_releasing",
        "_timer",
        "is_over",
        "saga",
        "state",
    )

    def __init__(self, saga: Saga[Any], state: State, last_hash: bytes, host: Host) -> None:
        self.saga = saga
        self.state = state
        self.is_over = False
        self._host = host
        self._last_hash = last_hash
        self._mailbox: deque[tuple[Command, UUID | None]] = deque()
        self._messages: set[UUID] = set()
        self._attempts: dict[tuple[str, Operation, int], asyncio.Task[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next_state = state
        self._appending = False
        self._releasing = False
        self._handing_over = False

    @property
    def saga_id(self) -> UUID:
        """The saga."""
        return self.state.saga_id

    @property
    def is_busy(self) -> bool:
        """Whether an attempt runs or an append is in flight."""
        return bool(self._attempts) or self._appending

    def submit(self, command: Command, message_id: UUID | None = None) -> None:
        """Decide *command*, now or after the append that is in flight.

        Args:
            command: What to decide.
            message_id: The request in the inbox that it came from, if it did.
        """
        self.enqueue(command, message_id)
        self.decide()

    def enqueue(self, command: Command, message_id: UUID | None = None) -> None:
        """Keep *command* for the next decision, which takes all that has queued."""
        if self.is_over or (message_id is not None and message_id in self._messages):
            return
        if message_id is not None:
            # It stays in the inbox until its events are committed, and is read again.
            self._messages.add(message_id)
        self._mailbox.append((command, message_id))

    def perform(self) -> None:
        """Begin what is due; what runs already goes on. Called again after a lost lease."""
        if self.is_over or self._appending:
            return
        wake_at: datetime | None = None
        for effect in react(self.saga.definition, self.state):
            match effect:
                case RunStep():
                    self._begin(effect)
                case WakeAt(at=at):
                    wake_at = at
                case _:
                    assert_never(effect)
        self._wake_at(wake_at)

    def hand_over(self) -> None:
        """Cut running attempts short and record that; the saga may go on elsewhere."""
        self._handing_over = True
        self._cancel_all()
        self.submit(HandOver(at=self._now()))

    def abandon(self) -> None:
        """Forget everything: whatever is still in flight is nobody's."""
        self.is_over = True
        self._mailbox.clear()
        self._cancel_all()

    # -- deciding and appending ------------------------------------------------------------

    def decide(self) -> None:
        """Decide all that has queued, unless an append is in flight: then after it."""
        if self._appending or self.is_over or not self._mailbox:
            return
        try:
            self._decide_all()
        except Exception as error:  # noqa: BLE001 - a bug of ours must not strand the saga
            self.abandon()
            self._host.failed(self, error)

    def _decide_all(self) -> None:
        state, events = self.state, list[SagaEvent]()
        messages: list[UUID] = []
        while self._mailbox:
            command, message_id = self._mailbox.popleft()
            try:
                decided = transition(self.saga.definition, state, command)
            except IllegalCommandError:
                if message_id is None:
                    raise
                # A request that the saga's state does not allow (any more).
                decided = None
            if message_id is not None:
                messages.append(message_id)
            if decided is not None:
                events += decided.events
                state = decided.state
        if events:
            self._append(tuple(events), state, tuple(messages))
            return
        for message_id in messages:
            self._host.discard_mail(self.saga_id, message_id)
        self.perform()

    def _append(
        self, events: tuple[SagaEvent, ...], state: State, messages: tuple[UUID, ...]
    ) -> None:
        release, wake_at = self._may_leave(state)
        self._appending = True
        self._releasing = release or state.status.is_settled
        self._next_state = state
        self._host.append(
            Append(
                expected=self.state.seq,
                previous_hash=self._last_hash,
                events=events,
                before=self.state.status,
                state=state,
                release=release,
                wake_at=wake_at,
                progress=self._handing_over or any(map(_is_progress, events)),
                inbox=messages,
                done=self._appended,
            )
        )

    def _may_leave(self, state: State) -> tuple[bool, datetime | None]:
        """Return whether the saga leaves memory with this append, and when it is due."""
        if state.status.is_settled or next(state.open_in(Phase.RUNNING), None) is not None:
            return False, None
        if next(state.open_in(Phase.COMPENSATING), None) is not None:
            return False, None
        effects = react(self.saga.definition, state)
        wake_at = effects[0].at if effects and isinstance(effects[0], WakeAt) else None
        if self._host.draining:
            # What this worker holds back is due for the next one at once.
            held = transition(self.saga.definition, state, Wake(at=self._now())).events
            return True, None if held else wake_at
        far = wake_at is not None and self._is_far(wake_at)
        return far, wake_at if far else None

    def _appended(self, result: AppendResult) -> None:
        if self.is_over:
            return
        self._appending = False
        match result:
            case Committed(last_hash=last_hash):
                self.state, self._last_hash = self._next_state, last_hash
                if self._releasing:
                    settled = self.state.status.is_settled
                    self.abandon()
                    self._host.ended(self, settled=settled)
                elif self._mailbox:
                    self.decide()
                else:
                    self.perform()
            case Fenced():
                self.abandon()
                self._host.fenced(self)
            case Refused(error=error):
                self.abandon()
                self._host.failed(self, error)
            case _:
                assert_never(result)

    # -- attempts and timers ---------------------------------------------------------------

    def _begin(self, effect: RunStep) -> None:
        key = (effect.step, effect.operation, effect.attempt)
        if key in self._attempts or self._handing_over or not self._host.may_start_effects:
            return
        self._attempts[key] = asyncio.get_running_loop().create_task(self._attempt(effect, key))

    async def _attempt(self, effect: RunStep, key: tuple[str, Operation, int]) -> None:
        try:
            ended = await run_attempt(self.saga, self.state, effect, self._host.tools)
        except asyncio.CancelledError:
            return
        except Exception as error:  # noqa: BLE001 - a bug of ours must not strand the saga
            self.abandon()
            self._host.failed(self, error)
            return
        finally:
            self._attempts.pop(key, None)
        if not self._handing_over:
            self.submit(self._adjusted(ended))

    def _adjusted(self, ended: Ended) -> Ended:
        """Return *ended* in order of time; a worker that is about to stop starts nothing new."""
        if self._host.draining:
            ended = replace(ended, hold=True)
        if ended.at < self.state.updated_at:
            ended = replace(ended, at=self.state.updated_at)
        return ended

    def _wake_at(self, wake_at: datetime | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if wake_at is None or self._host.draining:
            return
        if not self._attempts and self._is_far(wake_at):
            self.abandon()
            self._host.give_up(self, wake_at)
            return
        delay = (wake_at - self._host.clock.now()).total_seconds()
        self._timer = asyncio.get_running_loop().call_later(max(delay, 0.0), self._wake)

    def _wake(self) -> None:
        self._timer = None
        self.submit(Wake(at=self._now()))

    def _is_far(self, instant: datetime) -> bool:
        return instant - self._host.clock.now() > self._host.settings.release_after

    def _now(self) -> datetime:
        # A database clock that was set back must not make a history run backwards.
        return max(self._host.clock.now(), self.state.updated_at)

    def _cancel_all(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        current = asyncio.current_task()
        for attempt in self._attempts.values():
            if attempt is not current:
                attempt.cancel()


def _is_progress(event: SagaEvent) -> bool:
    """Whether *event* says that the saga got anywhere since it was claimed."""
    match event:
        case SagaRecovered() | StepStarted() | StepCompensationStarted():
            return False
        case StepInDoubt(interrupted=interrupted):
            return not interrupted
        case _:
            return True

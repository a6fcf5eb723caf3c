"""One saga in memory: commands come in, appends and attempts go out.

A run is an actor without a task of its own. Commands (results, timers, requests) queue in
its mailbox; while an append is in flight nothing is decided, afterwards everything that
has queued is decided at once and appended together. What is due comes from `react`, after
an append as after a replay, so a run that was just recovered takes the normal path.

The state is folded in place: it is ahead of the table while an append is in flight, and
nothing is begun then. An append that is not committed ends the run.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, TypeVar, assert_never
from uuid import UUID

from eventsaga.core.commands import (
    Command,
    HandOver,
    RecordDoubt,
    RecordFailure,
    RecordSuccess,
    RequestUndo,
    Wake,
)
from eventsaga.core.decide import Transition, transition
from eventsaga.core.definition import group_of
from eventsaga.core.draft import child_id
from eventsaga.core.events import (
    Operation,
    SagaEvent,
    SagaRecovered,
    StepCompensationStarted,
    StepFailed,
    StepInDoubt,
    StepStarted,
)
from eventsaga.core.react import Effect, RunHook, RunStep, StartChild, WakeAt, react
from eventsaga.core.ready import is_at_rest
from eventsaga.core.state import Phase, State, Status
from eventsaga.errors import DatabaseUnavailableError, IllegalCommandError
from eventsaga.runtime.answers import SagaAnswers
from eventsaga.runtime.execute import (
    Attempt,
    Ended,
    failed_commit,
    function_of,
    interrupted,
    run_attempt,
    run_hook,
    withdrawn,
)
from eventsaga.runtime.host import Host
from eventsaga.runtime.mail import (
    MessageRefusedError,
    cancel_child,
    command_of,
    is_from_parent,
    messages_after,
    open_children,
    told_parent,
)
from eventsaga.runtime.outcome import describe, storable
from eventsaga.runtime.threads import Thread
from eventsaga.saga import Saga
from eventsaga.store.ports import (
    Append,
    AppendResult,
    Committed,
    Dismissal,
    Fenced,
    Message,
    Refused,
    RolledBack,
    Transaction,
)

# An instant that does not come: the saga waits for somebody outside.
_NEVER: Final = datetime(9999, 1, 1, tzinfo=UTC)

_NEXT_TRY_SECONDS: Final = 0.5

_ATTEMPTS: Final = (Phase.RUNNING, Phase.VERIFYING, Phase.COMPENSATING)

_Key = tuple[str, str, int]
_Effect = TypeVar("_Effect")


class _Mail(NamedTuple):
    """A command, and where it came from.

    Attributes:
        message: The request in the inbox, if it came from there.
        effect: The attempt that succeeded in *transaction*, which is still open.
    """

    command: Command
    message: Message | None = None
    effect: RunStep | None = None
    transaction: Transaction | None = None


class Run:
    """A saga that this worker owns.

    Args:
        saga: Its functions.
        state: Where it stands, all of it committed; the run owns it from now on.
        last_hash: Head of its chain.
        host: The worker.
    """

    __slots__ = (
        "_answers",
        "_appending",
        "_attempts",
        "_children",
        "_dismissals",
        "_handing_over",
        "_host",
        "_in_flight",
        "_last_hash",
        "_mailbox",
        "_messages",
        "_progressing",
        "_queued",
        "_releasing",
        "_timer",
        "_was",
        "has_progressed",
        "is_over",
        "saga",
        "state",
    )

    def __init__(self, saga: Saga[Any], state: State, last_hash: bytes, host: Host) -> None:
        self.saga = saga
        self.state = state
        self.is_over = False
        self.has_progressed = False
        self._progressing = False
        self._host = host
        self._answers = SagaAnswers(saga)
        self._last_hash = last_hash
        self._mailbox: deque[_Mail] = deque()
        # Requests that were seen, each as of when it was posted: a look at the inbox may be
        # older than the commit that answers them.
        self._messages: set[tuple[UUID, datetime | None]] = set()
        self._dismissals: list[Dismissal] = []
        self._attempts: dict[_Key, asyncio.Task[None]] = {}
        # Attempts that have not begun: they wait for a limit or for a thread.
        self._queued: dict[_Key, RunStep] = {}
        # Children that are known to exist, by step and attempt.
        self._children: set[tuple[str, int]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._was = state.status
        self._appending = False
        self._in_flight: tuple[SagaEvent, ...] = ()
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

    @property
    def is_settled(self) -> bool:
        """Whether the saga has ended or is parked, all of it committed."""
        return self._was.is_settled

    def submit(self, command: Command) -> None:
        """Decide *command*, now or after the append that is in flight."""
        self.enqueue(command)
        self.decide()

    def enqueue(self, command: Command) -> None:
        """Keep *command* for the next decision, which takes all that has queued."""
        if not self.is_over:
            self._mailbox.append(_Mail(command))

    def receive(self, message: Message) -> None:
        """Keep a request from the inbox for the next decision.

        It stays in the inbox until its events are committed, and is read again until then.
        """
        seen = (message.message_id, message.posted_at)
        if self.is_over or seen in self._messages:
            return
        self._messages.add(seen)
        try:
            command = command_of(message, self.saga, self.state, self._host.clock.now())
        except MessageRefusedError as error:
            self._dismissals.append(self._dismissal(message, str(error)))
            self._dismiss()
            return
        self._mailbox.append(_Mail(command, message))

    def perform(self) -> None:  # noqa: C901 - a line for each effect
        """Begin what is due; what runs already goes on. Called again when the lease is safe."""
        if self.is_over or self._appending:
            return
        if self.state.turn is not None and not self.state.is_backward:
            self._withdraw("the saga was turned back before the attempt began")
            if self._mailbox:
                self.decide()
                return
        wake_at: datetime | None = None
        for effect in react(self.saga.definition, self.state):
            match effect:
                case RunStep():
                    self._begin(_attempt_key(effect), self._attempt, effect)
                case StartChild():
                    if (effect.step, effect.attempt) not in self._children:
                        key = (effect.step, "child", effect.attempt)
                        self._begin(key, self._start_child, effect)
                case RunHook(not_before=at) if at is not None and at > self._host.clock.now():
                    wake_at = at
                case RunHook():
                    self._begin(_hook_key(effect), self._tell, effect)
                case WakeAt(at=at):
                    wake_at = at
                case _:
                    assert_never(effect)
        self._wait_until(wake_at)

    def hold_back(self) -> None:
        """Take back attempts that have not begun: the worker is about to stop."""
        self._withdraw("the worker was shut down before the attempt began")
        self.decide()

    def hand_over(self) -> None:
        """Cut running attempts short and record that; the saga may go on elsewhere."""
        self._handing_over = True
        self._cancel_all()
        self.submit(HandOver(at=self._now()))

    def abandon(self) -> None:
        """Forget everything: whatever is still in flight is nobody's."""
        self.is_over = True
        for mail in self._mailbox:
            if mail.transaction is not None:
                self._host.do(mail.transaction.rollback())
        self._mailbox.clear()
        self._cancel_all()

    # -- deciding and appending ------------------------------------------------------------

    def decide(self) -> None:
        """Decide all that has queued, unless an append is in flight: then after it."""
        if self._appending or self.is_over or not self._mailbox:
            return
        try:
            if self._mailbox[0].transaction is None:
                self._decide_all()
            else:
                # It stays in the mailbox until it is decided: what fails rolls it back there.
                self._decide_within(self._mailbox[0])
        except Exception as error:  # noqa: BLE001 - a bug of ours must not strand the saga
            self._fail(error)

    def _decide_all(self) -> None:
        before, events = self.state.seq, list[SagaEvent]()
        answered: list[Message] = []
        while self._mailbox and self._mailbox[0].transaction is None:
            mail = self._mailbox.popleft()
            decided = self._decided(mail)
            if decided is None:
                continue
            if mail.message is not None:
                answered.append(mail.message)
            events += decided.events
        if events:
            self._append(before, tuple(events), answered)
            return
        self._dismissals += [self._dismissal(message) for message in answered]
        self._dismiss()
        if self._mailbox:
            self.decide()
        else:
            self.perform()

    def _decided(self, mail: _Mail) -> Transition | None:
        """Return what follows from *mail*; None if it is a request that is refused."""
        command = self._in_order(mail.command)
        try:
            return transition(
                self.saga.definition, self.state, command, self._answers, in_place=True
            )
        except IllegalCommandError as error:
            if mail.message is None:
                raise
            # A request that the saga's state does not allow (any more).
            self._refuse_request(mail.message, mail.command, error)
            return None
        except Exception as error:
            if mail.message is not None:
                # Whoever wrote it wrote nonsense that nobody has thought of. It must not stop
                # the saga a second time.
                reason = f"the saga cannot take it: {describe(error)}"
                self._host.do(self._host.dismiss([self._dismissal(mail.message, reason)]))
            raise

    def _in_order(self, command: Command) -> Command:
        """Return *command* in order of time: it may have queued behind others."""
        if command.at < self.state.updated_at:
            return replace(command, at=self.state.updated_at)
        return command

    def _refuse_request(
        self, message: Message, command: Command, error: IllegalCommandError
    ) -> None:
        outbox: tuple[Message, ...] = ()
        if isinstance(command, RequestUndo) and is_from_parent(message, self.state):
            if self.state.is_backward and not self.state.status.is_terminal:
                # It goes back already, and tells its parent at the end.
                self._dismissals.append(self._dismissal(message))
                return
            is_undone = self.state.status is Status.COMPENSATED
            refused = None if is_undone else str(error)
            outbox = (told_parent(self.state, message.message_id, refused=refused),)
        self._dismissals.append(self._dismissal(message, str(error), outbox))

    def _dismissal(
        self, message: Message, reason: str | None = None, outbox: tuple[Message, ...] = ()
    ) -> Dismissal:
        return Dismissal(
            message.saga_id,
            message.message_id,
            None if reason is None else storable(reason),
            self.state.seq,
            message.posted_at,
            outbox,
        )

    def _dismiss(self) -> None:
        """Answer what causes no event, once all that this rests on is committed."""
        if self._dismissals and not self._appending:
            seq = self.state.seq
            dismissals = [dismissal._replace(seq=seq) for dismissal in self._dismissals]
            self._dismissals.clear()
            self._host.do(self._dismissed(dismissals, self._host.dismiss(dismissals)))

    async def _dismissed(
        self, dismissals: Sequence[Dismissal], answer: Coroutine[Any, Any, None]
    ) -> None:
        try:
            await answer
        except DatabaseUnavailableError:
            # Then they are open still, and must be answered when they are read again.
            self._messages -= {(one.message_id, one.posted_at) for one in dismissals}
            raise

    def _append(
        self, expected: int, events: tuple[SagaEvent, ...], answered: list[Message]
    ) -> None:
        append = self._prepared(expected, events, self.state)
        append.inbox = tuple(message.message_id for message in answered)
        self._await(append)
        self._host.append(append)

    def _await(self, append: Append) -> None:
        """Decide nothing until the outcome of *append* is known."""
        self._appending = True
        self._in_flight = append.events
        self._releasing = append.release

    def _prepared(self, expected: int, events: tuple[SagaEvent, ...], state: State) -> Append:
        release, wake_at = self._may_leave(state)
        self._progressing = self._handing_over or any(map(_is_progress, events))
        return Append(
            expected=expected,
            previous_hash=self._last_hash,
            events=events,
            state=state,
            release=release,
            wake_at=wake_at,
            progress=self._progressing,
            outbox=(
                *messages_after(events, state),
                *(cancel_child(state, step) for step in open_children(state)),
            ),
            done=self._appended,
        )

    def _may_leave(self, state: State) -> tuple[bool, datetime | None]:
        """Return whether the saga leaves memory with this append, and when it is due."""
        if is_at_rest(self.saga.definition, state):
            return True, None
        if next(state.open_in(*_ATTEMPTS), None) is not None:
            return False, None
        effects = react(self.saga.definition, state)
        wake_at, is_due = _due(effects, state), any(map(self._is_due, effects))
        if self._host.draining:
            # What this worker holds back is due for the next one at once.
            held = is_due or self._is_held_back(state)
            return True, state.updated_at if held else wake_at
        return (not is_due and self._is_far(wake_at)), wake_at

    def _is_due(self, effect: Effect) -> bool:
        match effect:
            case StartChild():
                return (effect.step, effect.attempt) not in self._children
            case RunHook(not_before=at):
                return at is None or not self._is_far(at)
            case RunStep():
                return True
            case WakeAt():
                return False
            case _:
                assert_never(effect)

    def _is_held_back(self, state: State) -> bool:
        wake = Wake(at=self._now())
        return bool(transition(self.saga.definition, state, wake, self._answers).events)

    def _appended(self, result: AppendResult) -> None:
        events, self._in_flight = self._in_flight, ()
        if isinstance(result, Committed):
            self._host.observers.committed(self.state, events)
        if self.is_over:
            return
        self._appending = False
        match result:
            case Committed(last_hash=last_hash):
                self._last_hash = last_hash
                self.has_progressed |= self._progressing
                self._committed()
            case Fenced():
                self.abandon()
                self._host.fenced(self)
            case Refused(error=error):
                self._fail(error)
            case _:
                assert_never(result)

    def _committed(self) -> None:
        self._dismiss()
        was, self._was = self._was, self.state.status
        if self._was.is_settled and was is not self._was:
            self._host.settled(self)
        if self._releasing:
            self.abandon()
            self._host.ended(self)
        elif self._mailbox:
            self.decide()
        else:
            self.perform()

    def _fail(self, error: Exception) -> None:
        self.abandon()
        self._host.failed(self, error)

    # -- transactional steps ---------------------------------------------------------------

    def _decide_within(self, mail: _Mail) -> None:
        """Decide what the user's transaction commits together with his rows."""
        assert mail.transaction is not None
        before = self.state.seq
        # On a copy: if the commit fails, the saga still stands where it stood.
        command = self._in_order(mail.command)
        decided = transition(self.saga.definition, self.state, command, self._answers)
        append = self._prepared(before, decided.events, decided.state) if decided.events else None
        self._mailbox.popleft()
        if append is None:
            self._host.do(mail.transaction.rollback())
            self.perform()
            return
        self._await(append)
        self._host.do(self._commit(mail, append))

    async def _commit(self, mail: _Mail, append: Append) -> None:
        assert mail.transaction is not None
        assert mail.effect is not None
        try:
            result = await mail.transaction.commit(append, self._host.worker_id)
        except Exception as error:  # noqa: BLE001 - a bug of ours must not strand the saga
            self._fail(error)
            return
        if not isinstance(result, RolledBack):
            if isinstance(result, Committed):
                self.state = append.state
            self._appended(result)
            return
        if self.is_over:
            return
        self._appending = False
        if result.may_succeed:
            ended: Ended = interrupted(mail.effect, self._host.tools, result.error)
        else:
            _, retry = function_of(self.saga, mail.effect)
            ended = failed_commit(mail.effect, self._host.tools, result.error, retry)
        self._take(_Mail(ended))

    # -- attempts and timers ---------------------------------------------------------------

    def _begin(
        self, key: _Key, work: Callable[[_Effect], Coroutine[Any, Any, None]], effect: _Effect
    ) -> None:
        if key in self._attempts or self._handing_over or not self._host.may_start_effects:
            return
        if isinstance(effect, RunStep) and effect.operation is not Operation.VERIFY:
            self._queued[key] = effect
        task = asyncio.get_running_loop().create_task(self._guarded(key, work, effect))
        self._attempts[key] = task

    async def _guarded(
        self, key: _Key, work: Callable[[_Effect], Coroutine[Any, Any, None]], effect: _Effect
    ) -> None:
        try:
            await work(effect)
        except asyncio.CancelledError:
            self._queued.pop(key, None)
            self._attempts.pop(key, None)
        except Exception as error:  # noqa: BLE001 - a bug of ours must not strand the saga
            self._fail(error)

    async def _attempt(self, effect: RunStep) -> None:
        key, before = _attempt_key(effect), self.state.context
        async with AsyncExitStack() as stack:
            thread = await self._admitted(effect, stack)
            self._queued.pop(key, None)
            if not self._host.may_start_effects:
                # The wait outlasted the lease; who is told no is asked again.
                self._attempts.pop(key, None)
                return
            began = self._host.clock.monotonic()
            mail = await self._attempted(effect, before, thread)
            seconds = self._host.clock.monotonic() - began
            self._host.observers.attempted(self.state, effect, mail.command, seconds)
        self._attempts.pop(key, None)
        self._take(mail)

    async def _admitted(self, effect: RunStep, stack: AsyncExitStack) -> Thread | None:
        """Wait for whatever the attempt must have before it begins; *stack* gives it back."""
        limit = self.saga.bound.steps[group_of(effect.step) or effect.step].limit
        if limit is not None and effect.operation is not Operation.VERIFY:
            await stack.enter_async_context(self._host.permit(limit))
        function, _ = function_of(self.saga, effect)
        return await stack.enter_async_context(self._host.tools.thread_for(function))

    def _withdraw(self, reason: str) -> None:
        """Take back attempts that have not begun: nothing of them can have happened."""
        queued, self._queued = self._queued, {}
        for key, effect in queued.items():
            self._attempts.pop(key).cancel()
            ended = withdrawn(effect, self._host.tools, reason)
            self._mailbox.append(_Mail(replace(ended, hold=self._host.draining)))

    async def _attempted(self, effect: RunStep, before: Any, thread: Thread | None) -> _Mail:
        attempt = Attempt(self.saga, self._answers, self.state, before, effect, thread=thread)
        task = self.saga.definition.task(effect.step)
        if not task.transactional or effect.operation is Operation.VERIFY:
            return _Mail(await run_attempt(attempt, self._host.tools))
        try:
            transaction = await self._host.begin(task.timeout)
        except DatabaseUnavailableError as error:
            return _Mail(interrupted(effect, self._host.tools, error))
        try:
            ended = await run_attempt(replace(attempt, transaction=transaction), self._host.tools)
        except BaseException:
            await transaction.rollback()
            raise
        if isinstance(ended, RecordSuccess):
            return _Mail(ended, None, effect, transaction)
        await transaction.rollback()
        return _Mail(ended)

    def _take(self, mail: _Mail) -> None:
        if self._handing_over or self.is_over:
            if mail.transaction is not None:
                self._host.do(mail.transaction.rollback())
            return
        command = mail.command
        if self._host.draining and isinstance(command, RecordSuccess | RecordFailure | RecordDoubt):
            # A worker that is about to stop starts nothing new.
            command = replace(command, hold=True)
        self._mailbox.append(mail._replace(command=command))
        self.decide()

    async def _tell(self, effect: RunHook) -> None:
        command = await run_hook(self.saga, self.state, effect, self._host.tools)
        self._attempts.pop(_hook_key(effect), None)
        self._take(_Mail(command))

    async def _start_child(self, effect: StartChild) -> None:
        """See to it that a child exists; it is nobody's then, and any worker may take it."""
        state = self.state
        child = child_id(state.saga_id, effect.step, effect.attempt)
        node = self.saga.bound.children[effect.step]
        context = state.steps[effect.step].result or {}
        await self._host.start_child(node.saga, child, dict(context), state, effect.step)
        for step in tuple(open_children(self.state)):
            # It was started after the saga had been turned back.
            await self._host.post(cancel_child(self.state, step))
        self._children.add((effect.step, effect.attempt))
        self._attempts.pop((effect.step, "child", effect.attempt), None)
        self.perform()

    def _wait_until(self, wake_at: datetime | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._host.draining:
            return
        if wake_at is None:
            if not self._attempts:
                self._leave()
            return
        if not self._attempts and self._is_far(wake_at):
            self._leave()
            return
        delay = (wake_at - self._host.clock.now()).total_seconds()
        self._timer = asyncio.get_running_loop().call_later(max(delay, 0.0), self.wake)

    def _leave(self) -> None:
        """Leave a saga that only waits to whoever is there when its time comes."""
        if not self._host.may_start_effects:
            return  # its attempts were held back
        at_rest = is_at_rest(self.saga.definition, self.state)
        effects = react(self.saga.definition, self.state)
        wake_at = None if at_rest else _due(effects, self.state)
        self.abandon()
        self._host.give_up(self, wake_at)

    def wake(self, *, mail_read_at: datetime | None = None) -> None:
        """Go on: decide all that has queued, and whatever the clock says.

        Args:
            mail_read_at: When all mail was read; None if that has to be done.
        """
        self._timer = None
        if next(self.state.open_in(Phase.AWAITING), None) is None:
            self.submit(Wake(at=self._now()))
        elif mail_read_at is not None:
            self.submit(Wake(at=mail_read_at))
        else:
            self._host.do(self._wake_after_mail())

    async def _wake_after_mail(self) -> None:
        """Wake up with all mail read: a signal that is durable comes before its timeout."""
        try:
            mail = await self._host.mail_of(self.saga_id)
        except DatabaseUnavailableError:
            if not self.is_over:
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(_NEXT_TRY_SECONDS, self.wake)
            raise
        for message in mail:
            self.receive(message)
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


def _attempt_key(effect: RunStep) -> _Key:
    return effect.step, effect.operation.value, effect.attempt


def _hook_key(effect: RunHook) -> _Key:
    return effect.hook.value, f"hook/{effect.settled_seq}", effect.attempt


def _due(effects: Sequence[Effect], state: State) -> datetime:
    """Return when a saga with these *effects* is due if nobody writes to it before."""
    for effect in effects:
        match effect:
            case WakeAt(at=at) | RunHook(not_before=datetime() as at):
                return at
            case RunHook():
                return state.updated_at
            case _:
                pass
    return _NEVER


def _is_progress(event: SagaEvent) -> bool:
    """Whether *event* says that the saga got anywhere since it was claimed."""
    match event:
        case SagaRecovered() | StepStarted() | StepCompensationStarted():
            return False
        case StepInDoubt(interrupted=interrupted_here):
            return not interrupted_here
        case StepFailed(interrupted=interrupted_here):
            return not interrupted_here
        case _:
            return True

"""Which histories can there be? An automaton that knows no definition and no store.

Written apart from `decide` and `evolve`, so that it can bear witness against both:

    saga   NEW -> FORWARD -> TURNED -> BACKWARD -> ENDED
           PARKED on the way in any of them, and back by what a person asks
    step   RUNNING <-> WAITING, then SUCCEEDED or CLOSED; or a wait, then the same
           COMPENSATING <-> COMPENSATION_WAITING, then COMPENSATED or COMPENSATION_FAILED

A saga is turned by the first thing that makes it go back; from then on no step starts.
After its end a saga may only be undone, and its hooks are told.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, NoReturn, assert_never

from eventsaga.core.definition import StepName, group_of
from eventsaga.core.events import (
    ChildEnded,
    ChildStarted,
    CompensationStarted,
    DataRedacted,
    ForEachStarted,
    HookDelivered,
    HookFailed,
    Next,
    Operation,
    Resolution,
    SagaAccepted,
    SagaCancelRequested,
    SagaCompensated,
    SagaCompleted,
    SagaDeadlineExceeded,
    SagaEvent,
    SagaFailed,
    SagaParked,
    SagaRecovered,
    SagaRetried,
    SagaStarted,
    SignalAwaited,
    SignalReceived,
    StepCompensated,
    StepCompensationFailed,
    StepCompensationStarted,
    StepFailed,
    StepInDoubt,
    StepResolved,
    StepSkipped,
    StepStarted,
    StepSucceeded,
    TimerFired,
    TimerStarted,
    UndoRequested,
    VerificationStarted,
)


def first_violation(events: Iterable[SagaEvent]) -> tuple[int, str] | None:
    """Return the first of *events*, a whole history, that cannot stand where it stands.

    Returns:
        Its number, counting from 1, and the reason; None if the history is well-formed.
        What follows the first violation says nothing, so it is not judged.
    """
    automaton = _Automaton()
    for seq, event in enumerate(events, 1):
        try:
            automaton.read(event)
        except _UngrammaticalError as error:
            return seq, f"{type(event).__name__} cannot stand here: {error}"
    return None


# What only a saga with a valid context does on its way forward.
_BEGINNING: Final = (
    StepStarted,
    TimerStarted,
    SignalAwaited,
    ChildStarted,
    ForEachStarted,
    StepSkipped,
    StepFailed,
    SagaCompleted,
)


class _UngrammaticalError(Exception):
    """The event cannot stand here."""


class _Stage(Enum):
    NEW = auto()
    FORWARD = auto()
    TURNED = auto()
    BACKWARD = auto()
    ENDED = auto()


class _Phase(Enum):
    RUNNING = auto()
    WAITING = auto()
    VERIFYING = auto()
    VERIFICATION_WAITING = auto()
    SLEEPING = auto()
    AWAITING = auto()
    CHILD = auto()
    GROUP = auto()
    STUCK = auto()
    SUCCEEDED = auto()
    SKIPPED = auto()
    CLOSED = auto()
    COMPENSATING = auto()
    COMPENSATION_WAITING = auto()
    COMPENSATED = auto()
    COMPENSATION_FAILED = auto()
    LEFT = auto()


_UNDO_IS_OWED: Final = frozenset(
    {_Phase.COMPENSATING, _Phase.COMPENSATION_WAITING, _Phase.COMPENSATION_FAILED, _Phase.LEFT}
)
_IS_UNDER_WAY: Final = frozenset({_Phase.RUNNING, _Phase.VERIFYING, _Phase.CHILD})
_WAITS: Final = frozenset({_Phase.SLEEPING, _Phase.AWAITING, _Phase.CHILD, _Phase.GROUP})
_GAVE_UP: Final = frozenset({_Phase.STUCK, _Phase.COMPENSATION_FAILED})
_IS_OVER: Final = frozenset({_Phase.SUCCEEDED, _Phase.SKIPPED})


@dataclass(slots=True)
class _Step:
    """One step: where it stands, and whether its effect may have happened."""

    phase: _Phase = _Phase.RUNNING
    attempt: int = 1
    undo_attempt: int = 0
    may_have_happened: bool = False


class _Automaton:
    """Reads a history event by event."""

    def __init__(self) -> None:
        self._stage = _Stage.NEW
        self._is_parked = False
        self._is_accepted = True
        self._has_pivoted = False
        self._end: SagaEvent | None = None
        self._steps: dict[StepName, _Step] = {}
        self._signals: set[object] = set()

    def read(self, event: SagaEvent) -> None:  # noqa: C901 - a line for each kind
        """Take the next event.

        Raises:
            _UngrammaticalError: If it cannot stand here.
        """
        _require(
            (self._stage is _Stage.NEW) == isinstance(event, SagaStarted),
            "a history begins with SagaStarted, and has no other",
        )
        if not isinstance(event, HookDelivered | HookFailed | UndoRequested | DataRedacted):
            _require(self._stage is not _Stage.ENDED, "the saga has ended")
        begins = isinstance(event, _BEGINNING)
        _require(self._is_accepted or not begins, "nobody has validated the input")
        match event:
            case (
                StepStarted() | TimerStarted() | SignalAwaited() | ChildStarted() | ForEachStarted()
            ):
                self._on_started(event)
            case VerificationStarted():
                self._on_verification(event)
            case StepSucceeded() | StepFailed():
                self._on_attempt_ended(event)
            case StepInDoubt(operation=operation):
                if operation is Operation.COMPENSATE:
                    self._on_undo_ended(event)
                else:
                    self._on_attempt_ended(event)
            case StepCompensationStarted():
                self._on_undo_started(event)
            case StepCompensated() | StepCompensationFailed():
                self._on_undo_ended(event)
            case TimerFired() | ChildEnded() | SignalReceived():
                self._on_news(event)
            case SagaRetried() | StepResolved() | StepSkipped():
                self._on_request(event)
            case _:
                self._on_saga_event(event)

    # -- the saga --------------------------------------------------------------------------

    def _on_saga_event(  # noqa: C901 - a line for each event
        self,
        event: SagaStarted
        | SagaAccepted
        | CompensationStarted
        | SagaCancelRequested
        | SagaDeadlineExceeded
        | SagaRecovered
        | SagaParked
        | SagaCompleted
        | SagaCompensated
        | SagaFailed
        | UndoRequested
        | HookDelivered
        | HookFailed
        | DataRedacted,
    ) -> None:
        match event:
            case SagaStarted():
                self._stage = _Stage.FORWARD
                self._is_accepted = event.input is None
            case SagaAccepted():
                self._require_awake()
                self._require_stage(_Stage.FORWARD, "the saga goes back")
                _require(not self._is_accepted, "the input was validated before")
                self._is_accepted = True
            case SagaCancelRequested() | SagaDeadlineExceeded():
                self._require_stage(_Stage.FORWARD, "the saga goes back already")
                _require(not self._has_pivoted, "the saga has passed its pivot")
                self._stage, self._is_parked = _Stage.TURNED, False
                if isinstance(event, SagaCancelRequested):
                    self._close_stuck()
            case CompensationStarted():
                self._require_stage(_Stage.TURNED, "nothing has turned the saga back")
                self._require_awake()
                self._require_none_in(_IS_UNDER_WAY, "is still running")
                self._stage = _Stage.BACKWARD
            case SagaRecovered():
                self._require_awake()
            case SagaParked():
                self._require_awake()
                self._is_parked = True
            case SagaCompleted() | SagaCompensated() | SagaFailed():
                self._on_end(event)
            case UndoRequested():
                _require(isinstance(self._end, SagaCompleted), "the saga has not completed")
                _require(not self._has_pivoted, "the saga has passed its pivot")
                self._stage, self._end = _Stage.TURNED, None
            case DataRedacted():
                _require(self._end is not None, "the saga has not ended")
            case HookDelivered() | HookFailed():
                _require(self._is_parked or self._end is not None, "the saga has not settled")
            case _:
                assert_never(event)

    def _on_end(self, event: SagaCompleted | SagaCompensated | SagaFailed) -> None:
        match event:
            case SagaCompleted():
                self._require_awake()
                self._require_stage(_Stage.FORWARD, "the saga goes back")
                self._require_none_in(frozenset(_Phase) - _IS_OVER, "has not succeeded")
            case SagaCompensated():
                self._require_awake()
                self._require_stage(_Stage.BACKWARD, "no CompensationStarted came before it")
                self._require_none_in(_UNDO_IS_OWED, "is not compensated")
            case SagaFailed():
                _require(
                    self._is_parked or self._stage is _Stage.BACKWARD,
                    "only a parked saga is given up",
                )
            case _:
                assert_never(event)
        self._stage, self._is_parked, self._end = _Stage.ENDED, False, event

    def _require_stage(self, stage: _Stage, otherwise: str) -> None:
        _require(self._stage is stage, otherwise)

    def _require_awake(self) -> None:
        _require(not self._is_parked, "the saga is parked")

    def _require_none_in(self, phases: Iterable[_Phase], complaint: str) -> None:
        for name, step in self._steps.items():
            _require(step.phase not in phases, f"step {name!r} {complaint}")

    def _turn(self) -> None:
        if self._stage is _Stage.FORWARD:
            _require(not self._has_pivoted, "the saga has passed its pivot")
            self._stage = _Stage.TURNED

    def _close_stuck(self) -> None:
        # What gave up on the way forward needs nobody any more.
        for step in self._steps.values():
            if step.phase is _Phase.STUCK:
                step.phase = _Phase.CLOSED

    # -- people ----------------------------------------------------------------------------

    def _on_request(self, event: SagaRetried | StepResolved | StepSkipped) -> None:
        match event:
            case SagaRetried():
                _require(self._is_parked, "the saga is not parked")
                for name in event.steps:
                    step = self._gave_up(name)
                    undone = step.phase is _Phase.COMPENSATION_FAILED
                    step.phase = _Phase.COMPENSATION_WAITING if undone else _Phase.WAITING
                self._is_parked = False
            case StepSkipped():
                self._on_skipped(event)
            case StepResolved():
                self._on_resolved(self._gave_up(event.step), event)
            case _:
                assert_never(event)

    def _on_skipped(self, event: StepSkipped) -> None:
        if event.actor is None:
            self._require_awake()
            self._require_stage(_Stage.FORWARD, "the saga goes back")
            found = self._steps.get(event.step)
            never_ran = found is None or (found.phase is _Phase.WAITING and found.attempt == 0)
            _require(never_ran, f"step {event.step!r} was begun")
            self._steps[event.step] = _Step(_Phase.SKIPPED, attempt=0)
            return
        step = self._gave_up(event.step)
        undone = step.phase is _Phase.COMPENSATION_FAILED
        step.phase = _Phase.LEFT if undone else _Phase.SKIPPED
        self._wake_if_unstuck()

    def _on_resolved(self, step: _Step, event: StepResolved) -> None:
        _require(
            (event.resolution is Resolution.COMPENSATED)
            == (step.phase is _Phase.COMPENSATION_FAILED),
            f"step {event.step!r} is not one that can be {event.resolution}",
        )
        match event.resolution:
            case Resolution.SUCCEEDED:
                step.phase, step.may_have_happened = _Phase.SUCCEEDED, True
                self._has_pivoted |= bool(event.pivot)
            case Resolution.FAILED:
                step.phase, step.may_have_happened = _Phase.CLOSED, False
                self._turn()
            case Resolution.COMPENSATED:
                step.phase = _Phase.COMPENSATED
            case _:
                assert_never(event.resolution)
        self._wake_if_unstuck()

    def _gave_up(self, name: StepName) -> _Step:
        step = self._steps.get(name)
        _require(self._is_parked, "the saga is not parked")
        if step is None or step.phase not in _GAVE_UP:
            _refuse(f"step {name!r} has not given up")
        return step

    def _wake_if_unstuck(self) -> None:
        if not any(step.phase in _GAVE_UP for step in self._steps.values()):
            self._is_parked = False

    # -- steps -----------------------------------------------------------------------------

    def _on_started(
        self,
        event: StepStarted | TimerStarted | SignalAwaited | ChildStarted | ForEachStarted,
    ) -> None:
        self._require_awake()
        self._require_stage(_Stage.FORWARD, "the saga goes back")
        group = group_of(event.step)
        if group is not None:
            found = self._steps.get(group)
            is_open = found is not None and found.phase is _Phase.GROUP
            _require(is_open, f"group {group!r} was not begun")
        phase = _phase_after(event)
        step = self._steps.get(event.step)
        if step is None:
            _require_attempt(event, 1)
            self._steps[event.step] = _Step(phase)
            return
        _require(step.phase is _Phase.WAITING, f"step {event.step!r} has no attempt left")
        _require_attempt(event, step.attempt + 1)
        step.phase, step.attempt = phase, step.attempt + 1

    def _on_verification(self, event: VerificationStarted) -> None:
        self._require_awake()
        self._require_stage(_Stage.FORWARD, "the saga goes back")
        step = self._steps.get(event.step)
        if step is None or step.phase is not _Phase.VERIFICATION_WAITING:
            _refuse(f"nothing is to be asked about step {event.step!r}")
        _require_attempt(event, step.attempt)
        step.phase = _Phase.VERIFYING

    def _on_news(self, event: TimerFired | ChildEnded | SignalReceived) -> None:
        if isinstance(event, SignalReceived):
            _require(event.id not in self._signals, "the signal was taken before")
            self._signals.add(event.id)
            return
        step = self._steps.get(event.step)
        expected = (
            {_Phase.SLEEPING, _Phase.AWAITING}
            if isinstance(event, TimerFired)
            else {_Phase.CHILD, _Phase.COMPENSATING}
        )
        if step is None or step.phase not in expected:
            _refuse(f"step {event.step!r} does not wait for it")

    def _on_attempt_ended(self, event: StepSucceeded | StepFailed | StepInDoubt) -> None:
        step = self._ending(event)
        if isinstance(event, StepSucceeded):
            step.phase, step.may_have_happened = _Phase.SUCCEEDED, True
            self._has_pivoted |= bool(event.pivot)
            if event.conflict is not None:
                self._turn()
            return
        step.phase = _phase_after_failure(event)
        if isinstance(event, StepInDoubt):
            step.may_have_happened = True
        elif event.effect_happened is not None:
            step.may_have_happened = event.effect_happened
        if step.phase is _Phase.CLOSED:
            self._turn()

    def _ending(self, event: StepSucceeded | StepFailed | StepInDoubt) -> _Step:
        step = self._steps.get(event.step)
        if isinstance(event, StepFailed) and self._could_not_begin(event, step):
            step = step or _Step(attempt=event.attempt)
            self._steps[event.step] = step
            return step
        ends = {_Phase.RUNNING, _Phase.VERIFYING}
        if isinstance(event, StepInDoubt):
            if event.then is Next.PARK and event.interrupted:
                ends |= {_Phase.WAITING}  # its key is too old to be sent again
        else:
            ends |= _WAITS
        if step is None or step.phase not in ends:
            _refuse(f"no attempt of step {event.step!r} is running")
        _require_attempt(event, step.attempt)
        return step

    def _could_not_begin(self, event: StepFailed, step: _Step | None) -> bool:
        if self._stage is not _Stage.FORWARD or self._is_parked:
            return False
        if step is None:
            return event.attempt == 0
        return step.phase is _Phase.WAITING and event.attempt == step.attempt

    def _on_undo_started(self, event: StepCompensationStarted) -> None:
        self._require_awake()
        self._require_stage(_Stage.BACKWARD, "no CompensationStarted came before it")
        step = self._steps.get(event.step)
        if step is None or not step.may_have_happened:
            _refuse(f"step {event.step!r} never had an effect")
        first = step.phase in {
            _Phase.SUCCEEDED,
            _Phase.SKIPPED,
            _Phase.CLOSED,
            _Phase.WAITING,
            _Phase.VERIFICATION_WAITING,
        }
        _require(
            first or step.phase is _Phase.COMPENSATION_WAITING,
            f"the compensation of step {event.step!r} has no attempt left",
        )
        _require_attempt(event, step.undo_attempt + 1)
        step.phase, step.undo_attempt = _Phase.COMPENSATING, event.attempt

    def _on_undo_ended(self, event: StepCompensated | StepCompensationFailed | StepInDoubt) -> None:
        step = self._steps.get(event.step)
        ends = {_Phase.COMPENSATING}
        if isinstance(event, StepCompensationFailed) and event.retry_at is None:
            ends |= {_Phase.COMPENSATION_WAITING}  # its key is too old to be sent again
        if step is None or step.phase not in ends:
            _refuse(f"no compensation of step {event.step!r} is running")
        _require_attempt(event, step.undo_attempt)
        if isinstance(event, StepCompensated):
            step.phase = _Phase.COMPENSATED
        else:
            gave_up = event.retry_at is None
            step.phase = _Phase.COMPENSATION_FAILED if gave_up else _Phase.COMPENSATION_WAITING


def _phase_after(
    event: StepStarted | TimerStarted | SignalAwaited | ChildStarted | ForEachStarted,
) -> _Phase:
    match event:
        case StepStarted():
            return _Phase.RUNNING
        case TimerStarted():
            return _Phase.SLEEPING
        case SignalAwaited():
            return _Phase.AWAITING
        case ChildStarted():
            return _Phase.CHILD
        case ForEachStarted():
            return _Phase.GROUP
        case _:
            assert_never(event)


def _phase_after_failure(event: StepFailed | StepInDoubt) -> _Phase:
    if event.then is Next.PARK:
        return _Phase.STUCK
    if event.retry_at is None:
        return _Phase.CLOSED
    return _Phase.VERIFICATION_WAITING if event.then is Next.VERIFY else _Phase.WAITING


def _require_attempt(event: SagaEvent, expected: int) -> None:
    found = getattr(event, "attempt", expected)  # waits are not counted in their events
    _require(found == expected, f"it is attempt {found}, not {expected}")


def _require(condition: bool, otherwise: str) -> None:  # noqa: FBT001 - reads like an assert
    if not condition:
        _refuse(otherwise)


def _refuse(reason: str) -> NoReturn:
    raise _UngrammaticalError(reason)

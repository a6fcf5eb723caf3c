"""Which histories can there be? An automaton that knows no definition and no store.

Written apart from `decide` and `evolve`, so that it can bear witness against both:

    saga   NEW -> FORWARD -> TURNED -> BACKWARD -> SETTLED
    step   RUNNING <-> WAITING, then SUCCEEDED or CLOSED
           COMPENSATING <-> COMPENSATION_WAITING, then COMPENSATED or COMPENSATION_FAILED

A saga is turned by the first thing that makes it go back; from then on no step starts.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, NoReturn, assert_never

from eventsaga.core.definition import StepName
from eventsaga.core.events import (
    CompensationStarted,
    Operation,
    SagaCancelRequested,
    SagaCompensated,
    SagaCompleted,
    SagaDeadlineExceeded,
    SagaEvent,
    SagaParked,
    SagaRecovered,
    SagaStarted,
    StepCompensated,
    StepCompensationFailed,
    StepCompensationStarted,
    StepFailed,
    StepInDoubt,
    StepStarted,
    StepSucceeded,
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


class _UngrammaticalError(Exception):
    """The event cannot stand here."""


class _Stage(Enum):
    NEW = auto()
    FORWARD = auto()
    TURNED = auto()
    BACKWARD = auto()
    SETTLED = auto()


class _Phase(Enum):
    RUNNING = auto()
    WAITING = auto()
    SUCCEEDED = auto()
    CLOSED = auto()
    COMPENSATING = auto()
    COMPENSATION_WAITING = auto()
    COMPENSATED = auto()
    COMPENSATION_FAILED = auto()


_UNDO_IS_OWED: Final = frozenset(
    {_Phase.COMPENSATING, _Phase.COMPENSATION_WAITING, _Phase.COMPENSATION_FAILED}
)


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
        self._steps: dict[StepName, _Step] = {}

    def read(self, event: SagaEvent) -> None:
        """Take the next event.

        Raises:
            _UngrammaticalError: If it cannot stand here.
        """
        _require(
            (self._stage is _Stage.NEW) == isinstance(event, SagaStarted),
            "a history begins with SagaStarted, and has no other",
        )
        _require(self._stage is not _Stage.SETTLED, "the saga has ended or is parked")
        match event:
            case StepStarted():
                self._on_step_started(event)
            case StepSucceeded() | StepFailed():
                self._on_attempt_ended(event)
            case StepInDoubt(operation=operation):
                if operation is Operation.EXECUTE:
                    self._on_attempt_ended(event)
                else:
                    self._on_undo_ended(event)
            case StepCompensationStarted():
                self._on_undo_started(event)
            case StepCompensated() | StepCompensationFailed():
                self._on_undo_ended(event)
            case _:
                self._on_saga_event(event)

    # -- the saga --------------------------------------------------------------------------

    def _on_saga_event(
        self,
        event: SagaStarted
        | CompensationStarted
        | SagaCancelRequested
        | SagaDeadlineExceeded
        | SagaRecovered
        | SagaParked
        | SagaCompleted
        | SagaCompensated,
    ) -> None:
        match event:
            case SagaStarted():
                self._stage = _Stage.FORWARD
            case SagaCancelRequested() | SagaDeadlineExceeded():
                self._require_stage(_Stage.FORWARD, "the saga goes back already")
                self._stage = _Stage.TURNED
            case CompensationStarted():
                self._require_stage(_Stage.TURNED, "nothing has turned the saga back")
                self._require_none_in({_Phase.RUNNING}, "is still running")
                self._stage = _Stage.BACKWARD
            case SagaRecovered():
                pass
            case SagaParked():
                self._stage = _Stage.SETTLED
            case SagaCompleted():
                self._require_stage(_Stage.FORWARD, "the saga goes back")
                self._require_none_in(frozenset(_Phase) - {_Phase.SUCCEEDED}, "has not succeeded")
                self._stage = _Stage.SETTLED
            case SagaCompensated():
                self._require_stage(_Stage.BACKWARD, "no CompensationStarted came before it")
                self._require_none_in(_UNDO_IS_OWED, "is not compensated")
                self._stage = _Stage.SETTLED
            case _:
                assert_never(event)

    def _require_stage(self, stage: _Stage, otherwise: str) -> None:
        _require(self._stage is stage, otherwise)

    def _require_none_in(self, phases: Iterable[_Phase], complaint: str) -> None:
        for name, step in self._steps.items():
            _require(step.phase not in phases, f"step {name!r} {complaint}")

    # -- steps -----------------------------------------------------------------------------

    def _on_step_started(self, event: StepStarted) -> None:
        self._require_stage(_Stage.FORWARD, "the saga goes back")
        step = self._steps.get(event.step)
        if step is None:
            _require_attempt(event.attempt, 1)
            self._steps[event.step] = _Step()
            return
        _require(step.phase is _Phase.WAITING, f"step {event.step!r} has no attempt left")
        _require_attempt(event.attempt, step.attempt + 1)
        step.phase, step.attempt = _Phase.RUNNING, event.attempt

    def _on_attempt_ended(self, event: StepSucceeded | StepFailed | StepInDoubt) -> None:
        step = self._steps.get(event.step)
        if step is None or step.phase is not _Phase.RUNNING:
            _refuse(f"no attempt of step {event.step!r} is running")
        _require_attempt(event.attempt, step.attempt)
        if isinstance(event, StepSucceeded):
            step.phase, step.may_have_happened = _Phase.SUCCEEDED, True
            turns = event.conflict is not None
        else:
            step.phase = _Phase.CLOSED if event.retry_at is None else _Phase.WAITING
            step.may_have_happened |= isinstance(event, StepInDoubt) or bool(event.effect_happened)
            turns = event.retry_at is None
        if turns and self._stage is _Stage.FORWARD:
            self._stage = _Stage.TURNED

    def _on_undo_started(self, event: StepCompensationStarted) -> None:
        self._require_stage(_Stage.BACKWARD, "no CompensationStarted came before it")
        step = self._steps.get(event.step)
        if step is None or not step.may_have_happened:
            _refuse(f"step {event.step!r} never had an effect")
        first = step.phase in {_Phase.SUCCEEDED, _Phase.CLOSED, _Phase.WAITING}
        _require(
            first or step.phase is _Phase.COMPENSATION_WAITING,
            f"the compensation of step {event.step!r} has no attempt left",
        )
        _require_attempt(event.attempt, step.undo_attempt + 1)
        step.phase, step.undo_attempt = _Phase.COMPENSATING, event.attempt

    def _on_undo_ended(self, event: StepCompensated | StepCompensationFailed | StepInDoubt) -> None:
        step = self._steps.get(event.step)
        if step is None or step.phase is not _Phase.COMPENSATING:
            _refuse(f"no compensation of step {event.step!r} is running")
        _require_attempt(event.attempt, step.undo_attempt)
        if isinstance(event, StepCompensated):
            step.phase = _Phase.COMPENSATED
        else:
            gave_up = event.retry_at is None
            step.phase = _Phase.COMPENSATION_FAILED if gave_up else _Phase.COMPENSATION_WAITING


def _require_attempt(found: int, expected: int) -> None:
    _require(found == expected, f"it is attempt {found}, not {expected}")


def _require(condition: bool, otherwise: str) -> None:  # noqa: FBT001 - reads like an assert
    if not condition:
        _refuse(otherwise)


def _refuse(reason: str) -> NoReturn:
    raise _UngrammaticalError(reason)

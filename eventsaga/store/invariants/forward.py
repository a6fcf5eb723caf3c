"""Does a saga go forward as it may? Invariants 2, 7 and 10."""

from collections.abc import Iterator
from typing import Final

from eventsaga.core.definition import StepName
from eventsaga.core.events import (
    ChildStarted,
    CompensationStarted,
    ForEachStarted,
    Operation,
    Resolution,
    SagaCancelRequested,
    SagaDeadlineExceeded,
    SagaEvent,
    SignalAwaited,
    StepCompensationStarted,
    StepFailed,
    StepInDoubt,
    StepResolved,
    StepSkipped,
    StepStarted,
    StepSucceeded,
    TimerStarted,
    UndoRequested,
    VerificationStarted,
)
from eventsaga.store.examine import GRAMMAR, Violation
from eventsaga.store.invariants.catalogue import (
    KEY_STABILITY,
    NO_FORWARD,
)
from eventsaga.store.invariants.owed import base
from eventsaga.store.invariants.told import Told


def of_the_definition(told: Told) -> Iterator[Violation]:
    """2: every step stands in the definition."""
    if told.known is None:
        return
    known = told.known.definition.steps
    for seq, event in told.numbered():
        if isinstance(event, _MOVES) and base(event.step) not in known:
            message = f"step {event.step!r} does not stand in the definition"
            yield told.violation(seq, GRAMMAR, message)


def stable_keys(told: Told) -> Iterator[Violation]:
    """7: all attempts of an operation carry one key, and no two operations share one."""
    key_of: dict[tuple[StepName, type[SagaEvent]], str] = {}
    owner_of: dict[str, tuple[StepName, type[SagaEvent]]] = {}
    for seq, event in told.numbered():
        if not isinstance(event, StepStarted | StepCompensationStarted):
            continue
        asked, key = (event.step, type(event)), event.idempotency_key
        if key_of.setdefault(asked, key) != key:
            message = f"step {event.step!r} changed its key from {key_of[asked]!r} to {key!r}"
            yield told.violation(seq, KEY_STABILITY, message)
        elif owner_of.setdefault(key, asked) != asked:
            other = owner_of[key][0]
            message = f"step {event.step!r} has a key that an operation of {other!r} has"
            yield told.violation(seq, KEY_STABILITY, message)


_BEGINS: Final = (StepStarted, ChildStarted, ForEachStarted, TimerStarted, SignalAwaited)
_GOES_FORWARD: Final = (*_BEGINS, VerificationStarted)
_MOVES: Final = (*_BEGINS, StepSkipped)
_GOES_BACK: Final = (
    CompensationStarted,
    StepCompensationStarted,
    SagaCancelRequested,
    SagaDeadlineExceeded,
    UndoRequested,
)
TURNS: Final = frozenset({*_GOES_BACK, StepFailed, StepInDoubt, StepResolved})
"""Without one of these a saga goes straight on."""


def no_forward(told: Told) -> Iterator[Violation]:
    """10: nothing begins once the saga goes back, and nothing goes back after the pivot."""
    turned, pivoted = False, False
    for seq, event in told.numbered():
        if turned and isinstance(event, _GOES_FORWARD):
            message = f"step {event.step!r} was begun, and the saga goes back"
            yield told.violation(seq, NO_FORWARD, message)
        if pivoted and (isinstance(event, _GOES_BACK) or _turns(event)):
            message = f"{type(event).__name__} after the pivot"
            yield told.violation(seq, NO_FORWARD, message)
        turned = turned or _turns(event)
        pivoted = pivoted or (
            isinstance(event, StepSucceeded | StepResolved) and event.pivot is True
        )


def _turns(event: SagaEvent) -> bool:
    """Whether *event* makes a saga go back that went forward."""
    match event:
        case (
            CompensationStarted()
            | SagaCancelRequested()
            | SagaDeadlineExceeded()
            | UndoRequested()
            | StepSucceeded(conflict=str())
            | StepFailed(retry_at=None, then=None)
            | StepResolved(resolution=Resolution.FAILED)
        ):
            return True
        case StepInDoubt(operation=operation, retry_at=None, then=None):
            return operation is not Operation.COMPENSATE
        case _:
            return False

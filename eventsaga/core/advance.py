"""What follows from what was decided? All rules about order stand here and in its neighbours.

A draft is a decision being made. `advance` adds to it whatever is due in the state that it
has reached: the next steps (`forward`), the turn, the compensations (`backward`), the end.
The commands of `decide` only say what happened.
"""

from datetime import datetime
from typing import Final

from eventsaga.core.answers import AnswerError
from eventsaga.core.backward import advance_backward
from eventsaga.core.definition import SignalDefinition, StepName
from eventsaga.core.draft import Draft, later
from eventsaga.core.events import (
    CompensationStarted,
    ParkReason,
    SagaAccepted,
    SagaParked,
)
from eventsaga.core.forward import advance_forward
from eventsaga.core.ready import SETTLING
from eventsaga.core.state import State, Status

_GOING_FORWARD: Final = frozenset({Status.PENDING, Status.RUNNING})

_REMEDY: Final = {
    ParkReason.IN_DOUBT: (
        "ask the other side whether it happened, then resolve the step; or retry it with the "
        "same key, skip it, or cancel the saga"
    ),
    ParkReason.INVALID_CONTEXT: (
        "cancel the saga and start another with a context that fits; or retry it when the model "
        "of its workers takes this one"
    ),
    ParkReason.RETRIES_EXHAUSTED: (
        "retry the step when its cause is mended; or resolve or skip it: there is no way back"
    ),
    ParkReason.SIGNAL_TIMEOUT: (
        "retry the step to wait again; or resolve it with the payload, skip it, or cancel the saga"
    ),
}


def advance(
    draft: Draft, at: datetime, *, hold: bool = False, ended: StepName | None = None
) -> None:
    """Emit everything that is due in the state that the draft has reached.

    Args:
        draft: The decision so far.
        at: The time.
        hold: Begin nothing; only an end that has been reached is recorded.
        ended: The step of which an attempt has just ended: of the steps that were not begun
            only its neighbours can have become due. None to look at all of them.
    """
    state = draft.state
    if state.status in _GOING_FORWARD:
        if state.turn is None and _is_accepted(draft, at, hold=hold):
            advance_forward(draft, at, hold=hold, ended=ended)
        if not hold and _must_stop(state):
            if state.stuck_steps or state.turn is None:
                draft.emit(_parked(draft, at))
            else:
                draft.emit(
                    CompensationStarted(
                        at=at,
                        reason=state.turn.reason,
                        because_of=state.turn.step,
                        message=state.turn.message,
                    )
                )
            ended = None
    if state.status is Status.COMPENSATING:
        advance_backward(draft, at, hold=hold, ended=ended)


def _is_accepted(draft: Draft, at: datetime, *, hold: bool) -> bool:
    """Validate what was started in SQL; return whether the saga may begin."""
    text = draft.state.input
    if text is None:
        return True
    if hold:
        return False
    try:
        context = draft.answers.accept(text)
    except AnswerError as error:
        draft.emit(
            SagaParked(
                at=at,
                reason=ParkReason.INVALID_CONTEXT,
                steps=(),
                message=error.message,
                remedy=_REMEDY[ParkReason.INVALID_CONTEXT],
            )
        )
        return False
    limit = draft.definition.deadline
    draft.emit(
        SagaAccepted(at=at, context=context, deadline_at=later(at, limit) if limit else None)
    )
    return True


def _must_stop(state: State) -> bool:
    """Whether the saga cannot go forward, and all that runs has ended."""
    if state.status not in _GOING_FORWARD or not (state.stuck_steps or state.turn):
        return False
    return next(state.open_in(*SETTLING), None) is None


def _parked(draft: Draft, at: datetime) -> SagaParked:
    state = draft.state
    reason = _park_reason(draft)
    reports = "; ".join(f"{name}: {state.steps[name].message}" for name in state.stuck_steps)
    return SagaParked(
        at=at,
        reason=reason,
        steps=tuple(state.stuck_steps),
        message=reports,
        remedy=_REMEDY[reason],
    )


def _park_reason(draft: Draft) -> ParkReason:
    state, leaves = draft.state, draft.definition.steps
    if any(state.steps[name].doubted for name in state.stuck_steps):
        return ParkReason.IN_DOUBT
    if any(isinstance(leaves.get(name), SignalDefinition) for name in state.stuck_steps):
        return ParkReason.SIGNAL_TIMEOUT
    return ParkReason.RETRIES_EXHAUSTED

"""Why is a saga where it is, and what may be asked of it? Read off its state, in plain words."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from eventsaga.core.definition import StepName
from eventsaga.core.graph import SagaDefinition
from eventsaga.core.state import Phase, State, Status, StepState
from eventsaga.core.verbs import legal_verbs


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Where a saga stands, and what a person can do.

    Attributes:
        saga_id: The saga.
        saga_name: Its definition.
        status: Where it stands as a whole.
        why: One sentence each, what it does or waits for, and what went wrong.
        remedy: What a person can do about it; empty if nobody has to do anything.
        legal: What it would take now, as ``verb [step [resolution]]``.
        signals: Names of the signals that it waits for now.
    """

    saga_id: UUID
    saga_name: str
    status: Status
    why: tuple[str, ...]
    remedy: str
    legal: tuple[str, ...]
    signals: tuple[str, ...] = ()


def explain(definition: SagaDefinition, state: State) -> Explanation:
    """Return why a saga is where it is."""
    parked = state.status is Status.PARKED
    return Explanation(
        saga_id=state.saga_id,
        saga_name=state.saga_name,
        status=state.status,
        why=tuple(_why(definition, state)),
        remedy=state.park_remedy if parked else "",
        legal=tuple(map(str, legal_verbs(definition, state))),
        signals=tuple(awaited_signals(state)),
    )


def awaited_signals(state: State) -> Mapping[str, tuple[StepName, ...]]:
    """Return the signals that a saga waits for now, each with the steps that do."""
    waiting: dict[str, tuple[StepName, ...]] = {}
    for name in state.open_in(Phase.AWAITING):
        signal = state.steps[name].waits_for
        if signal is not None:
            waiting[signal] = (*waiting.get(signal, ()), name)
    return waiting


def _why(definition: SagaDefinition, state: State) -> Iterator[str]:
    has_ended = state.status.is_terminal
    if state.turn is not None:
        goes = "went" if has_ended else "goes"
        by = f" because of {state.turn.step}" if state.turn.step else ""
        yield f"it {goes} back{by} ({state.turn.reason}): {state.turn.message}"
    if state.committed and not has_ended:
        yield f"it has passed its pivot {definition.pivot}: it can only go forward"
    if state.status is Status.PARKED:
        yield f"it is parked ({state.park_reason}): {state.park_message}"
    if state.status is Status.FAILED:
        left = ", ".join(state.uncompensated) or "nothing"
        yield f"it was given up; left behind: {left}"
    if not state.status.is_settled:
        yield from _doing(state)
    for name, step in state.steps.items():
        if step.is_in_doubt and name not in state.open_steps:
            stands = "was left in doubt" if has_ended else "is in doubt"
            yield f"{name} {stands}: its effect may have happened ({step.message})"


def _doing(state: State) -> Iterator[str]:
    for name in state.open_steps:
        yield _open(name, state.steps[name])
    if not state.open_steps:
        yield "it is about to go on, as soon as a worker has it"


_DOES: Final = {
    Phase.RUNNING: "is being run",
    Phase.VERIFYING: "is in doubt, and the other side is being asked",
    Phase.CHILD: "is a child saga that has not ended",
    Phase.CHILD_UNDO: "is a child saga that is being undone",
    Phase.FANNED: "has items that have not ended",
    Phase.COMPENSATING: "is being compensated",
}


def _open(name: StepName, step: StepState) -> str:
    until = "" if step.retry_at is None else f" until {step.retry_at.isoformat()}"
    match step.phase:
        case Phase.SLEEPING:
            return f"{name} sleeps{until}"
        case Phase.AWAITING:
            if step.waits_for is None:
                return f"{name} has waited for long enough, and is about to go on"
            return f"{name} waits for signal {step.waits_for!r}{until}"
        case Phase.WAITING | Phase.COMPENSATION_WAITING | Phase.VERIFICATION_WAITING:
            what = "the next attempt" if step.phase is Phase.WAITING else "the next try"
            return f"{name} waits for {what}{until}: {step.message}"
        case _:
            return f"{name} {_DOES[step.phase]} (attempt {step.undo_attempt or step.attempt})"

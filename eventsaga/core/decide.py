"""What is recorded next? `decide` turns a command into events, or refuses it.

One decision holds everything that follows at once: the result of step k and the intent of
step k+1 are one append, so a crash finds no gap between them. All rules about order stand
in `advance`; what became of an attempt is judged in `attempts`, what people ask in
`requests`. Whatever refuses does so before the first event.
"""

from dataclasses import dataclass
from typing import Final, assert_never

from eventsaga.core.advance import advance
from eventsaga.core.answers import Answers, NoAnswers
from eventsaga.core.attempts import interrupt, on_attempt_ended
from eventsaga.core.commands import (
    Abandon,
    Command,
    HandOver,
    Park,
    ReceiveSignal,
    RecordChildEnded,
    RecordDoubt,
    RecordFailure,
    RecordHook,
    RecordSuccess,
    Recover,
    RequestCancel,
    RequestUndo,
    ResolveStep,
    RetrySaga,
    SkipStep,
    StartSaga,
    Wake,
)
from eventsaga.core.draft import Draft, later
from eventsaga.core.events import (
    HookFailed,
    SagaEvent,
    SagaParked,
    SagaRecovered,
    SagaStarted,
)
from eventsaga.core.forward import meet_deadline
from eventsaga.core.graph import SagaDefinition
from eventsaga.core.ready import owed_hook
from eventsaga.core.requests import on_child_ended, on_hook, on_request, on_signal
from eventsaga.core.state import State
from eventsaga.errors import IllegalCommandError

_NO_ANSWERS: Final = NoAnswers()


@dataclass(frozen=True, slots=True)
class Transition:
    """A decision and where it leads.

    Attributes:
        events: What is to be appended; () if the command changes nothing.
        state: The state after them.
    """

    events: tuple[SagaEvent, ...]
    state: State


def decide(
    definition: SagaDefinition,
    state: State,
    command: Command,
    answers: Answers = _NO_ANSWERS,
) -> tuple[SagaEvent, ...]:
    """Return the events that *command* causes. Reads nothing but its arguments.

    Raises:
        IllegalCommandError: If *state* does not allow the command.
    """
    return transition(definition, state, command, answers).events


def transition(
    definition: SagaDefinition,
    state: State,
    command: Command,
    answers: Answers = _NO_ANSWERS,
    *,
    in_place: bool = False,
) -> Transition:
    """Decide, and return the next state too, so that the caller need not fold again.

    Args:
        definition: What may happen.
        state: Where the saga stands.
        command: What is asked, or has happened.
        answers: The user's functions.
        in_place: Fold *state* itself, which the caller owns: its price does not grow with
            the number of steps. It is untouched if the command is refused.

    Raises:
        IllegalCommandError: If *state* does not allow the command.
    """
    if state.seq == 0 and not isinstance(command, StartSaga):
        raise IllegalCommandError("go on", "the saga was never started")
    draft = Draft(definition, state if in_place else state.copy(), answers)
    _handle(draft, command)
    return Transition(tuple(draft.events), draft.state)


def _handle(draft: Draft, command: Command) -> None:  # noqa: C901 - a line for each command
    match command:
        case RecordSuccess() | RecordFailure() | RecordDoubt():
            on_attempt_ended(draft, command)
        case StartSaga():
            _on_start(draft, command)
        case Wake():
            advance(draft, command.at)
        case Recover():
            _on_recover(draft, command)
        case HandOver():
            interrupt(draft, command.at, "Shutdown", "the worker was shut down")
        case Park():
            _on_park(draft, command)
        case ReceiveSignal():
            on_signal(draft, command)
        case RecordChildEnded():
            on_child_ended(draft, command)
        case RecordHook():
            on_hook(draft, command)
        case RequestCancel() | RetrySaga() | SkipStep() | ResolveStep() | Abandon() | RequestUndo():
            on_request(draft, command)
        case _:
            assert_never(command)


def _on_start(draft: Draft, command: StartSaga) -> None:
    if draft.state.seq:
        return  # delivered again
    definition = draft.definition
    draft.emit(
        SagaStarted(
            at=command.at,
            saga_name=definition.name,
            version=definition.version,
            fingerprint=definition.fingerprint,
            context=command.context,
            correlation_id=command.correlation_id,
            key=command.key,
            deadline_at=later(command.at, definition.deadline) if definition.deadline else None,
            parent_id=command.parent_id,
            parent_step=command.parent_step,
            tenant=command.tenant,
            trace=command.trace,
        )
    )


def _on_recover(draft: Draft, command: Recover) -> None:
    if draft.state.status.is_settled:
        return
    draft.emit(
        SagaRecovered(
            at=command.at,
            worker_id=command.worker_id,
            previous_worker_id=command.previous_worker_id,
        )
    )
    # Before anything is tried again: the time may have run out while nobody was there.
    meet_deadline(draft, command.at)
    interrupt(draft, command.at, "WorkerLost", "the worker's lease ended during the attempt")
    advance(draft, command.at, hold=command.hold)


def _on_park(draft: Draft, command: Park) -> None:
    state = draft.state
    if state.status.is_settled:
        hook = owed_hook(draft.definition, state)
        if hook is not None:
            # It is the hook that kills whoever runs it.
            draft.emit(
                HookFailed(
                    at=command.at,
                    hook=hook,
                    attempt=state.hook_attempts + 1,
                    error_type="Poison",
                    message=command.message,
                )
            )
        return
    draft.emit(
        SagaParked(
            at=command.at,
            reason=command.reason,
            steps=tuple(state.open_steps),
            message=command.message,
            remedy=command.remedy,
        )
    )

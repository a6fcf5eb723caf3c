"""What do messages mean? Rows of an inbox become commands, and facts become rows.

Whoever writes to a saga may be a client, another saga, or a person at a SQL prompt: what
does not make sense is refused with a reason, and never stops the saga.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, cast
from uuid import UUID

from eventsaga.core.commands import (
    Abandon,
    Command,
    ReceiveSignal,
    RecordChildEnded,
    RequestCancel,
    RequestUndo,
    ResolveStep,
    RetrySaga,
    SkipStep,
)
from eventsaga.core.definition import ChildDefinition, SignalDefinition, group_of
from eventsaga.core.draft import child_id
from eventsaga.core.events import (
    JsonObject,
    Resolution,
    SagaCompensated,
    SagaCompleted,
    SagaEvent,
    SagaFailed,
    StepCompensationStarted,
)
from eventsaga.core.forward import child_patch, signal_patch
from eventsaga.core.state import Phase, State, Status
from eventsaga.errors import EventSagaError
from eventsaga.identity import derived_id
from eventsaga.runtime.patch import collected, patch_of
from eventsaga.saga import Saga
from eventsaga.store.ports import Message
from eventsaga.wire.payload import dump, to_json_object, to_model


class MessageRefusedError(EventSagaError):
    """A message does not make sense to its saga; it is answered with the reason."""


CANCEL: Final = "cancel"
CHILD: Final = "child"
UNDO: Final = "undo"


# -- what comes in --------------------------------------------------------------------------


def command_of(message: Message, saga: Saga[Any], state: State, now: datetime) -> Command:
    """Return what *message* asks of its saga.

    Args:
        message: From the inbox.
        saga: The saga's definition and models.
        state: Where it stands.
        now: The database's time.

    Raises:
        MessageRefusedError: If it makes no sense, or its payload does not fit.
    """
    at = max(now, state.updated_at)
    try:
        return _command(message, saga, state, at)
    except EventSagaError as error:
        raise MessageRefusedError(f"{message.kind}: {error}") from error
    except Exception as error:
        # Whatever one message is: those that came with it are read all the same.
        raise MessageRefusedError(f"{message.kind}: the data does not fit: {error!r}") from error


def _command(  # noqa: C901, PLR0911 - a line for each kind
    message: Message, saga: Saga[Any], state: State, at: datetime
) -> Command:
    data = message.data
    reason, actor = str(data.get("reason", "")), message.actor
    match message.kind:
        case "cancel":
            return RequestCancel(at=at, reason=reason, actor=actor)
        case "signal":
            return _signal(message, saga, state, at)
        case "child":
            return RecordChildEnded(
                at=at,
                step=_text(data["step"]),
                child_id=UUID(_text(data["child_id"])),
                status=Status(data["status"]).value,
                context=_mapping(data.get("context") or {}),
                message=_text(data.get("message", "")),
                refused=bool(data.get("refused")),
            )
        case "retry":
            return RetrySaga(at=at, reason=reason, actor=actor, step=_optional(data.get("step")))
        case "skip":
            return SkipStep(at=at, step=_text(data["step"]), reason=reason, actor=actor)
        case "resolve":
            return _resolve(message, saga, state, at)
        case "abandon":
            return Abandon(at=at, reason=reason, actor=actor)
        case "undo":
            return RequestUndo(at=at, reason=reason, actor=actor)
        case _:
            raise MessageRefusedError("nobody knows what this message asks")


def _signal(message: Message, saga: Saga[Any], state: State, at: datetime) -> ReceiveSignal:
    name = _text(message.data["name"])
    return ReceiveSignal(
        at=at,
        signal=name,
        id=message.message_id,
        payload=_payload(saga, state, name, message.data.get("payload") or {}),
        actor=message.actor,
    )


def _payload(saga: Saga[Any], state: State, name: str, payload: JsonObject) -> JsonObject:
    """Return *payload* as the signal's model has it, if what it changes fits the context."""
    plain = checked_payload(saga, name, payload)
    for leaf in saga.definition.steps.values():
        if isinstance(leaf, SignalDefinition) and leaf.signal == name:
            patch_of(saga, state.context, signal_patch(leaf, plain))
    return plain


def checked_payload(saga: Saga[Any], name: str, payload: object) -> JsonObject:
    """Return the payload of signal *name* as JSON data.

    Raises:
        PayloadError: If it does not fit the signal's model.
    """
    model = saga.bound.signals.get(name)
    plain = to_json_object(payload, what="payload")  # type: ignore[arg-type]
    if model is None:
        return plain
    return to_json_object(to_model(model, dump(plain), what="payload"))


def _resolve(message: Message, saga: Saga[Any], state: State, at: datetime) -> ResolveStep:
    data = message.data
    step, result = _text(data["step"]), data.get("result")
    leaf = saga.definition.steps.get(step)
    group = group_of(step)
    if result is None:
        pass
    elif isinstance(leaf, SignalDefinition):
        result = _payload(saga, state, leaf.signal, result)
    elif isinstance(leaf, ChildDefinition):
        patch_of(saga, state.context, child_patch(leaf, result))
    elif group in state.items and state.items[group].into is not None:
        result = collected(result)
    else:
        result = patch_of(saga, state.context, result)
    return ResolveStep(
        at=at,
        step=step,
        resolution=Resolution(data["resolution"]),
        result=result,
        reason=str(data.get("reason", "")),
        actor=message.actor,
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _optional(value: object) -> str | None:
    return None if value is None else _text(value)


def _mapping(value: object) -> JsonObject:
    if not isinstance(value, Mapping):
        raise TypeError(f"{value!r} is no object")
    return cast("JsonObject", value)


# -- what goes out --------------------------------------------------------------------------


def messages_after(events: Sequence[SagaEvent], state: State) -> Iterator[Message]:
    """Yield what other sagas must be told of *events*, which lead to *state*."""
    for event in events:
        match event:
            case StepCompensationStarted(child_id=UUID() as child):
                yield _to_child(state, child, UNDO, f"undo/{event.attempt}")
            case SagaCompleted() | SagaCompensated() | SagaFailed() if state.parent_id:
                yield told_parent(state)
            case _:
                pass


def cancel_child(state: State, step: str) -> Message:
    """Return the message that lets a child go back because its parent does."""
    child = child_id(state.saga_id, step, state.steps[step].attempt)
    return _to_child(state, child, CANCEL, "cancel")


def open_children(state: State) -> Iterator[str]:
    """Yield the steps whose children are under way while the saga wants to go back."""
    if state.turn is not None and not state.is_backward:
        yield from state.open_in(Phase.CHILD)


def told_parent(state: State, asked: UUID | None = None, *, refused: str | None = None) -> Message:
    """Return how a child ended, or why it does not let itself be undone.

    Args:
        state: The child's.
        asked: The request that this answers; None if nobody asked.
        refused: The reason.
    """
    assert state.parent_id is not None, "only children have somebody to tell"
    # Each request has an answer of its own, though it may say what was said before.
    what = "" if asked is None else f"/{asked}"
    error = state.turn.message if state.turn is not None else ""
    return Message(
        saga_id=state.parent_id,
        message_id=derived_id(state.saga_id, f"ended/{state.settled_seq}{what}"),
        kind=CHILD,
        data={
            "step": state.parent_step,
            "child_id": str(state.saga_id),
            "status": state.status.value,
            "context": dict(state.context) if state.status is Status.COMPLETED else {},
            "message": refused or error,
            "refused": refused is not None,
        },
        actor=f"saga {state.saga_id}",
    )


def is_from_parent(message: Message, state: State) -> bool:
    """Whether *message* was left by the saga's parent."""
    return state.parent_id is not None and message.actor == f"saga {state.parent_id}"


def _to_child(state: State, child: UUID, kind: str, what: str) -> Message:
    reason = state.turn.message if state.turn is not None else ""
    return Message(
        saga_id=child,
        message_id=derived_id(state.saga_id, f"{child}/{what}"),
        kind=kind,
        data={"reason": f"its parent goes back: {reason}"},
        actor=f"saga {state.saga_id}",
    )


def signal_id(saga_id: UUID, name: str, given: UUID | str) -> UUID:
    """Return the id under which a signal is taken once; a text is hashed."""
    return given if isinstance(given, UUID) else derived_id(saga_id, f"signal/{name}/{given}")

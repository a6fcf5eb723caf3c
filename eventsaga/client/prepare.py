"""What is needed to start a saga? An input that can be stored, and its first events.

Everything that can be refused is refused here, before anything is written.
"""

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from pydantic import BaseModel

from eventsaga.core.commands import StartSaga, Wake
from eventsaga.core.decide import transition
from eventsaga.core.state import State
from eventsaga.errors import PayloadError
from eventsaga.identity import new_id
from eventsaga.saga import Saga
from eventsaga.store.ports import Start, StartResult
from eventsaga.wire.payload import dump, dump_canonical, to_json_object, to_model

_MAX_KEY: Final = 500
_MAX_CORRELATION_ID: Final = 200


def checked_input(
    saga: Saga[Any], context: BaseModel | Mapping[str, Any], *, what: str = "$"
) -> dict[str, Any]:
    """Return *context* as the JSON data that is recorded.

    Args:
        saga: Its model decides what fits.
        context: The model, or a mapping that fits it.
        what: Root of the path that an error names.

    Raises:
        PayloadError: If it cannot be stored, or does not fit the model.
    """
    if isinstance(context, BaseModel) and not isinstance(context, saga.context):
        kind, wanted = type(context).__name__, saga.context.__name__
        raise PayloadError(what, f"saga {saga.name!r} takes {wanted}, not {kind}")
    plain = to_json_object(context, what=what)
    # Back and forth once: what is stored is what every later load will see.
    model = to_model(saga.context, dump(plain), what=what)
    return plain if isinstance(context, BaseModel) else to_json_object(model, what=what)


def prepare(
    saga: Saga[Any],
    context: dict[str, Any],
    *,
    at: datetime,
    key: str | None,
    correlation_id: str | None,
    begin: bool,
) -> Start:
    """Return a start that can be sent; its ``done`` is still to be set.

    Args:
        saga: What to start.
        context: From `checked_input`.
        at: The database's time.
        key: None for a saga without a key.
        correlation_id: None for the saga's id.
        begin: Whether the sender runs it at once. Then the intent of the first step is in
            the same commit, so that N steps cost N + 1 commits.

    Raises:
        PayloadError: If the key or the correlation id cannot be used.
    """
    saga_id = new_id()
    command = StartSaga(
        at=at,
        context=context,
        correlation_id=_correlation_id(correlation_id or str(saga_id)),
        key=None if key is None else printable("key", key, _MAX_KEY),
    )
    decided = transition(saga.definition, State(saga_id), command)
    events, state = decided.events, decided.state
    if begin:
        first = transition(saga.definition, state, Wake(at=at))
        events, state = events + first.events, first.state
    digest = hashlib.sha256(dump_canonical(context).encode()).digest()
    return Start(events=events, state=state, owned=begin, digest=digest, done=_ignored)


def _correlation_id(text: str) -> str:
    if not text.isascii():
        raise PayloadError("correlation_id", "must be ASCII, because it is sent in a header")
    return printable("correlation_id", text, _MAX_CORRELATION_ID)


def printable(what: str, text: str, longest: int) -> str:
    """Return *text* if it can stand in a header, a log line and a terminal.

    Raises:
        PayloadError: If it is empty, longer than *longest*, or holds control characters.
    """
    if not text or len(text) > longest or not text.isprintable():
        raise PayloadError(what, f"must be 1 to {longest} printable characters, not {text[:60]!r}")
    return text


def _ignored(_result: StartResult) -> None:
    """Stand in until somebody waits for the result."""

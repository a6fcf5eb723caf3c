"""What is needed to start a saga? An input that can be stored, and its first events.

Everything that can be refused is refused here, before anything is written.
"""

import hashlib
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from eventsaga.core.commands import StartSaga, Wake
from eventsaga.core.decide import transition
from eventsaga.core.state import State
from eventsaga.errors import PayloadError
from eventsaga.identity import new_id
from eventsaga.observe import trace
from eventsaga.runtime.answers import SagaAnswers
from eventsaga.saga import Saga
from eventsaga.store.ports import Start, StartResult
from eventsaga.wire.payload import dump_canonical

_MAX_KEY: Final = 500
_MAX_CORRELATION_ID: Final = 200
_MAX_TENANT: Final = 100


def prepare(
    saga: Saga[Any],
    context: dict[str, Any],
    *,
    at: datetime,
    key: str | None,
    correlation_id: str | None,
    tenant: str | None,
    begin: bool,
) -> Start:
    """Return a start that can be sent; its ``done`` is still to be set.

    Args:
        saga: What to start.
        context: From `checked_input`.
        at: The database's time.
        key: None for a saga without a key.
        correlation_id: None for the saga's id.
        tenant: Whose it is; None for nobody in particular.
        begin: Whether the sender runs it at once. Then the intent of the first step is in
            the same commit, so that N steps cost N + 1 commits.

    Raises:
        PayloadError: If the key, the correlation id or the tenant cannot be used.
    """
    saga_id = new_id()
    command = StartSaga(
        at=at,
        context=context,
        correlation_id=_correlation_id(correlation_id or str(saga_id)),
        key=None if key is None else checked_key(key),
        tenant=None if tenant is None else printable("tenant", tenant, _MAX_TENANT),
        trace=trace.current(),
    )
    decided = transition(saga.definition, State(saga_id), command)
    events, state = decided.events, decided.state
    if begin:
        first = transition(saga.definition, state, Wake(at=at), SagaAnswers(saga))
        events, state = events + first.events, first.state
    digest = hashlib.sha256(dump_canonical(context).encode()).digest()
    return Start(events=events, state=state, owned=begin, digest=digest, done=_ignored)


def prepare_child(
    saga: Saga[Any],
    saga_id: UUID,
    context: dict[str, Any],
    *,
    parent: State,
    step: str,
    at: datetime,
) -> Start:
    """Return the start of a child; sent again, it starts nothing.

    Args:
        saga: What to start.
        saga_id: Follows from the parent and the step.
        context: Checked, and recorded by the parent.
        parent: Where the parent stands.
        step: The step that the child is.
        at: The database's time.
    """
    command = StartSaga(
        at=at,
        context=context,
        correlation_id=parent.correlation_id,
        parent_id=parent.saga_id,
        parent_step=step,
        tenant=parent.tenant,
        trace=trace.of_saga(parent.saga_id, parent.trace),
    )
    decided = transition(saga.definition, State(saga_id), command)
    digest = hashlib.sha256(dump_canonical(context).encode()).digest()
    return Start(
        events=decided.events, state=decided.state, owned=False, digest=digest, done=_ignored
    )


def _correlation_id(text: str) -> str:
    if not text.isascii():
        raise PayloadError("correlation_id", "must be ASCII, because it is sent in a header")
    return printable("correlation_id", text, _MAX_CORRELATION_ID)


def checked_key(key: str) -> str:
    """Return *key* if it can be a start key.

    Raises:
        PayloadError: If it cannot.
    """
    return printable("key", key, _MAX_KEY)


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

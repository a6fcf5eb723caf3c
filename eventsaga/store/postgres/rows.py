"""What goes to the server? Events as rows, in the parallel arrays that ``unnest`` takes.

Hashing happens here, once per event: a row that is sent again, after its answer was lost,
is the same to the last byte, so its hash tells whether the first one arrived.
"""

import os
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from eventsaga.core.events import SagaEvent
from eventsaga.observe.log import logger
from eventsaga.wire.chain import SALT_BYTES, link, salted
from eventsaga.wire.codec import encode, schema_version, stored_name
from eventsaga.wire.payload import WARN_BYTES
from eventsaga.wire.sealing import sealed

_log = logger("store")

# Separates step names in a text; names are identifiers, so none contains it.
STEP_SEPARATOR = ","


class EventRow(NamedTuple):
    """One event as it is stored; the order of the fields is that of the statements."""

    saga_id: UUID
    seq: int
    type: str
    schema_version: int
    data: str
    occurred_at: datetime
    salt: bytes
    hash: bytes


def event_rows(
    saga_id: UUID,
    events: Sequence[SagaEvent],
    *,
    after_seq: int,
    previous_hash: bytes,
    subject: str | None = None,
) -> list[EventRow]:
    """Return *events* as rows that continue the chain behind *previous_hash*.

    Args:
        saga_id: The saga.
        events: What is appended.
        after_seq: How many events there are.
        previous_hash: Of the last of them.
        subject: Whose data they hold, for the codec; None for nobody in particular.
    """
    rows: list[EventRow] = []
    salts = os.urandom(SALT_BYTES * len(events))
    for index, event in enumerate(events):
        name = stored_name(event)
        text = sealed(encode(event).decode(), saga_id, subject)
        data = text.encode()
        salt = salts[index * SALT_BYTES : (index + 1) * SALT_BYTES]
        seq = after_seq + index + 1
        warn_if_large(saga_id, name, len(data))
        previous_hash = link(previous_hash, saga_id, seq, name, event.at, salted(salt, data))
        rows.append(
            EventRow(
                saga_id,
                seq,
                name,
                schema_version(name),
                text,
                event.at,
                salt,
                previous_hash,
            )
        )
    return rows


def warn_if_large(saga_id: UUID, what: str, size: int) -> None:
    """Say that a saga carries more than it should, long before that is refused.

    Args:
        saga_id: The saga.
        what: Stored name of the event, or ``context``.
        size: Bytes of JSON.
    """
    if size >= WARN_BYTES:
        _log.warning("payload_large", saga_id=str(saga_id), what=what, bytes=size)


def columns(rows: Iterable[Sequence[Any]], width: int) -> list[list[Any]]:
    """Return *rows* turned on their side: one list a column, also if there are no rows."""
    turned = [list(column) for column in zip(*rows, strict=True)]
    return turned or [[] for _ in range(width)]

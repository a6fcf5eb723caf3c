"""How is a history linked? Each event's hash covers the one before it.

``hash = sha256(prev || saga_id || seq || type || occurred_at || sha256(salt || data))``,
all in the binary forms that PostgreSQL's own ``uuid_send``, ``int4send`` and
``timestamptz_send`` give, so that plain SQL verifies the chain. The first event follows 32
zero bytes. The data goes in by a salted hash of its own: it can be redacted later without
breaking the chain, and a short value cannot be guessed from the hash that stays.
"""

from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final
from uuid import UUID

GENESIS: Final = bytes(32)
SALT_BYTES: Final = 16

_POSTGRES_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def salted(salt: bytes, data: bytes) -> bytes:
    """Return the digest by which an event's *data* goes into its hash."""
    return sha256(salt + data).digest()


def link(  # noqa: PLR0917 - the fields of the formula, in its order
    previous: bytes, saga_id: UUID, seq: int, name: str, at: datetime, digest: bytes
) -> bytes:
    """Return the hash of an event that follows one with hash *previous*.

    Args:
        previous: Hash of the event before it, or `GENESIS`.
        saga_id: The saga.
        seq: Its number, from 1.
        name: Its stored name.
        at: When it occurred, to the microsecond.
        digest: What `salted` makes of its salt and data.
    """
    microseconds = (at - _POSTGRES_EPOCH) // _MICROSECOND
    return sha256(
        b"".join(
            (
                previous,
                saga_id.bytes,
                seq.to_bytes(4, "big"),
                name.encode(),
                microseconds.to_bytes(8, "big", signed=True),
                digest,
            )
        )
    ).digest()

"""Where do ids come from? UUID version 7: they grow with time, so indexes stay dense."""

import os
import time
from hashlib import sha256
from uuid import UUID


def new_id() -> UUID:
    """Return a new id (RFC 9562, version 7: 48 bits of milliseconds, 74 random bits)."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds & 0xFFFF_FFFF_FFFF) << 80 | int.from_bytes(os.urandom(10), "big")
    value &= ~(0xF000 << 64) & ~(0xC000 << 48)
    return UUID(int=value | 0x7000 << 64 | 0x8000 << 48)


def derived_id(saga_id: UUID, what: str, *, same_age: bool = False) -> UUID:
    """Return an id that is the same whenever it is asked for (UUID version 8, RFC 9562).

    Args:
        saga_id: Whose it is.
        what: What it stands for; different texts give different ids.
        same_age: Whether it starts with the time of *saga_id*, so that a list by id stays a
            list by age.
    """
    digest = bytearray(sha256(saga_id.bytes + what.encode()).digest()[:16])
    if same_age:
        digest[:6] = saga_id.bytes[:6]
    digest[6] = (digest[6] & 0x0F) | 0x80
    digest[8] = (digest[8] & 0x3F) | 0x80
    return UUID(bytes=bytes(digest))

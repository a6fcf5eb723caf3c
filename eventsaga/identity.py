"""Where do ids come from? UUID version 7: they grow with time, so indexes stay dense."""

import os
import time
from uuid import UUID


def new_id() -> UUID:
    """Return a new id (RFC 9562, version 7: 48 bits of milliseconds, 74 random bits)."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds & 0xFFFF_FFFF_FFFF) << 80 | int.from_bytes(os.urandom(10), "big")
    value &= ~(0xF000 << 64) & ~(0xC000 << 48)
    return UUID(int=value | 0x7000 << 64 | 0x8000 << 48)

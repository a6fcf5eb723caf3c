"""How is a fact written for people? Instants in UTC, durations in two units, JSON on one line.

What comes out of the database was written by somebody else: characters that would steer a
terminal are shown as escapes.
"""

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

_MOST_NAMES: Final = 10


def clean(text: str) -> str:
    """Return *text* without characters that steer a terminal: they become escapes."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def instant(at: datetime) -> str:
    """Return *at* to the millisecond, in UTC."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03d} UTC"


def clock(at: datetime) -> str:
    """Return the time of day of *at* to the millisecond, in UTC."""
    return f"{at.astimezone(UTC):%H:%M:%S}.{at.microsecond // 1000:03d}"


def duration(delta: timedelta) -> str:
    """Return *delta* in the two units that matter."""
    seconds = delta.total_seconds()
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def some(names: Iterable[str]) -> str:
    """Return *names* in a row, or the first ones and how many there are besides."""
    named = list(names)
    more = [f"… and {len(named) - _MOST_NAMES:,} more"] if len(named) > _MOST_NAMES else []
    return ", ".join([*named[:_MOST_NAMES], *more])


def compact_json(value: Any) -> str:
    """Return *value* as JSON for people: on one line, other alphabets as they are."""
    return clean(json.dumps(value, ensure_ascii=False, default=plain))


def plain(value: object) -> str:
    """Return what JSON has no word for: instants as ISO 8601, everything else as text."""
    return value.isoformat() if isinstance(value, datetime) else str(value)

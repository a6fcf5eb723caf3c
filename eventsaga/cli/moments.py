"""Which moment of a saga is meant? The number of an event, or an instant."""

from datetime import UTC, datetime
from typing import Final

from eventsaga.cli.fail import CommandError

_LONGEST_NUMBER: Final = 9

FORMS: Final = "the number of an event, or an instant such as 2026-11-22T14:03 (UTC)"
"""How a moment is given, for the help of options and arguments."""


def moment(text: str) -> int | datetime:
    """Return the moment that *text* names.

    Raises:
        CommandError: If it names none.
    """
    if text.isdecimal() and len(text) <= _LONGEST_NUMBER:
        return int(text)
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise CommandError(f"{text!r} is no moment: give {FORMS}") from error
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at

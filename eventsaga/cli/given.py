"""What does an option that takes JSON hold? A text, a file, or standard input."""

import sys
from pathlib import Path
from typing import Any, Final, cast

from eventsaga.cli.fail import CommandError

FORMS: Final = "a JSON object, @FILE to read it from a file, or - for standard input"
"""How such an option is given, for its help."""

_EXAMPLE: Final = '{"order_id": "4711"}'


def json_object(text: str, option: str) -> dict[str, Any]:
    """Return the JSON object that an option names.

    Args:
        text: The JSON itself, ``@FILE``, or ``-`` for standard input.
        option: What an error calls it.

    Raises:
        CommandError: If it cannot be read or is no JSON object.
    """
    from eventsaga.wire.payload import load

    where = {"-": "standard input"}.get(text, text[1:] if text.startswith("@") else option)
    try:
        if text == "-":
            source = sys.stdin.read()
        elif text.startswith("@"):
            source = Path(where).read_text(encoding="utf-8")
        else:
            source = text
        value = load(source)
    except OSError as error:
        raise CommandError(f"{where} cannot be read: {error.strerror}") from error
    except UnicodeError as error:
        raise CommandError(f"{where} is not UTF-8 text") from error
    except ValueError as error:
        raise CommandError(f"{where} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise CommandError(f"{where} must hold a JSON object such as {_EXAMPLE}")
    return cast("dict[str, Any]", value)

"""What is a user told when something goes wrong? A sentence and what to do, never a traceback.

Every command runs inside `guarded`. An error that is not known here is a bug of ours: that
one does show its traceback, because somebody has to find it.
"""

import asyncio
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Final

import typer

OK: Final = 0
NO: Final = 1
USAGE: Final = 2
# As if the signal itself had ended the process: 128 and its number.
_PIPE_CLOSED: Final = 128 + 13
_INTERRUPTED: Final = 128 + 2

_EXAMPLE: Final = re.compile(r"^Example:$", re.MULTILINE)

Answer = int | Coroutine[Any, Any, int]


class CommandError(Exception):
    """The command cannot be carried out; the message says why and what to do.

    Attributes:
        message: For the user.
        code: The exit code.
    """

    def __init__(self, message: str, *, code: int = USAGE) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


def guarded(command: Callable[..., Answer]) -> Callable[..., None]:
    """Return *command* so that it ends with an exit code, whatever happens in it."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        raise typer.Exit(_ended(lambda: command(*args, **kwargs)))

    run.__doc__ = with_example(command.__doc__)
    return run


def with_example(doc: str | None) -> str:
    """Return *doc* so that the help keeps the lines of its example as they are."""
    return _EXAMPLE.sub("\b\nExample:", inspect.cleandoc(doc or ""))


def complain(message: str) -> None:
    """Write an error on standard error."""
    print(f"eventsaga: {message}", file=sys.stderr)  # noqa: T201 - this is a command line


def _ended(command: Callable[[], Answer]) -> int:
    try:
        answer = command()
        code = asyncio.run(answer) if inspect.iscoroutine(answer) else answer
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        _forget_output()
        return _PIPE_CLOSED
    except KeyboardInterrupt:
        complain("interrupted")
        return _INTERRUPTED
    except Exception as error:  # noqa: BLE001 - sorted right below
        explained = _explained(error)
        if explained is None:
            traceback.print_exc()
            complain("this is a bug in eventsaga; please report it with the lines above")
            return USAGE
        message, code = explained
        complain(message)
        return code
    else:
        assert isinstance(code, int)
        return code


def _forget_output() -> None:
    """Keep the interpreter from complaining, at its end, that nobody reads any more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _explained(error: Exception) -> tuple[str, int] | None:
    """Return what to say of *error*, and the exit code; None if it is a bug."""
    if isinstance(error, CommandError):
        return error.message, error.code
    from eventsaga import errors

    negative = (
        errors.NoSuchMomentError,
        errors.SagaNotFoundError,
        errors.IllegalCommandError,
        errors.KeyConflictError,
        errors.FeedTakenError,
        errors.ArchiveError,
    )
    match error:
        case errors.CorruptHistoryError():
            return f"{error}; `eventsaga verify {error.saga_id}` says more", NO
        case errors.DatabaseUnavailableError() if error.__cause__ is not None:
            return f"{error}\n{_database_hint(error.__cause__)}", USAGE
        case errors.EventSagaError():
            return str(error), NO if isinstance(error, negative) else USAGE
        case TimeoutError():
            return str(error) or "it took too long", NO
        case _:
            return None


def _database_hint(cause: BaseException) -> str:
    """Return what to do about a database that cannot be used."""
    state: str = getattr(cause, "sqlstate", None) or ""
    for prefix, hint in _HINTS.items():
        if state.startswith(prefix):
            return hint
    return _HINTS[""]


# By SQLSTATE, or the beginning of one.
_HINTS: Final = {
    "28": "Check user and password in --database-url or EVENTSAGA_DATABASE_URL.",
    "3D000": "Create the database first, for example with createdb.",
    "42501": "Ask the database's owner to grant this user what is missing.",
    "53300": "The server has no connection left: raise max_connections, or use a pooler.",
    "": (
        "Check that PostgreSQL runs there and that --database-url or EVENTSAGA_DATABASE_URL"
        " names it."
    ),
}

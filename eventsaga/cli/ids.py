"""Which saga is meant? A whole id, or as much of its beginning as only one has."""

import re
from typing import TYPE_CHECKING, Annotated, Final
from uuid import UUID

import typer

from eventsaga.cli.fail import NO, CommandError

if TYPE_CHECKING:
    from eventsaga.store.postgres.store import PostgresStore

HELP: Final = "Id of the saga, or as much of its beginning as only one has."

SagaId = Annotated[str, typer.Argument(metavar="ID", help=HELP)]
MaybeSagaId = Annotated[
    str | None,
    typer.Argument(metavar="ID", help=f"{HELP} Or say which ones: see --status and others."),
]

_DIGITS: Final = 32
_BEGINNING: Final = re.compile(r"[0-9a-f]{1,32}")
_MOST_NAMED: Final = 5


def whole(text: str) -> UUID | None:
    """Return the id that *text* is; None if it is the beginning of one.

    Raises:
        CommandError: If it is neither.
    """
    digits = _digits(text)
    return UUID(digits) if len(digits) == _DIGITS else None


async def find(store: "PostgresStore", text: str) -> UUID:
    """Return the id that *text* is, or is the beginning of.

    Raises:
        CommandError: If no saga has such an id, or several have.
    """
    digits = _digits(text)
    first = UUID(digits.ljust(_DIGITS, "0"))
    last = UUID(digits.ljust(_DIGITS, "f"))
    found = await store.find(first, last, _MOST_NAMED + 1)
    if len(found) == 1:
        return found[0]
    if not found:
        what = "" if len(digits) == _DIGITS else " whose id begins with"
        raise CommandError(f"there is no saga{what} {text}; `eventsaga list` shows all", code=NO)
    ids = [*map(str, found[:_MOST_NAMED]), *("…" for _ in found[_MOST_NAMED:])]
    raise CommandError("\n  ".join([f"several sagas have an id that begins with {text}:", *ids]))


def _digits(text: str) -> str:
    digits = text.strip().lower().removeprefix("urn:uuid:").replace("-", "")
    if not _BEGINNING.fullmatch(digits):
        raise CommandError(
            f"{text[:60]!r} is no id: ids look like 01a205d7-ba5e-76dc-ab38-df4da30fd65b, "
            "and their beginning is enough"
        )
    return digits

"""Which fault is put where? At every boundary, each kind that means something there."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from eventsaga.drill.boundary import Boundary


class Mode(StrEnum):
    """A kind of fault."""

    KILL = "kill"
    PAUSE = "pause"
    DB_RESTART = "db-restart"
    COMMIT_LOST = "commit-lost"
    DOUBLE = "double"


ACTIONS: Final = {
    Mode.KILL: "kill9",
    # A zombie: it is stopped, another takes over, and then it goes on.
    Mode.PAUSE: "stop",
    # Stopped too, so that the server dies exactly then.
    Mode.DB_RESTART: "stop",
    Mode.COMMIT_LOST: "error",
    Mode.DOUBLE: "kill9",
}

# Where the second worker dies while it recovers what the first one left.
_SECOND: Final = ("after_claim_commit", "before_append", "after_append", "after_effect")


@dataclass(frozen=True, slots=True)
class Point:
    """What a worker process does to itself.

    Attributes:
        place: The failpoint.
        action: ``kill9``, ``stop``, ``error``, ``watch`` (say what passes), ``hold`` (wait
            until the saga's cancellation is recorded) or ``cancelled`` (see whether it is).
        text: Part of the detail.
        at: Which passing, counting from 1; None for each.
    """

    place: str
    action: str
    text: str = ""
    at: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {"place": self.place, "action": self.action, "text": self.text, "at": self.at}


@dataclass(frozen=True, slots=True)
class Case:
    """One run with a fault.

    Attributes:
        number: Counts from 1.
        boundary: Where.
        mode: What.
        second: Where the second worker dies; None if it does not.
    """

    number: int
    boundary: Boundary
    mode: Mode
    second: Point | None = None

    @property
    def fault(self) -> Point:
        """What the first worker does to itself."""
        boundary = self.boundary
        return Point(boundary.place, ACTIONS[self.mode], boundary.text, boundary.nth)


def cases(boundaries: Sequence[Boundary], modes: Iterable[Mode]) -> list[Case]:
    """Return all runs, mode by mode."""
    found: list[Case] = []
    for mode in dict.fromkeys(modes):
        for boundary, second in _of_mode(boundaries, mode):
            found.append(Case(len(found) + 1, boundary, mode, second))
    return found


def _of_mode(boundaries: Sequence[Boundary], mode: Mode) -> Iterator[tuple[Boundary, Point | None]]:
    for index, boundary in enumerate(boundaries):
        match mode:
            case Mode.COMMIT_LOST if boundary.is_commit:
                if boundary.place.startswith("before_"):
                    yield boundary.during(), None
                yield boundary, None
            case Mode.COMMIT_LOST:
                pass  # nothing is committed there
            case Mode.DOUBLE:
                # In turn: all pairs would be the square of it.
                yield boundary, Point(_SECOND[index % len(_SECOND)], "kill9", at=1)
            case Mode.KILL | Mode.PAUSE | Mode.DB_RESTART:
                yield boundary, None

"""What does a key stand for? A step of a saga, on its way there or on its way back."""

import re
from dataclasses import dataclass
from typing import Final, Literal, Self

from eventsaga.participant.errors import BadKeyError

Operation = Literal["do", "undo"]
"""``"do"``: the step itself. ``"undo"``: its compensation."""

# As eventsaga derives them. A step has no slash in its name, so one that is called
# "compensate" (`<saga>/compensate`) is not taken for an undo.
_KEY: Final = re.compile(
    r"(?P<group>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
    r"/(?P<step>[A-Za-z_][A-Za-z0-9_.-]*(?:\[[0-9]+\])?)"
    r"(?P<undo>/compensate)?"
    r"(?:#(?P<part>[1-9][0-9]{0,5}))?"
)


@dataclass(frozen=True, slots=True)
class Branch:
    """One request of a saga.

    Attributes:
        group: The saga's id, or whatever else is undone as a whole.
        step: The step, unique within the group.
        operation: Which way it goes.
        part: Counts the requests of one attempt, from 1: a step may send several.
    """

    group: str
    step: str
    operation: Operation
    part: int = 1

    @classmethod
    def of_key(cls, key: str) -> Self:
        """Return what *key* stands for, if eventsaga made it.

        Any other key says nothing about what it undoes. Guessing could take an undo for a
        second do, so such a key is refused.

        Raises:
            BadKeyError: If it is not ``<saga id>/<step>``, with ``/compensate`` behind it for
                an undo and ``#<number>`` for the second and later requests of a step.
        """
        found = _KEY.fullmatch(key)
        if found is None:
            raise BadKeyError(
                "the key is not <saga id>/<step>[/compensate][#<number>]: give the barrier "
                "group, step and operation instead"
            )
        operation: Operation = "undo" if found["undo"] else "do"
        return cls(found["group"], found["step"], operation, int(found["part"] or 1))


def is_undo(key: str) -> bool:
    """Whether *key* was made by eventsaga for a compensation."""
    found = _KEY.fullmatch(key)
    return found is not None and found["undo"] is not None

"""Where can a saga be cut? Before and after each commit and each effect that a clean run passed."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

_COMMITS: Final = ("append", "start", "transaction_commit")
# Polls and heartbeats are left out: how often they come says nothing about the saga. So is
# what is called ``during_``: after a death the commit is there or not, which are the other two.
WATCHED: Final = frozenset(
    {
        *(f"{when}_{name}" for when in ("before", "after") for name in _COMMITS),
        *("before_effect", "after_effect", "before_hook", "after_hook"),
        *("before_give_up", "after_give_up", "before_post", "after_post"),
        "before_transaction",
        "after_claim_commit",
    }
)
"""The failpoints whose passing makes a boundary."""

CUT: Final = "before_effect"
"""Where a saga is held until it is cancelled, so that it goes back."""

_CAMEL: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")
_UNDONE: Final = "compensate"


@dataclass(frozen=True, slots=True)
class Passing:
    """A failpoint that a run came by.

    Attributes:
        place: Its name.
        text: What was about to happen there, such as the events of a commit.
    """

    place: str
    text: str


@dataclass(frozen=True, slots=True)
class Boundary:
    """A place where a fault is put.

    Attributes:
        number: Counts from 1, in the order of the clean runs.
        place: The failpoint.
        text: Its detail.
        nth: Which passing of *place* with *text* in its detail, counting from 1.
        back: Whether it is on the way back, in a saga that was made to compensate.
    """

    number: int
    place: str
    text: str
    nth: int
    back: bool

    @property
    def is_commit(self) -> bool:
        """Whether something is committed there."""
        return self.place.partition("_")[2] in _COMMITS

    @property
    def step(self) -> str | None:
        """The step that it belongs to, the one that begins if there are two; None for none."""
        named = [word.partition("/")[2] for word in self.text.split() if "/" in word]
        return named[-1] if named else None

    @property
    def point(self) -> str:
        """The place as ``EVENTSAGA_FAILPOINTS`` has it, but for the action."""
        # A bracket would end the text there.
        text = self.text.partition("]")[0].partition(",")[0]
        return f"{self.place}[{text}]@{self.nth}" if text else f"{self.place}@{self.nth}"

    @property
    def title(self) -> str:
        """What it is, in words."""
        when, _, name = self.place.partition("_")
        if name == "effect":
            operation, _, step = self.text.partition("/")
            return f"{when} {_DOING.get(operation, operation)} {step}"
        what = _NAMES.get(name, name.replace("_", " "))
        said = ", ".join(_said(word) for word in self.text.split())
        return f"{when} {what}: {said}" if said else f"{when} {what}"

    def during(self) -> "Boundary":
        """Return the same boundary while what is committed there is under way."""
        place = f"during_{self.place.partition('_')[2]}"
        return Boundary(self.number, place, self.text, self.nth, self.back)


_DOING: Final = {"execute": "doing", _UNDONE: "undoing", "verify": "verifying"}
_NAMES: Final = {
    "append": "commit",
    "start": "commit of a start",
    "transaction_commit": "commit of a transaction",
    "claim_commit": "claim",
    "give_up": "falling asleep",
    "post": "message",
}


def _said(word: str) -> str:
    """Return ``StepCompensationStarted/charge`` as ``charge compensation started``."""
    kind, _, step = word.partition("/")
    words = _CAMEL.sub(" ", kind).lower()
    return f"{step} {words.removeprefix('step ')}" if step else words


def boundaries(
    passings: Sequence[Passing], *, first: int = 0, back: bool = False, after: int = 0
) -> list[Boundary]:
    """Return the boundaries of a clean run.

    Args:
        passings: What the run came by, in order.
        first: How many boundaries are known already.
        back: Whether the run was made to compensate.
        after: So many passings at its beginning make none: they are those of another run.
    """
    found: list[Boundary] = []
    for index, passing in enumerate(passings[after:], after):
        if passing.place in WATCHED:
            nth = _nth(passings[: index + 1])
            number = first + len(found) + 1
            found.append(Boundary(number, passing.place, passing.text, nth, back))
    return found


def cut_of(
    passings: Sequence[Passing], steps: Iterable[str], pivot: str | None
) -> tuple[Passing, int] | None:
    """Return the last effect at which a saga can still be told to go back, and which it is.

    Args:
        passings: What a clean run forward came by.
        steps: The saga's own steps, not those of its children.
        pivot: Its point of no return; None if it has none.
    """
    own = set(steps)
    found: tuple[Passing, int] | None = None
    for index, passing in enumerate(passings):
        operation, _, name = passing.text.partition("/")
        step = name.partition("[")[0]
        if passing.place != CUT or operation != "execute" or step not in own:
            continue
        if step == pivot:
            break
        found = passing, _nth(passings[: index + 1])
    return found


def _nth(passings: Sequence[Passing]) -> int:
    """Return how often a failpoint that is armed for the last of *passings* was reached."""
    last = passings[-1]
    return sum(p.place == last.place and last.text in p.text for p in passings)

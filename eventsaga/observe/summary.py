"""What is there to say of ten thousand items? One line for what went well, and what did not."""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from eventsaga.core.definition import StepName, group_of
from eventsaga.observe.timeline import Line

_QUIET: Final = frozenset({"succeeded", "compensated", "skipped"})


def summary(lines: Iterable[Line], *, few: int = 10) -> list[Line]:
    """Return *lines* with those of many items of a group put together.

    Of each group, what succeeded, was compensated or was skipped becomes one line, with the
    number of its items. Of everything else the first lines are kept, and a line says how
    many there are besides.

    Args:
        lines: A whole timeline.
        few: So many lines of a kind stay as they are.
    """
    lines = list(lines)
    counts = Counter(_kind(line) for line in lines)
    merged: dict[_Kind, Line] = {}
    shown: list[Line] = []
    kept: Counter[_Kind] = Counter()
    for line in lines:
        kind = _kind(line)
        kept[kind] += 1
        is_quiet = line.outcome in _QUIET
        if kind is None or counts[kind] <= few or (not is_quiet and kept[kind] <= few):
            shown.append(line)
        elif kind in merged:
            _merge(merged[kind], line)
        else:
            merged[kind] = _merged(line)
            shown.append(merged[kind])
    for line in merged.values():
        rest = "items" if line.outcome in _QUIET else "more"
        line.detail = f"{line.lines:,} {rest}"
    return shown


_Kind = tuple[StepName, str | None, str] | None


def _kind(line: Line) -> _Kind:
    """Return what lines of the items of one group have in common; None for other lines."""
    group = None if line.step is None else group_of(line.step)
    if group is None or (line.operation is None and line.detail):
        return None  # what a person said of an item is never left out
    return group, line.operation, line.outcome


def _merged(line: Line) -> Line:
    assert line.step is not None
    return Line(
        seq=line.seq,
        at=line.at,
        step=group_of(line.step),
        operation=line.operation,
        outcome=line.outcome,
        ended_at=line.ended_at,
    )


def _merge(whole: Line, line: Line) -> None:
    whole.lines += 1
    if line.ended_at is not None:
        whole.ended_at = max(whole.ended_at or line.ended_at, line.ended_at)

"""What does a definition look like as SVG? Steps below one another, branches side by side.

No style is written into it: the pages allow none but that of our own file.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from markupsafe import Markup, escape

from eventsaga.core.definition import (
    ChildDefinition,
    ForEachDefinition,
    Leaf,
    Node,
    ParallelDefinition,
    SequenceDefinition,
    SignalDefinition,
    SleepDefinition,
    StepDefinition,
)
from eventsaga.core.draw import CLASS_OF
from eventsaga.core.graph import SagaDefinition, is_compensable
from eventsaga.core.state import State
from eventsaga.store.postgres.overview import Minute

_WIDTH: Final = 190
_HEIGHT: Final = 44
_GAP: Final = 26
_MOST_LETTERS: Final = 24


@dataclass(slots=True)
class _Canvas:
    state: State | None
    parts: list[Markup] = field(default_factory=list[Markup])

    def line(self, x1: float, y1: float, x2: float, y2: float) -> None:
        self.parts.append(Markup('<path class="edge" d="M{} {} L{} {}"/>').format(x1, y1, x2, y2))

    def box(self, leaf: Leaf, x: float, y: float) -> None:
        step = None if self.state is None else self.state.steps.get(leaf.name)
        name = "todo" if step is None else CLASS_OF[step.phase]
        said = "" if step is None else step.phase.value.replace("_", " ")
        notes = ", ".join(filter(None, [_kind(leaf), said, self._progress(leaf)]))
        self.parts.append(
            Markup(
                '<g class="node {}"><title>{}: {}</title>'
                '<rect x="{}" y="{}" width="{}" height="{}" rx="{}"/>'
                '<text x="{}" y="{}">{}</text><text class="note" x="{}" y="{}">{}</text></g>'
            ).format(
                name,
                leaf.name,
                notes,
                x - _WIDTH / 2,
                y,
                _WIDTH,
                _HEIGHT,
                4 if isinstance(leaf, StepDefinition) else 20,
                x,
                y + 18,
                _cut(leaf.name),
                x,
                y + 34,
                _cut(notes),
            )
        )

    def _progress(self, leaf: Leaf) -> str:
        items = None if self.state is None else self.state.items.get(leaf.name)
        return "" if items is None else f"{items.done} of {len(items.values)}"


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS - 1]}…"


def _kind(leaf: Leaf) -> str:
    match leaf:
        case StepDefinition():
            word = "pivot" if leaf.pivot else ""
        case SleepDefinition():
            word = "sleep"
        case SignalDefinition():
            word = f"signal {leaf.signal}"
        case ChildDefinition():
            word = f"saga {leaf.saga}"
        case ForEachDefinition():
            word = "for each"
    return ", ".join(
        filter(None, [word, "if" if leaf.conditional else "", "↩" if is_compensable(leaf) else ""])
    )


def _size(node: Node) -> tuple[float, float]:
    """Return width and height of *node*."""
    match node:
        case SequenceDefinition():
            return _size_of(node.nodes)
        case ParallelDefinition():
            sizes = [_size(branch) for branch in node.branches]
            width = sum(wide for wide, _ in sizes) + _GAP * (len(sizes) - 1)
            return width, max(high for _, high in sizes) + 2 * _GAP
        case _:
            return _WIDTH, _HEIGHT


def _size_of(nodes: Sequence[Node]) -> tuple[float, float]:
    sizes = [_size(node) for node in nodes]
    return max(wide for wide, _ in sizes), sum(high for _, high in sizes) + _GAP * (len(sizes) - 1)


def _draw(canvas: _Canvas, node: Node, x: float, y: float) -> None:
    """Draw *node* with its upper edge at *y*, around *x*."""
    match node:
        case SequenceDefinition():
            _draw_all(canvas, node.nodes, x, y)
        case ParallelDefinition():
            wide, high = _size(node)
            left, below = x - wide / 2, y + high
            for branch in node.branches:
                width, height = _size(branch)
                middle = left + width / 2
                canvas.line(x, y, middle, y + _GAP)
                _draw(canvas, branch, middle, y + _GAP)
                canvas.line(middle, y + _GAP + height, middle, below - _GAP)
                canvas.line(middle, below - _GAP, x, below)
                left += width + _GAP
        case _:
            canvas.box(node, x, y)


def _draw_all(canvas: _Canvas, nodes: Iterable[Node], x: float, y: float) -> None:
    for number, node in enumerate(nodes):
        if number:
            canvas.line(x, y - _GAP, x, y)
        _draw(canvas, node, x, y)
        y += _size(node)[1] + _GAP


def graph(definition: SagaDefinition, state: State | None = None) -> Markup:
    """Return *definition* as SVG; *state* colours each step by where it stands."""
    wide, high = _size_of(definition.nodes)
    canvas = _Canvas(state)
    _draw_all(canvas, definition.nodes, wide / 2 + 4, 4)
    return Markup(
        '<svg class="graph" role="img" aria-label="Steps of {}" width="{}" height="{}" '
        'viewBox="0 0 {} {}">{}</svg>'
    ).format(definition.name, wide + 8, high + 8, wide + 8, high + 8, Markup("").join(canvas.parts))


def chart(minutes: Sequence[Minute]) -> Markup:
    """Return what began and ended in each minute as SVG: two bars a minute."""
    most = max((max(minute.started, minute.ended) for minute in minutes), default=0) or 1
    bars: list[Markup] = []
    for number, minute in enumerate(minutes):
        said = f"{minute.at:%H:%M} UTC: {minute.started:,} started, {minute.ended:,} ended"
        both = [
            Markup('<rect class="{}" x="{}" y="{}" width="4" height="{}"/>').format(
                name,
                number * 10 + shift,
                round(100 - 100 * count / most, 2),
                round(100 * count / most, 2),
            )
            for name, count, shift in (("began", minute.started, 0), ("ended", minute.ended, 4))
        ]
        bars.append(Markup("<g><title>{}</title>{}</g>").format(said, Markup("").join(both)))
    label = f"Sagas started and ended by minute over the last hour, at most {most:,} a minute"
    return Markup(
        '<svg class="chart" role="img" aria-label="{}" viewBox="0 0 {} 100" '
        'preserveAspectRatio="none">{}</svg>'
    ).format(escape(label), len(minutes) * 10, Markup("").join(bars))

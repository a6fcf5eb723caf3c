"""What does a saga look like? A Mermaid flowchart of its definition, and of where one stands.

The same definition gives the same text, so that a drawing can be committed and compared.
Nodes come first and edges last: Mermaid moves a node into the group in which it is
mentioned first.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, assert_never

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
from eventsaga.core.graph import SagaDefinition, is_compensable
from eventsaga.core.state import Phase, State, Status

_Tail = tuple[str, str]
"""A node that the next one follows, and what the arrow says."""

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_]")
_ESCAPES: Final = {ord(sign): f"#{ord(sign)};" for sign in '#"<>&`;'}

CLASS_OF: Final[Mapping[Phase, str]] = {
    Phase.RUNNING: "running",
    Phase.VERIFYING: "running",
    Phase.CHILD: "running",
    Phase.FANNED: "running",
    Phase.COMPENSATING: "running",
    Phase.CHILD_UNDO: "running",
    Phase.WAITING: "waiting",
    Phase.VERIFICATION_WAITING: "waiting",
    Phase.SLEEPING: "waiting",
    Phase.AWAITING: "waiting",
    Phase.COMPENSATION_WAITING: "waiting",
    Phase.STUCK: "stuck",
    Phase.COMPENSATION_FAILED: "stuck",
    Phase.SUCCEEDED: "succeeded",
    Phase.SKIPPED: "skipped",
    Phase.FAILED: "failed",
    Phase.UNCOMPENSATED: "failed",
    Phase.IN_DOUBT: "in_doubt",
    Phase.COMPENSATED: "compensated",
}
_STYLE_OF: Final[Mapping[str, str]] = {
    "succeeded": "fill:#d5f5d9,stroke:#2e7d32,color:#1b1b1b",
    "running": "fill:#cfe8ff,stroke:#1565c0,color:#1b1b1b,stroke-width:3px",
    "waiting": "fill:#e8eaf6,stroke:#3949ab,color:#1b1b1b,stroke-dasharray:4 3",
    "stuck": "fill:#ffcdd2,stroke:#b71c1c,color:#1b1b1b,stroke-width:3px",
    "failed": "fill:#ffe0e0,stroke:#c62828,color:#1b1b1b",
    "in_doubt": "fill:#fff3cd,stroke:#b28704,color:#1b1b1b",
    "compensated": "fill:#ffe8cc,stroke:#e65100,color:#1b1b1b",
    "skipped": "fill:#eeeeee,stroke:#9e9e9e,color:#616161,stroke-dasharray:2 2",
}
_CLASS_OF_SAGA: Final[Mapping[Status, str]] = {
    Status.COMPLETED: "succeeded",
    Status.COMPENSATED: "compensated",
    Status.FAILED: "failed",
}


def draw(definition: SagaDefinition, live: State | None = None) -> str:
    """Return *definition* as a Mermaid flowchart.

    Args:
        definition: A saga; policies that are not known, as of one that was read from its
            shape, are left out.
        live: Where one such saga stands; colours each node. None for no colours.
    """
    return "\n".join([*_Drawing(definition, live).lines(), ""])


@dataclass(slots=True)
class _Drawing:
    """Walks the tree once and collects nodes and edges."""

    definition: SagaDefinition
    live: State | None
    nodes: list[str] = field(default_factory=list[str])
    edges: list[str] = field(default_factory=list[str])
    classes: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    taken: set[str] = field(default_factory=set[str])
    depth: int = 1

    def lines(self) -> Iterator[str]:
        """Yield the lines of the drawing."""
        saga, live = self.definition, self.live
        start, end = self._id("start"), self._id("end")
        standing = [] if live is None else [str(live.status)]
        self._node(start, "([", "])", f"{saga.name} v{saga.version}", *standing)
        tails = self._visit_all(saga.nodes, [(start, "")])
        self._node(end, "([", "])", "completed")
        self._connect(tails, end)
        if live is not None and live.status in _CLASS_OF_SAGA:
            name = _CLASS_OF_SAGA[live.status]
            self._mark(end if live.status is Status.COMPLETED else start, name)
        yield "flowchart TD"
        yield from self.nodes
        yield from self.edges
        for name, style in _STYLE_OF.items():
            if self.live is not None:
                yield f"    classDef {name} {style}"
        for name, ids in self.classes.items():
            yield f"    class {','.join(ids)} {name}"

    # -- the tree --------------------------------------------------------------------------

    def _visit_all(self, nodes: Iterable[Node], tails: list[_Tail]) -> list[_Tail]:
        for node in nodes:
            tails = self._visit(node, tails)
        return tails

    def _visit(self, node: Node, tails: list[_Tail]) -> list[_Tail]:
        match node:
            case SequenceDefinition():
                return self._visit_all(node.nodes, tails)
            case ParallelDefinition():
                return self._parallel(node, tails)
            case _:
                return self._leaf(node, tails)

    def _parallel(self, node: ParallelDefinition, tails: list[_Tail]) -> list[_Tail]:
        group, fork, join = (self._id(node.name, part) for part in ("", "fork", "join"))
        limit = node.max_concurrency
        self._open(group, node.name, "" if limit is None else f"{limit} at a time")
        self._node(fork, "((", "))", "fork")
        self._connect(tails, fork)
        ends: list[_Tail] = []
        for branch in node.branches:
            ends += self._visit(branch, [(fork, "")])
        self._node(join, "((", "))", "join")
        self._connect(ends, join)
        self._close()
        return [(join, "")]

    def _leaf(self, leaf: Leaf, tails: list[_Tail]) -> list[_Tail]:
        node = self._id(leaf.name)
        passed: list[_Tail] = []
        if leaf.conditional:
            question = self._id(leaf.name, "when")
            self._node(question, "{", "}", f"{leaf.name}?")
            self._connect(tails, question)
            tails, passed = [(question, "yes")], [(question, "no")]
            self._stand(question, leaf, only_skipped=True)
        if isinstance(leaf, ForEachDefinition):
            self._for_each(node, leaf)
        else:
            self._node(node, *_brackets(leaf), leaf.name, *_notes(leaf))
        self._connect(tails, node)
        self._stand(node, leaf)
        return [(node, ""), *passed]

    def _for_each(self, node: str, leaf: ForEachDefinition) -> None:
        self._open(self._id(leaf.name, "items"), "for each item", "")
        items = None if self.live is None else self.live.items.get(leaf.name)
        progress = [] if items is None else [f"{items.done} of {len(items.values)} done"]
        self._node(node, "[[", "]]", leaf.name, *_notes(leaf), *progress)
        self._close()

    def _stand(self, node: str, leaf: Leaf, *, only_skipped: bool = False) -> None:
        step = None if self.live is None else self.live.steps.get(leaf.name)
        if step is not None and (step.phase is Phase.SKIPPED or not only_skipped):
            self._mark(node, CLASS_OF[step.phase])

    # -- the text --------------------------------------------------------------------------

    def _id(self, name: str, part: str = "") -> str:
        """Return an id for *name* that no other node has, and that is no word of Mermaid's."""
        safe = "_".join(["n", _UNSAFE.sub("_", name), *([part] if part else [])])
        chosen, number = safe, 1
        while chosen in self.taken:
            number += 1
            chosen = f"{safe}_{number}"
        self.taken.add(chosen)
        return chosen

    def _node(self, node: str, before: str, after: str, *label: str) -> None:
        self._write(f'{node}{before}"{_label(label)}"{after}')

    def _open(self, group: str, *label: str) -> None:
        self._write(f'subgraph {group} ["{_label(label)}"]')
        self.depth += 1

    def _close(self) -> None:
        self.depth -= 1
        self._write("end")

    def _write(self, text: str) -> None:
        self.nodes.append(f"{'    ' * self.depth}{text}")

    def _connect(self, tails: Iterable[_Tail], head: str) -> None:
        for tail, says in tails:
            arrow = f'-->|"{says}"|' if says else "-->"
            self.edges.append(f"    {tail} {arrow} {head}")

    def _mark(self, node: str, name: str) -> None:
        self.classes.setdefault(name, []).append(node)


def _brackets(leaf: Leaf) -> tuple[str, str]:
    match leaf:
        case StepDefinition():
            return ("{{", "}}") if leaf.pivot else ("[", "]")
        case SleepDefinition():
            return "(", ")"
        case SignalDefinition():
            return ">", "]"
        case ChildDefinition() | ForEachDefinition():
            return "[[", "]]"
        case _:
            assert_never(leaf)


def _notes(leaf: Leaf) -> Iterator[str]:
    """Yield what the label says below the name."""
    match leaf:
        case StepDefinition() if leaf.pivot:
            yield "pivot: no way back"
        case SleepDefinition():
            yield "sleeps" if leaf.duration is None else f"sleeps {leaf.duration}"
        case SignalDefinition():
            limit = "" if leaf.timeout is None else f", at most {leaf.timeout}"
            yield f"waits for {leaf.signal}{limit}"
        case ChildDefinition():
            yield f"saga {leaf.saga}"
        case _:
            pass
    if is_compensable(leaf):
        yield "↩ compensated"


def _label(parts: Iterable[str]) -> str:
    return "<br/>".join(part.translate(_ESCAPES) for part in parts if part)

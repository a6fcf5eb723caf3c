"""In which order? A definition's tree, compiled once into a dependency graph.

A leaf may start when all its predecessors have succeeded, and may be compensated when
everything that depends on it has been.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType
from typing import Any, assert_never

from eventsaga.core.definition import (
    ChildDefinition,
    ForEachDefinition,
    Hook,
    Leaf,
    Node,
    OnDoubt,
    OnTimeout,
    ParallelDefinition,
    SequenceDefinition,
    SignalDefinition,
    SleepDefinition,
    StepDefinition,
    StepName,
    group_of,
    require_identifier,
)
from eventsaga.core.shape import shape_of
from eventsaga.errors import DefinitionError


@dataclass(frozen=True, slots=True)
class Gate:
    """A branch of a group that admits only some of its branches at a time.

    Attributes:
        branches: Every branch of the group, as the set of its leaves.
        own: Number of the branch.
        limit: Branches under way at the same time.
    """

    branches: tuple[tuple[StepName, ...], ...]
    own: int
    limit: int


@dataclass(frozen=True, slots=True)
class _Graph:
    """The dependency graph that a definition's tree stands for."""

    steps: Mapping[StepName, Leaf]
    order: tuple[StepName, ...]
    predecessors: Mapping[StepName, tuple[StepName, ...]]
    successors: Mapping[StepName, tuple[StepName, ...]]
    concurrent: Mapping[StepName, frozenset[StepName]]
    gates: Mapping[StepName, tuple[Gate, ...]]
    compensates_after: Mapping[StepName, tuple[StepName, ...]]
    compensates_before: Mapping[StepName, tuple[StepName, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaDefinition:
    """A saga as data, with its dependency graph.

    Attributes:
        name: Unique within a database.
        version: Raised by the author when the shape changes.
        nodes: The tree, in order.
        deadline: Limit of the whole saga from its start; None for none.
        hooks: What is run after the fact.
        fingerprint: Hash of the shape (kinds, names, nesting, what is compensable).
            Policies and timeouts are left out: changing them cannot contradict a
            history, so it must not strand running sagas.
        pivot: The step after which there is no way back; None if there is none.

    Raises:
        DefinitionError: If the tree has no step, or a name twice or ill-formed, or a
            promise that cannot hold.
    """

    name: str
    version: int = 1
    nodes: tuple[Node, ...]
    deadline: timedelta | None = None
    hooks: frozenset[Hook] = frozenset()
    fingerprint: str = field(init=False)
    pivot: StepName | None = field(init=False, compare=False)
    _graph: _Graph = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_identifier("saga", self.name)
        if self.version < 1:
            raise DefinitionError(f"saga {self.name!r}: version must be at least 1")
        if self.deadline is not None and self.deadline <= timedelta(0):
            raise DefinitionError(f"saga {self.name!r}: deadline must be positive")
        # A frozen dataclass has no other way to fill in what it derives.
        graph = _compile(self)
        object.__setattr__(self, "_graph", graph)
        object.__setattr__(self, "pivot", _checked_pivot(self.name, graph))
        shape = json.dumps(self.shape(), sort_keys=True, separators=(",", ":"))
        object.__setattr__(self, "fingerprint", hashlib.sha256(shape.encode()).hexdigest()[:32])

    @property
    def steps(self) -> Mapping[StepName, Leaf]:
        """All leaves by name, in the order in which they are written."""
        return self._graph.steps

    @property
    def order(self) -> tuple[StepName, ...]:
        """All leaves' names as written; a topological order of the dependency graph."""
        return self._graph.order

    @property
    def predecessors(self) -> Mapping[StepName, tuple[StepName, ...]]:
        """For each leaf, those that must have succeeded before it starts."""
        return self._graph.predecessors

    @property
    def successors(self) -> Mapping[StepName, tuple[StepName, ...]]:
        """For each leaf, those whose turn may have come when it has ended."""
        return self._graph.successors

    @property
    def concurrent(self) -> Mapping[StepName, frozenset[StepName]]:
        """For each leaf, those that may run at the same time, in other branches."""
        return self._graph.concurrent

    @property
    def gates(self) -> Mapping[StepName, tuple[Gate, ...]]:
        """For each leaf, the limited groups that it stands in."""
        return self._graph.gates

    @property
    def compensates_after(self) -> Mapping[StepName, tuple[StepName, ...]]:
        """For each leaf, the nearest compensable ones after it: they are compensated first."""
        return self._graph.compensates_after

    @property
    def compensates_before(self) -> Mapping[StepName, tuple[StepName, ...]]:
        """For each leaf, the nearest compensable ones before it: they are compensated next."""
        return self._graph.compensates_before

    def task(self, name: StepName) -> StepDefinition:
        """Return the step *name*, which may be one for an item of a group."""
        leaf = self.steps[group_of(name) or name]
        if isinstance(leaf, ForEachDefinition):
            return leaf.step
        assert isinstance(leaf, StepDefinition), "only steps have attempts"
        return leaf

    def compensable(self, name: StepName) -> bool:
        """Whether there is a compensation of *name*, which may be one for an item."""
        return is_compensable(self.steps[group_of(name) or name])

    def shape(self) -> dict[str, Any]:
        """Return the definition as a JSON object, without policies; stored with the saga."""
        return shape_of(self.name, self.nodes)


def is_compensable(leaf: Leaf) -> bool:
    """Whether what *leaf* does can be undone, and has to be."""
    match leaf:
        case StepDefinition():
            return leaf.compensable
        case ForEachDefinition():
            return leaf.step.compensable
        case ChildDefinition():
            return leaf.undoable
        case SleepDefinition() | SignalDefinition():
            return False
        case _:
            assert_never(leaf)


def leaves_in(node: Node) -> Iterator[Leaf]:
    """Yield the leaves of *node* in the order in which they are written."""
    match node:
        case SequenceDefinition(nodes=children) | ParallelDefinition(branches=children):
            for child in children:
                yield from leaves_in(child)
        case _:
            yield node


class _Compiler:
    """Walks the tree once and collects edges; lives only during compilation."""

    def __init__(self, saga_name: str) -> None:
        self._saga_name = saga_name
        self._names: set[str] = set()
        self.steps: dict[StepName, Leaf] = {}
        self.predecessors: dict[StepName, tuple[StepName, ...]] = {}
        self.concurrent: dict[StepName, frozenset[StepName]] = {}
        self.gates: dict[StepName, tuple[Gate, ...]] = {}

    def visit(
        self, node: Node, before: tuple[StepName, ...], beside: frozenset[StepName]
    ) -> tuple[StepName, ...]:
        """Add *node*, which follows *before*, and return the leaves that it ends with."""
        match node:
            case SequenceDefinition():
                return self.visit_all(node.nodes, before, beside)
            case ParallelDefinition():
                return self._visit_branches(node, before, beside)
            case _:
                self._take_name("step", node.name)
                self.steps[node.name] = node
                self.predecessors[node.name] = before
                self.concurrent[node.name] = beside
                return (node.name,)

    def visit_all(
        self, nodes: tuple[Node, ...], before: tuple[StepName, ...], beside: frozenset[StepName]
    ) -> tuple[StepName, ...]:
        if not nodes:
            raise DefinitionError(f"saga {self._saga_name!r} has an empty list of steps")
        for node in nodes:
            before = self.visit(node, before, beside)
        return before

    def _visit_branches(
        self, node: ParallelDefinition, before: tuple[StepName, ...], beside: frozenset[StepName]
    ) -> tuple[StepName, ...]:
        self._take_name("parallel group", node.name)
        if not node.branches:
            raise DefinitionError(f"parallel group {node.name!r} has no branches")
        inside = tuple(tuple(leaf.name for leaf in leaves_in(branch)) for branch in node.branches)
        everyone = frozenset(name for branch in inside for name in branch)
        ends = [
            self.visit(branch, before, beside | (everyone - frozenset(own)))
            for branch, own in zip(node.branches, inside, strict=True)
        ]
        if node.max_concurrency is not None and node.max_concurrency < len(inside):
            for number, branch in enumerate(inside):
                gate = Gate(inside, number, node.max_concurrency)
                for name in branch:
                    self.gates[name] = (*self.gates.get(name, ()), gate)
        return tuple(name for end in ends for name in end)

    def _take_name(self, kind: str, name: str) -> None:
        require_identifier(kind, name)
        if name in self._names:
            raise DefinitionError(f"saga {self._saga_name!r} has two nodes named {name!r}")
        self._names.add(name)


def _compile(definition: SagaDefinition) -> _Graph:
    compiler = _Compiler(definition.name)
    compiler.visit_all(definition.nodes, (), frozenset())
    successors = _reversed(compiler.predecessors)
    # The order is topological, so what a leaf links to is known when its turn comes.
    order = tuple(compiler.steps)
    nearest_before = _nearest_compensable(compiler.steps, order, compiler.predecessors)
    nearest_after = _nearest_compensable(compiler.steps, reversed(order), successors)
    return _Graph(
        steps=MappingProxyType(compiler.steps),
        order=order,
        predecessors=MappingProxyType(compiler.predecessors),
        successors=MappingProxyType(_with_neighbours(successors, compiler.gates)),
        concurrent=MappingProxyType(compiler.concurrent),
        gates=MappingProxyType(compiler.gates),
        compensates_after=MappingProxyType(nearest_after),
        compensates_before=MappingProxyType(nearest_before),
    )


def _reversed(
    edges: Mapping[StepName, tuple[StepName, ...]],
) -> dict[StepName, tuple[StepName, ...]]:
    found: dict[StepName, list[StepName]] = {name: [] for name in edges}
    for name, others in edges.items():
        for other in others:
            found[other].append(name)
    return {name: tuple(others) for name, others in found.items()}


def _with_neighbours(
    successors: Mapping[StepName, tuple[StepName, ...]],
    gates: Mapping[StepName, tuple[Gate, ...]],
) -> dict[StepName, tuple[StepName, ...]]:
    """Return *successors* with the branches added that the end of another one lets in."""
    found: dict[StepName, tuple[StepName, ...]] = {}
    for name, others in successors.items():
        admitted = dict.fromkeys(others)
        for gate in gates.get(name, ()):
            for branch in gate.branches:
                admitted.update(dict.fromkeys(branch))
        found[name] = tuple(admitted)
    return found


def _nearest_compensable(
    steps: Mapping[StepName, Leaf],
    order: Iterable[StepName],
    edges: Mapping[StepName, tuple[StepName, ...]],
) -> dict[StepName, tuple[StepName, ...]]:
    """Return *edges* with the leaves left out that have no compensation."""
    found: dict[StepName, tuple[StepName, ...]] = {}
    for name in order:
        nearest: dict[StepName, None] = {}
        for other in edges[name]:
            next_ones = (other,) if is_compensable(steps[other]) else found[other]
            nearest.update(dict.fromkeys(next_ones))
        found[name] = tuple(nearest)
    return found


# -- the pivot ------------------------------------------------------------------------------


def _checked_pivot(saga_name: str, graph: _Graph) -> StepName | None:
    """Return the pivot, if there is one and its promise can hold.

    Raises:
        DefinitionError: If the saga might have to go back after it.
    """
    pivots = [
        name
        for name, leaf in graph.steps.items()
        if isinstance(leaf, StepDefinition) and leaf.pivot
    ]
    if len(pivots) > 1:
        raise DefinitionError(f"saga {saga_name!r} has two pivots, {' and '.join(pivots)}")
    if not pivots:
        _check_children(graph, graph.order)
        return None
    (pivot,) = pivots
    if graph.concurrent[pivot]:
        sibling = min(graph.concurrent[pivot])
        raise DefinitionError(
            f"step {pivot!r}: a pivot in a parallel branch cannot hold, because {sibling!r} "
            "may fail after it"
        )
    at = graph.order.index(pivot)
    _check_children(graph, graph.order[:at])
    for name in graph.order[at + 1 :]:
        _check_tail(pivot, graph.steps[name])
    return pivot


def _check_children(graph: _Graph, names: Iterable[StepName]) -> None:
    for name in names:
        leaf = graph.steps[name]
        if isinstance(leaf, ChildDefinition) and not leaf.undoable:
            raise DefinitionError(
                f"child saga {name!r}: saga {leaf.saga!r} has a pivot, so it cannot be undone; "
                "it may only stand after a pivot"
            )


def _check_tail(pivot: StepName, leaf: Leaf) -> None:
    step = leaf.step if isinstance(leaf, ForEachDefinition) else leaf
    if isinstance(step, StepDefinition) and step.on_doubt is OnDoubt.COMPENSATE:
        raise DefinitionError(
            f"step {leaf.name!r} comes after the pivot {pivot!r}: on_doubt='compensate' would go "
            "back"
        )
    goes_back = isinstance(leaf, SignalDefinition) and leaf.on_timeout is OnTimeout.COMPENSATE
    if goes_back and isinstance(leaf, SignalDefinition) and leaf.timeout is not None:
        raise DefinitionError(
            f"signal {leaf.name!r} comes after the pivot {pivot!r}: on_timeout='compensate' would "
            "go back; 'continue' or 'park' does not"
        )

"""What may happen in a saga? A definition is data: compared, hashed and drawn, never run.

Nodes nest (a step, a sequence, a parallel group). For deciding, the tree is compiled once
into a dependency graph: a step may start when all its predecessors have succeeded, and may
be compensated when everything that depends on it has been.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Final, assert_never

from eventsaga.errors import DefinitionError

StepName = str

_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,99}")
# Beyond this any growth that is worth its name has reached max_delay.
_MAX_EXPONENT: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When, and how often, a failed attempt is followed by another.

    Exponential backoff with full jitter (M. Brooker, "Exponential Backoff And Jitter",
    AWS Architecture Blog, 2015): the wait is uniform between 0 and the backoff.

    Attributes:
        max_attempts: Total attempts, the first one included. At least 1.
        delay: Upper bound of the wait before the second attempt.
        multiplier: Each further bound is this many times the one before. Finite, at least 1.
        max_delay: Upper bound of any single wait.

    Raises:
        DefinitionError: If a value is out of its range.
    """

    max_attempts: int = 3
    delay: timedelta = timedelta(seconds=1)
    multiplier: float = 2.0
    max_delay: timedelta = timedelta(minutes=1)

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise DefinitionError(f"max_attempts must be at least 1, not {self.max_attempts}")
        if self.delay < timedelta(0) or self.max_delay < timedelta(0):
            raise DefinitionError("retry delays must not be negative")
        # Written so that NaN is refused too.
        if not 1 <= self.multiplier < math.inf:
            raise DefinitionError(
                f"multiplier must be at least 1 and finite, not {self.multiplier}"
            )

    def wait_after(self, spent: int, jitter: float) -> timedelta | None:
        """Return the wait before the next attempt; None if none is left.

        Args:
            spent: Attempts that counted so far, the failed one included. At least 1.
            jitter: Random number in [0, 1).
        """
        if spent >= self.max_attempts:
            return None
        return timedelta(seconds=self._ceiling(spent - 1) * jitter)

    def _ceiling(self, exponent: int) -> float:
        delay, cap = self.delay.total_seconds(), self.max_delay.total_seconds()
        try:
            return min(delay * self.multiplier ** min(exponent, _MAX_EXPONENT), cap)
        except OverflowError:
            return cap if delay else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDefinition:
    """One effect and, if it has one, its compensation.

    Attributes:
        name: Unique within the saga.
        compensable: Whether there is a compensation.
        retry: Policy of the effect.
        compensate_retry: Policy of the compensation.
        timeout: Limit of one attempt, of either kind; a longer one is in doubt. Positive.

    Raises:
        DefinitionError: If the timeout is not positive.
    """

    name: StepName
    compensable: bool = False
    retry: RetryPolicy = RetryPolicy()
    compensate_retry: RetryPolicy = RetryPolicy()
    timeout: timedelta = timedelta(seconds=30)

    def __post_init__(self) -> None:
        if self.timeout <= timedelta(0):
            raise DefinitionError("timeout must be positive")


@dataclass(frozen=True, slots=True)
class SequenceDefinition:
    """Nodes that run one after the other."""

    nodes: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class ParallelDefinition:
    """Branches that run at the same time; the group ends when all have settled."""

    name: str
    branches: tuple["Node", ...]


Node = StepDefinition | SequenceDefinition | ParallelDefinition


@dataclass(frozen=True, slots=True)
class _Graph:
    """The dependency graph that a definition's tree stands for."""

    steps: Mapping[StepName, StepDefinition]
    order: tuple[StepName, ...]
    predecessors: Mapping[StepName, tuple[StepName, ...]]
    successors: Mapping[StepName, tuple[StepName, ...]]
    concurrent: Mapping[StepName, frozenset[StepName]]
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
        fingerprint: Hash of the shape (kinds, names, nesting, what is compensable).
            Policies and timeouts are left out: changing them cannot contradict a
            history, so it must not strand running sagas.

    Raises:
        DefinitionError: If the tree has no step, or a name twice or ill-formed.
    """

    name: str
    version: int = 1
    nodes: tuple[Node, ...]
    deadline: timedelta | None = None
    fingerprint: str = field(init=False)
    _graph: _Graph = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_identifier("saga", self.name)
        if self.version < 1:
            raise DefinitionError(f"saga {self.name!r}: version must be at least 1")
        if self.deadline is not None and self.deadline <= timedelta(0):
            raise DefinitionError(f"saga {self.name!r}: deadline must be positive")
        # A frozen dataclass has no other way to fill in what it derives.
        object.__setattr__(self, "_graph", _compile(self))
        shape = json.dumps(self.shape(), sort_keys=True, separators=(",", ":"))
        object.__setattr__(self, "fingerprint", hashlib.sha256(shape.encode()).hexdigest()[:32])

    @property
    def steps(self) -> Mapping[StepName, StepDefinition]:
        """All steps by name, in the order in which they are written."""
        return self._graph.steps

    @property
    def order(self) -> tuple[StepName, ...]:
        """All step names as written; a topological order of the dependency graph."""
        return self._graph.order

    @property
    def predecessors(self) -> Mapping[StepName, tuple[StepName, ...]]:
        """For each step, those that must have succeeded before it starts."""
        return self._graph.predecessors

    @property
    def successors(self) -> Mapping[StepName, tuple[StepName, ...]]:
        """For each step, those that wait for it directly."""
        return self._graph.successors

    @property
    def concurrent(self) -> Mapping[StepName, frozenset[StepName]]:
        """For each step, those that may run at the same time, in other branches."""
        return self._graph.concurrent

    @property
    def compensates_after(self) -> Mapping[StepName, tuple[StepName, ...]]:
        """For each step, the nearest compensable ones after it: they are compensated first."""
        return self._graph.compensates_after

    @property
    def compensates_before(self) -> Mapping[StepName, tuple[StepName, ...]]:
        """For each step, the nearest compensable ones before it: they are compensated next."""
        return self._graph.compensates_before

    def shape(self) -> dict[str, Any]:
        """Return the definition as a JSON object, without policies; stored with the saga."""
        return {"name": self.name, "nodes": [_shape(node) for node in self.nodes]}


def require_identifier(kind: str, name: str) -> None:
    """Refuse a name that could not stand in a key, a file name or a label.

    Raises:
        DefinitionError: If *name* is not letters, digits, ``_``, ``.`` and ``-``
            starting with a letter or ``_``, at most 100 characters.
    """
    if not _IDENTIFIER.fullmatch(name):
        raise DefinitionError(
            f"{kind} name {name!r} must start with a letter or '_' and hold only letters, "
            "digits, '_', '.' and '-' (at most 100)"
        )


def _shape(node: Node) -> Any:
    match node:
        case StepDefinition():
            return {"step": node.name, "compensable": node.compensable}
        case SequenceDefinition():
            return {"sequence": [_shape(child) for child in node.nodes]}
        case ParallelDefinition():
            return {"parallel": node.name, "branches": [_shape(child) for child in node.branches]}
        case _:
            assert_never(node)


def _steps_in(node: Node) -> Iterator[StepDefinition]:
    match node:
        case StepDefinition():
            yield node
        case SequenceDefinition(nodes=children) | ParallelDefinition(branches=children):
            for child in children:
                yield from _steps_in(child)
        case _:
            assert_never(node)


class _Compiler:
    """Walks the tree once and collects edges; lives only during compilation."""

    def __init__(self, saga_name: str) -> None:
        self._saga_name = saga_name
        self._names: set[str] = set()
        self.steps: dict[StepName, StepDefinition] = {}
        self.predecessors: dict[StepName, tuple[StepName, ...]] = {}
        self.concurrent: dict[StepName, frozenset[StepName]] = {}

    def visit(
        self, node: Node, before: tuple[StepName, ...], beside: frozenset[StepName]
    ) -> tuple[StepName, ...]:
        """Add *node*, which follows *before*, and return the steps that it ends with."""
        match node:
            case StepDefinition():
                self._take_name("step", node.name)
                self.steps[node.name] = node
                self.predecessors[node.name] = before
                self.concurrent[node.name] = beside
                return (node.name,)
            case SequenceDefinition():
                return self.visit_all(node.nodes, before, beside)
            case ParallelDefinition():
                return self._visit_branches(node, before, beside)
            case _:
                assert_never(node)

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
        inside = [frozenset(step.name for step in _steps_in(branch)) for branch in node.branches]
        everyone = frozenset[StepName]().union(*inside)
        ends = [
            self.visit(branch, before, beside | (everyone - own))
            for branch, own in zip(node.branches, inside, strict=True)
        ]
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
    # The order is topological, so what a step links to is known when its turn comes.
    order = tuple(compiler.steps)
    nearest_before = _nearest_compensable(compiler.steps, order, compiler.predecessors)
    nearest_after = _nearest_compensable(compiler.steps, reversed(order), successors)
    return _Graph(
        steps=MappingProxyType(compiler.steps),
        order=order,
        predecessors=MappingProxyType(compiler.predecessors),
        successors=MappingProxyType(successors),
        concurrent=MappingProxyType(compiler.concurrent),
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


def _nearest_compensable(
    steps: Mapping[StepName, StepDefinition],
    order: Iterable[StepName],
    edges: Mapping[StepName, tuple[StepName, ...]],
) -> dict[StepName, tuple[StepName, ...]]:
    """Return *edges* with the steps left out that have no compensation."""
    found: dict[StepName, tuple[StepName, ...]] = {}
    for name in order:
        nearest: dict[StepName, None] = {}
        for other in edges[name]:
            nearest.update(dict.fromkeys((other,) if steps[other].compensable else found[other]))
        found[name] = tuple(nearest)
    return found

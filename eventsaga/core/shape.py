"""What does a definition look like without its policies? JSON that is hashed and stored.

A key that is not there means the default, so that a shape which was hashed before a kind of
node or a property existed keeps its fingerprint.
"""

from collections.abc import Iterable, Mapping
from typing import Any, assert_never

from eventsaga.core.definition import (
    ChildDefinition,
    ForEachDefinition,
    Node,
    ParallelDefinition,
    SequenceDefinition,
    SignalDefinition,
    SleepDefinition,
    StepDefinition,
)
from eventsaga.errors import DefinitionError


def shape_of(name: str, nodes: Iterable[Node]) -> dict[str, Any]:
    """Return the shape of a saga as a JSON object."""
    return {"name": name, "nodes": [_shape(node) for node in nodes]}


def nodes_from(shape: Mapping[str, Any]) -> tuple[Node, ...]:
    """Return the tree that *shape* was taken of, with default policies.

    Raises:
        DefinitionError: If it holds what this version does not know.
    """
    try:
        return tuple(_node(node) for node in shape["nodes"])
    except (AttributeError, KeyError, TypeError) as error:
        raise DefinitionError(f"the shape of a saga cannot be read: {error!r}") from error


def _shape(node: Node) -> dict[str, Any]:  # noqa: PLR0911 - a line for each kind
    match node:
        case StepDefinition():
            plain: dict[str, Any] = {"step": node.name, "compensable": node.compensable}
            return plain | _flags(conditional=node.conditional, pivot=node.pivot)
        case SequenceDefinition():
            return {"sequence": [_shape(child) for child in node.nodes]}
        case ParallelDefinition():
            return {"parallel": node.name, "branches": [_shape(child) for child in node.branches]}
        case SleepDefinition():
            return {"sleep": node.name} | _flags(conditional=node.conditional)
        case SignalDefinition():
            return {"wait": node.name, "signal": node.signal} | _flags(conditional=node.conditional)
        case ChildDefinition():
            flags = _flags(conditional=node.conditional, irrevocable=not node.undoable)
            return {"child": node.name, "saga": node.saga} | flags
        case ForEachDefinition():
            flags = _flags(conditional=node.conditional)
            return {"for_each": node.name, "of": _shape(node.step)} | flags
        case _:
            assert_never(node)


def _flags(**flags: bool) -> dict[str, Any]:
    return {name: True for name, value in flags.items() if value}


def _node(shape: Mapping[str, Any]) -> Node:  # noqa: PLR0911 - a line for each kind
    conditional = bool(shape.get("conditional"))
    match shape:
        case {"step": name}:
            return StepDefinition(
                name=name,
                compensable=shape["compensable"],
                conditional=conditional,
                pivot=bool(shape.get("pivot")),
            )
        case {"sequence": nodes}:
            return SequenceDefinition(tuple(_node(node) for node in nodes))
        case {"parallel": name, "branches": branches}:
            return ParallelDefinition(name, tuple(_node(branch) for branch in branches))
        case {"sleep": name}:
            return SleepDefinition(name=name, conditional=conditional)
        case {"wait": name, "signal": signal}:
            return SignalDefinition(name=name, signal=signal, conditional=conditional)
        case {"child": name, "saga": saga}:
            undoable = not shape.get("irrevocable")
            return ChildDefinition(name=name, saga=saga, conditional=conditional, undoable=undoable)
        case {"for_each": name, "of": {"step": _} as step}:
            inner = _node(step)
            assert isinstance(inner, StepDefinition)
            return ForEachDefinition(name=name, step=inner, conditional=conditional)
        case _:
            raise DefinitionError(f"a node of the shape is not known: {sorted(shape)}")

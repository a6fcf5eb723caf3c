"""What has changed between two shapes of a saga? Said in the words of its author."""

from collections.abc import Iterator, Mapping
from typing import Any

from eventsaga.core.graph import SagaDefinition
from eventsaga.core.shape import nodes_from, shape_of
from eventsaga.errors import DefinitionError


def changes(old: Mapping[str, Any] | None, new: SagaDefinition) -> str:
    """Return what distinguishes *new* from the shape *old*.

    Args:
        old: A recorded shape; None if it was never recorded.
        new: What is registered now.
    """
    if old is None:
        return "its old shape is not known"
    try:
        before = SagaDefinition(name=new.name, version=new.version, nodes=nodes_from(old))
    except DefinitionError:
        return "its old shape cannot be read"
    return ", ".join(_changes(before, new)) or "its nodes are nested in another way"


def _changes(before: SagaDefinition, after: SagaDefinition) -> Iterator[str]:
    for name in before.order:
        if name not in after.steps:
            yield f"{name!r} is gone"
    for name in after.order:
        if name not in before.steps:
            yield f"{name!r} is new"
    common = [name for name in before.order if name in after.steps]
    if common != [name for name in after.order if name in before.steps]:
        yield "the order is another"
    for name in common:
        if _shape(before, name) != _shape(after, name):
            yield f"{name!r} is of another kind, or can be undone where it could not"


def _shape(definition: SagaDefinition, name: str) -> object:
    return shape_of("", [definition.steps[name]])

"""How is a saga written? Steps with their functions, bound to a definition that is data."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from pydantic import BaseModel
from pydantic.errors import PydanticUserError

from eventsaga.core.definition import Hook, require_identifier
from eventsaga.core.graph import SagaDefinition
from eventsaga.errors import DefinitionError
from eventsaga.saga.build import Bound, BoundStep, Builder, is_model
from eventsaga.saga.functions import BoundFunction, bound_function, bound_question
from eventsaga.saga.limit import Limit
from eventsaga.saga.nodes import (
    Branch,
    ChildSaga,
    Duration,
    ForEach,
    Parallel,
    Rate,
    Retry,
    SagaNode,
    Sleep,
    Step,
    StepFunction,
    WaitForSignal,
    to_timedelta,
)

__all__ = [
    "Bound",
    "BoundFunction",
    "BoundStep",
    "Branch",
    "ChildSaga",
    "Duration",
    "ForEach",
    "Limit",
    "Parallel",
    "Rate",
    "Retry",
    "Saga",
    "SagaNode",
    "Sleep",
    "Step",
    "StepFunction",
    "WaitForSignal",
    "to_timedelta",
]

Context = TypeVar("Context", bound=BaseModel)


class Saga(Generic[Context]):
    """A saga: its steps, the model of its context, and the limits that hold for it.

    Args:
        name: Unique within a database.
        context: Model of the context; what a step returns is checked against it.
        steps: Nodes in order; a list stands for a sequence.
        version: Raised by the author when the shape changes.
        deadline: Limit of the whole saga from its start; then it is compensated, unless it
            has passed its pivot. None for none.
        on_completed: Hook ``(context, step)`` or ``(context)`` that is told, at least once,
            when the saga has completed.
        on_compensated: The same, when it has been compensated.
        on_parked: The same, when it waits for a person.
        max_running: Most sagas of this name that all workers of a database hold at the same
            time; None for no limit.
        priority: Sagas of a higher one are claimed first.
        stuck_after: Without progress for so long, an alert is raised; None for what the
            settings say. The sagas themselves go on.
        migrate_context: Function that turns the recorded context, as JSON data, into what
            the model takes now. It is called whenever a context is read, so it must leave
            what is new as it is.

    Attributes:
        definition: The saga as data.
        bound: The functions of each leaf.
        hooks: The hooks that there are.

    Raises:
        DefinitionError: If it is written in a way that cannot work; names the node.
    """

    def __init__(
        self,
        name: str,
        *,
        context: type[Context],
        steps: Sequence[SagaNode],
        version: int = 1,
        deadline: Duration | None = None,
        on_completed: StepFunction | None = None,
        on_compensated: StepFunction | None = None,
        on_parked: StepFunction | None = None,
        max_running: int | None = None,
        priority: int = 0,
        stuck_after: Duration | None = None,
        migrate_context: Callable[[dict[str, Any]], Mapping[str, Any]] | None = None,
    ) -> None:
        require_identifier("saga", name)
        _require_storable(name, context)
        if max_running is not None and max_running < 1:
            raise DefinitionError(f"saga {name!r}: max_running must be at least 1")
        where = f"saga {name!r}"
        if migrate_context is not None:
            bound_question(where, "migrate_context", migrate_context)
        self.name = name
        self.context = context
        self.max_running = max_running
        self.priority = priority
        self.stuck_after = (
            None if stuck_after is None else to_timedelta(f"{where}: stuck_after", stuck_after)
        )
        self.migrate_context = migrate_context
        self.hooks: Mapping[Hook, BoundFunction] = {
            hook: bound_function(where, hook.value, function)
            for hook, function in (
                (Hook.ON_COMPLETED, on_completed),
                (Hook.ON_COMPENSATED, on_compensated),
                (Hook.ON_PARKED, on_parked),
            )
            if function is not None
        }
        builder = Builder(name, context)
        nodes = builder.nodes(steps)
        self.bound: Bound = builder.bound
        self.definition = SagaDefinition(
            name=name,
            version=version,
            nodes=nodes,
            deadline=None if deadline is None else to_timedelta(f"{where}: deadline", deadline),
            hooks=frozenset(self.hooks),
        )

    def __repr__(self) -> str:
        return f"Saga({self.name!r}, version={self.definition.version})"


def with_children(sagas: Sequence[Saga[Any]]) -> tuple[Saga[Any], ...]:
    """Return *sagas* and all that they start as children, each once."""
    found: dict[int, Saga[Any]] = {}
    for saga in sagas:
        for each in _family(saga):
            found.setdefault(id(each), each)
    return tuple(found.values())


def _family(saga: Saga[Any]) -> Iterator[Saga[Any]]:
    yield saga
    for node in saga.bound.children.values():
        yield from _family(node.saga)


def _require_storable(name: str, context: object) -> None:
    if not is_model(context):
        raise DefinitionError(f"saga {name!r}: context must be a pydantic model class")
    assert isinstance(context, type)
    assert issubclass(context, BaseModel)
    try:
        context.model_json_schema(mode="serialization")
    except PydanticUserError as error:
        reason = str(error).partition("\n")[0]
        raise DefinitionError(
            f"saga {name!r}: {context.__name__} cannot be written as JSON: {reason}"
        ) from error

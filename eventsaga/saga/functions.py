"""How is a user's function called? Looked at once, when the saga is built."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from eventsaga.errors import DefinitionError


@dataclass(frozen=True, slots=True)
class BoundFunction:
    """A user's function and how to call it."""

    function: Callable[..., Any]
    is_async: bool
    takes_step: bool


@dataclass(frozen=True, slots=True)
class BoundQuestion:
    """A function of the context, and of the item if it wants that too."""

    function: Callable[..., Any]
    takes_item: bool = False


def bound_function(node: str, role: str, function: object) -> BoundFunction:
    """Return *function* and how it is called.

    Raises:
        DefinitionError: If it takes neither ``(context, step)`` nor ``(context)``.
    """
    where = f"{node}: {role}"
    signature = _signature(where, function)
    assert callable(function)
    takes = _accepted(signature, most=2)
    if takes is None:
        raise DefinitionError(f"{where} must take (context, step) or (context), not {signature}")
    return BoundFunction(function, _is_async(function), takes_step=takes == 2)  # noqa: PLR2004


def bound_question(
    node: str, role: str, function: object, *, with_item: bool = False
) -> BoundQuestion:
    """Return a quick function of the context, which a decision calls directly.

    Raises:
        DefinitionError: If it is a coroutine function, or takes something else.
    """
    where = f"{node}: {role}"
    signature = _signature(where, function)
    assert callable(function)
    if _is_async(function):
        raise DefinitionError(
            f"{where} must be a plain function of the context: what it needs to ask others, a "
            "step asks and puts into the context"
        )
    takes = _accepted(signature, most=2 if with_item else 1)
    if takes is None:
        wanted = "(context, item) or (context)" if with_item else "(context)"
        raise DefinitionError(f"{where} must take {wanted}, not {signature}")
    return BoundQuestion(function, takes_item=takes == 2)  # noqa: PLR2004


def _signature(where: str, function: object) -> inspect.Signature:
    if not callable(function):
        raise DefinitionError(f"{where} must be a function, not {type(function).__name__}")
    try:
        return inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise DefinitionError(f"{where} has no signature to be read") from error


def _is_async(function: object) -> bool:
    called = getattr(function, "__call__", function)  # noqa: B004 - an object with an async __call__
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)


def _accepted(signature: inspect.Signature, *, most: int) -> int | None:
    """Return how many arguments the function is given, as many as it takes."""
    for count in range(most, 0, -1):
        try:
            signature.bind(*(None for _ in range(count)))
        except TypeError:
            continue
        return count
    return None

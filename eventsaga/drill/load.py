"""What does ``module:name`` stand for here? In the drill and in the workers that it starts."""

import importlib
import os
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from typing import Any, cast

from eventsaga.client import Orchestrator
from eventsaga.drill.errors import DrillError
from eventsaga.saga import Saga


def named(reference: str) -> Any:
    """Return what *reference* names; the current directory is searched first.

    Raises:
        DrillError: If there is no such thing.
    """
    module_name, _, name = reference.partition(":")
    if not module_name or not name:
        raise DrillError(f"{reference!r} must be module:name, for example shop.sagas:orchestrator")
    here = os.getcwd()  # noqa: PTH109 - sys.path holds strings
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
        return reduce(getattr, name.split("."), cast("Any", module))
    except Exception as error:
        raise DrillError(
            f"{reference} cannot be loaded: {type(error).__name__}: {error}"
        ) from error


def sagas_of(reference: str) -> Sequence[Saga[Any]]:
    """Return the sagas that *reference* stands for: of an orchestrator, a list, or a function.

    Raises:
        DrillError: If it is something else.
    """
    found = named(reference)
    if callable(found) and not isinstance(found, type):
        found = found()
    if isinstance(found, Orchestrator):
        return found.sagas
    listed: list[Any] = list(cast("Any", found)) if isinstance(found, list | tuple) else [found]
    if not listed or not all(isinstance(item, Saga) for item in listed):
        raise DrillError(f"{reference} is not an Orchestrator, a Saga or a list of them")
    return listed


@contextmanager
def environment(variables: Mapping[str, str]) -> Generator[None]:
    """Let this process have *variables* for a while; modules read them when they are imported."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value

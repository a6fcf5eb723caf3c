"""How is a saga written? Steps with their functions, bound to a definition that is data."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, Generic, TypeVar

from pydantic import BaseModel

from eventsaga.core.definition import (
    Node,
    ParallelDefinition,
    RetryPolicy,
    SagaDefinition,
    SequenceDefinition,
    StepDefinition,
    require_identifier,
)
from eventsaga.errors import DefinitionError

Duration = float | timedelta
"""Seconds, or a timedelta."""

StepFunction = Callable[..., Any]
"""``(context, step)`` or ``(context)``; ``async def``, or ``def``, which runs in a thread.

Returns a mapping (a patch of the context), a context model, or None.
"""

Context = TypeVar("Context", bound=BaseModel)

_FOR_EVER: Final = 1_000_000


def to_timedelta(name: str, duration: Duration) -> timedelta:
    """Return *duration* as a timedelta.

    Raises:
        DefinitionError: If it is negative or not a number.
    """
    try:
        delta = duration if isinstance(duration, timedelta) else timedelta(seconds=duration)
    except (TypeError, ValueError, OverflowError) as error:
        raise DefinitionError(f"{name} must be seconds or a timedelta, not {duration!r}") from error
    if delta < timedelta(0):
        raise DefinitionError(f"{name} must not be negative, not {duration!r}")
    return delta


@dataclass(frozen=True, kw_only=True)
class Retry:
    """When, and how often, a failed attempt is followed by another.

    The wait before attempt n+1 is random between 0 and ``delay * multiplier ** (n - 1)``,
    at most ``max_delay`` (exponential backoff with full jitter).

    Attributes:
        max_attempts: Total attempts, the first one included; None for no limit.
        delay: Bound of the first wait.
        multiplier: Each further bound is this many times the one before.
        max_delay: Upper bound of any wait.
        retry_on: Only these exceptions are retried; empty for all. What is in doubt is
            always retried, because only that resolves it.
        never_on: These exceptions are not retried, whatever *retry_on* says.
    """

    max_attempts: int | None = 3
    delay: Duration = 1.0
    multiplier: float = 2.0
    max_delay: Duration = 60.0
    retry_on: tuple[type[Exception], ...] = ()
    never_on: tuple[type[Exception], ...] = ()

    def policy(self) -> RetryPolicy:
        """Return the part of this that is data.

        Raises:
            DefinitionError: If a value is out of its range.
        """
        return RetryPolicy(
            max_attempts=_FOR_EVER if self.max_attempts is None else self.max_attempts,
            delay=to_timedelta("delay", self.delay),
            multiplier=self.multiplier,
            max_delay=to_timedelta("max_delay", self.max_delay),
        )

    def allows(self, error: BaseException) -> bool:
        """Whether *error* is one that another attempt may cure."""
        if isinstance(error, self.never_on):
            return False
        return not self.retry_on or isinstance(error, self.retry_on)


@dataclass(frozen=True)
class Step:
    """One effect and, where it can be undone, its compensation.

    Attributes:
        name: Unique within the saga; letters, digits, ``_``, ``.`` and ``-``.
        execute: The effect. It may run more than once, always with the same idempotency
            key.
        compensate: Undoes the effect. It also runs when nobody knows whether the effect
            happened (``step.outcome == "unknown"``), and must then be harmless.
        retry: Policy of the effect.
        compensate_retry: Policy of the compensation; when it gives up, the saga is
            parked.
        timeout: Limit of one attempt. A longer one is in doubt, not failed.
    """

    name: str
    execute: StepFunction
    compensate: StepFunction | None = field(default=None, kw_only=True)
    retry: Retry = field(default=Retry(), kw_only=True)
    compensate_retry: Retry = field(default=Retry(max_attempts=10), kw_only=True)
    timeout: Duration = field(default=30.0, kw_only=True)


@dataclass(frozen=True)
class Parallel:
    """Branches that run at the same time. A branch is a step, a group, or a list of them.

    All branches settle before anything is compensated. Their results are merged; two
    branches that return different values for one field turn the saga back.
    """

    name: str
    branches: Sequence["Branch"]


SagaNode = Step | Parallel
Branch = SagaNode | Sequence[SagaNode]


@dataclass(frozen=True, slots=True)
class BoundFunction:
    """A user's function and how to call it."""

    function: StepFunction
    is_async: bool
    takes_step: bool


@dataclass(frozen=True, slots=True)
class BoundStep:
    """What the definition cannot hold: the functions, and which errors are retried."""

    execute: BoundFunction
    compensate: BoundFunction | None
    retry: Retry
    compensate_retry: Retry


class Saga(Generic[Context]):
    """A saga: its steps, the model of its context, and the limits that hold for it.

    Attributes:
        name: Unique within a database.
        context: Model of the context; what a step returns is checked against it.
        definition: The saga as data.
        bound: The functions of each step.

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
    ) -> None:
        require_identifier("saga", name)
        if not _is_model(context):
            raise DefinitionError(f"saga {name!r}: context must be a pydantic model class")
        self.name = name
        self.context = context
        self.bound: Mapping[str, BoundStep] = {
            step.name: _bind(step) for node in steps for step in _steps_in(node)
        }
        self.definition = SagaDefinition(
            name=name,
            version=version,
            nodes=tuple(_node(node) for node in steps),
            deadline=None if deadline is None else to_timedelta("deadline", deadline),
        )

    def __repr__(self) -> str:
        return f"Saga({self.name!r}, version={self.definition.version})"


def _is_model(candidate: object) -> bool:
    return inspect.isclass(candidate) and issubclass(candidate, BaseModel)


def _steps_in(branch: Branch) -> Iterable[Step]:
    match branch:
        case Step():
            yield branch
        case Parallel():
            for inner in branch.branches:
                yield from _steps_in(inner)
        case _:
            for node in _nodes(branch):
                yield from _steps_in(node)


def _nodes(branch: object) -> Sequence[SagaNode]:
    """Return *branch*, which is a list of nodes if it was written by the rules."""
    if isinstance(branch, list | tuple):
        return tuple(branch)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    kind = type(branch).__name__
    raise DefinitionError(f"a saga is made of Step, Parallel and lists of them, not of {kind}")


def _node(branch: Branch) -> Node:
    match branch:
        case Step():
            return _step(branch)
        case Parallel():
            branches = tuple(_node(inner) for inner in branch.branches)
            return ParallelDefinition(branch.name, branches)
        case _:
            return SequenceDefinition(tuple(_node(node) for node in _nodes(branch)))


def _step(step: Step) -> StepDefinition:
    try:
        timeout = to_timedelta("timeout", step.timeout)
        return StepDefinition(
            name=step.name,
            compensable=step.compensate is not None,
            retry=step.retry.policy(),
            compensate_retry=step.compensate_retry.policy(),
            timeout=timeout,
        )
    except DefinitionError as error:
        raise DefinitionError(f"step {step.name!r}: {error}") from error


def _bind(step: Step) -> BoundStep:
    return BoundStep(
        execute=_bound(step.name, "execute", step.execute),
        compensate=None
        if step.compensate is None
        else _bound(step.name, "compensate", step.compensate),
        retry=step.retry,
        compensate_retry=step.compensate_retry,
    )


def _bound(step: str, role: str, function: StepFunction) -> BoundFunction:
    where = f"step {step!r}: {role}"
    if not callable(function):
        raise DefinitionError(f"{where} must be a function, not {type(function).__name__}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise DefinitionError(f"{where} has no signature to be read") from error
    called = getattr(function, "__call__", function)  # noqa: B004 - an object with an async __call__
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)
    for takes_step, arguments in ((True, (None, None)), (False, (None,))):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return BoundFunction(function, is_async, takes_step)
    raise DefinitionError(f"{where} must take (context, step) or (context), not {signature}")

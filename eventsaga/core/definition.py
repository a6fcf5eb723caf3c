"""What may happen in a saga? A definition is data: compared, hashed and drawn, never run.

Nodes nest. What a saga does stands in its leaves (a step, a sleep, a wait for a signal, a
child saga, a step for each of many items); sequences and parallel groups put them in order.
For deciding, the tree is compiled once into a dependency graph: see `eventsaga.core.graph`.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final

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


class OnDoubt(StrEnum):
    """What follows when nobody knows whether an attempt had its effect."""

    RETRY = "retry"
    VERIFY = "verify"
    COMPENSATE = "compensate"
    PARK = "park"


class OnTimeout(StrEnum):
    """What follows when a signal does not come in time."""

    CONTINUE = "continue"
    COMPENSATE = "compensate"
    PARK = "park"


class Hook(StrEnum):
    """What a user wants to be told of, after the fact."""

    ON_COMPLETED = "on_completed"
    ON_COMPENSATED = "on_compensated"
    ON_PARKED = "on_parked"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDefinition:
    """One effect and, if it has one, its compensation.

    Attributes:
        name: Unique within the saga.
        compensable: Whether there is a compensation.
        retry: Policy of the effect.
        compensate_retry: Policy of the compensation.
        timeout: Limit of one attempt, of either kind; a longer one is in doubt. Positive.
        conditional: Whether a predicate decides that it is run.
        pivot: Whether there is no way back once it has succeeded.
        on_doubt: What follows an attempt without an answer.
        key_ttl: How long the other side remembers the idempotency key. An effect in doubt
            that is older is never sent again; None for no limit.
        transactional: Whether effect and result are one commit, so that nothing is ever
            in doubt.

    Raises:
        DefinitionError: If a value is out of its range, or two contradict each other.
    """

    name: StepName
    compensable: bool = False
    retry: RetryPolicy = RetryPolicy()
    compensate_retry: RetryPolicy = RetryPolicy()
    timeout: timedelta = timedelta(seconds=30)
    conditional: bool = False
    pivot: bool = False
    on_doubt: OnDoubt = OnDoubt.RETRY
    key_ttl: timedelta | None = None
    transactional: bool = False

    def __post_init__(self) -> None:
        if self.timeout <= timedelta(0):
            raise DefinitionError("timeout must be positive")
        if self.key_ttl is not None and self.key_ttl <= timedelta(0):
            raise DefinitionError("key_ttl must be positive")
        if self.on_doubt is OnDoubt.COMPENSATE and not self.compensable:
            raise DefinitionError("on_doubt='compensate' needs a compensation")
        if self.pivot and self.conditional:
            raise DefinitionError("a pivot cannot be conditional: is there a way back without it?")


@dataclass(frozen=True, slots=True, kw_only=True)
class SleepDefinition:
    """A time to wait.

    Attributes:
        name: Unique within the saga.
        duration: How long; None if that is computed from the context.
        conditional: Whether a predicate decides that it is waited at all.
    """

    name: StepName
    duration: timedelta | None = None
    conditional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalDefinition:
    """A wait for somebody outside.

    Attributes:
        name: Unique within the saga.
        signal: Name of the signal.
        timeout: Longest wait; None for ever.
        on_timeout: What follows when it is over.
        default: The payload to go on with, if that is what follows.
        into: Context field that takes the whole payload; None for none.
        fields: Without *into*: the members of the payload that are fields of the context.
        conditional: Whether a predicate decides that it is waited for.
    """

    name: StepName
    signal: str
    timeout: timedelta | None = None
    on_timeout: OnTimeout = OnTimeout.COMPENSATE
    default: Mapping[str, Any] | None = None
    into: str | None = None
    fields: tuple[str, ...] = ()
    conditional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildDefinition:
    """A saga of its own as a step; its undo is the step's compensation.

    Attributes:
        name: Unique within the saga.
        saga: Name of the child's definition.
        into: Context field that takes the child's final context; None for none.
        conditional: Whether a predicate decides that it is started.
        undoable: False if the child has a pivot: then there is no way back from it.
    """

    name: StepName
    saga: str
    into: str | None = None
    conditional: bool = False
    undoable: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ForEachDefinition:
    """The same step for each of many items, which are computed when it is reached.

    Attributes:
        name: Unique within the saga; its steps are ``name[0]``, ``name[1]`` and so on.
        step: What is done for one item; its own name is not used.
        max_concurrency: Items under way at the same time. At least 1.
        into: Context field that takes the list of results; None to merge each result.
        conditional: Whether a predicate decides that it is run at all.
    """

    name: StepName
    step: StepDefinition
    max_concurrency: int = 10
    into: str | None = None
    conditional: bool = False

    def __post_init__(self) -> None:
        if self.max_concurrency < 1:
            raise DefinitionError(f"max_concurrency must be at least 1, not {self.max_concurrency}")
        if self.step.pivot:
            raise DefinitionError("a pivot cannot be done for each item: a later one may fail")


Leaf = StepDefinition | SleepDefinition | SignalDefinition | ChildDefinition | ForEachDefinition


@dataclass(frozen=True, slots=True)
class SequenceDefinition:
    """Nodes that run one after the other."""

    nodes: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class ParallelDefinition:
    """Branches that run at the same time; the group ends when all have settled.

    Attributes:
        max_concurrency: Branches under way at the same time; None for all.
    """

    name: str
    branches: tuple["Node", ...]
    max_concurrency: int | None = None

    def __post_init__(self) -> None:
        if self.max_concurrency is not None and self.max_concurrency < 1:
            raise DefinitionError(
                f"parallel group {self.name!r}: max_concurrency must be at least 1, "
                f"not {self.max_concurrency}"
            )


Node = Leaf | SequenceDefinition | ParallelDefinition


def item_name(group: StepName, index: int) -> StepName:
    """Return the name of the step for item *index* of a `ForEachDefinition`."""
    return f"{group}[{index}]"


def group_of(name: StepName) -> StepName | None:
    """Return the group that *name* is an item of; None if it stands in the definition."""
    return name[: name.rindex("[")] if name[-1] == "]" else None


def item_index(name: StepName) -> int:
    """Return which item of its group *name* is for."""
    return int(name[name.rindex("[") + 1 : -1])


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

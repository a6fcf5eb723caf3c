"""What is a saga made of? Steps, waits, children and groups, as their author writes them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import BaseModel

from eventsaga.core.definition import RetryPolicy
from eventsaga.errors import DefinitionError

if TYPE_CHECKING:
    from eventsaga.saga import Saga

Duration = float | timedelta
"""Seconds, or a timedelta."""

StepFunction = Callable[..., Any]
"""``(context, step)`` or ``(context)``; ``async def``, or ``def``, which runs in a thread.

Returns a mapping (a patch of the context), a context model, or None.
"""

Predicate = Callable[..., bool]
"""``(context)``; for a step of a `ForEach` also ``(context, item)``. Quick and pure."""

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
class Rate:
    """So many attempts in so much time, over all workers of a database.

    Attributes:
        attempts: At least 1.
        per: In this time, on average; seconds or a timedelta.
        burst: So many may begin at once after a pause. At least 1.
    """

    attempts: float
    per: Duration = 1.0
    burst: int = 1

    def interval(self) -> timedelta:
        """Return the time between two attempts.

        Raises:
            DefinitionError: If a value is out of its range.
        """
        per = to_timedelta("per", self.per)
        if not self.attempts > 0 or self.burst < 1 or not per:
            raise DefinitionError(f"rate {self.attempts} per {self.per} s cannot be kept")
        return per / self.attempts


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
        when: Predicate of the context, asked once; False skips the step.
        pivot: There is no way back once this step has succeeded: what follows is tried
            until it succeeds, or parks the saga.
        on_doubt: What follows a crash or a timeout, when nobody knows whether the effect
            happened: ``retry`` with the same key, ``verify`` by asking the other side,
            ``compensate``, or ``park`` for a person.
        verify: For ``on_doubt="verify"``: asks the other side. It returns the result of
            the step (a mapping or a context model) or True if the effect happened, False
            if it did not, None if that is still unknown.
        key_ttl: How long the other side remembers the idempotency key. A step that is in
            doubt for longer is parked, never sent again; None for no limit.
        transactional: Give the function ``step.session`` and ``step.connection`` of a
            transaction that commits its rows and its result together: exactly once.
        rate: Most attempts in a time, over all workers; None for no limit.
        concurrency: Most attempts at the same time, over all workers; None for no limit.
        quota: Name of the limit; steps that name the same one share it. None for a limit
            of this step's own.
    """

    name: str
    execute: StepFunction
    compensate: StepFunction | None = field(default=None, kw_only=True)
    retry: Retry = field(default=Retry(), kw_only=True)
    compensate_retry: Retry = field(default=Retry(max_attempts=10), kw_only=True)
    timeout: Duration = field(default=30.0, kw_only=True)
    when: Predicate | None = field(default=None, kw_only=True)
    pivot: bool = field(default=False, kw_only=True)
    on_doubt: Literal["retry", "verify", "compensate", "park"] = field(
        default="retry", kw_only=True
    )
    verify: StepFunction | None = field(default=None, kw_only=True)
    key_ttl: Duration | None = field(default=None, kw_only=True)
    transactional: bool = field(default=False, kw_only=True)
    rate: Rate | None = field(default=None, kw_only=True)
    concurrency: int | None = field(default=None, kw_only=True)
    quota: str | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Parallel:
    """Branches that run at the same time. A branch is a node, or a list of them.

    All branches settle before anything is compensated. Their results are merged; two
    branches that return different values for one field turn the saga back.

    Attributes:
        max_concurrency: Branches under way at the same time; None for all.
    """

    name: str
    branches: Sequence["Branch"]
    max_concurrency: int | None = None


@dataclass(frozen=True)
class ForEach:
    """The same step for each of many items.

    Attributes:
        name: Unique within the saga; the steps are ``name[0]``, ``name[1]`` and so on.
        items: Function of the context that returns the items: JSON data or models. Asked
            once, and recorded.
        step: What is done for one; ``step.item`` and ``step.index`` say for which. All
            steps share one context object, which must not be changed in place.
        max_concurrency: Items under way at the same time.
        into: Context field that takes the list of results, in the order of the items.
            None merges each result like that of any step.
        when: Predicate of the context, asked once; False skips all items.
    """

    name: str
    items: Callable[[Any], Iterable[Any]]
    step: Step
    max_concurrency: int = 10
    into: str | None = field(default=None, kw_only=True)
    when: Predicate | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Sleep:
    """A time to wait; durable, and never over early by the database's clock.

    Attributes:
        name: Unique within the saga.
        duration: Seconds or a timedelta; or a function of the context that returns one, or
            the aware instant at which it is over.
        when: Predicate of the context, asked once; False skips it.
    """

    name: str
    duration: Duration | Callable[[Any], Duration | datetime]
    when: Predicate | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class WaitForSignal:
    """A wait for somebody outside, see `Orchestrator.signal`; durable.

    A signal that comes before the wait is kept, and the same id is taken once.

    Attributes:
        name: Unique within the saga.
        model: Model of the payload; None for any JSON object.
        timeout: Longest wait; None for ever.
        on_timeout: What follows then: ``continue`` with *default*, ``compensate``, or
            ``park`` for a person.
        default: The payload to continue with: a mapping or a *model*.
        signal: Name of the signal; None for the node's own.
        into: Context field that takes the whole payload. None for the field that is
            called like the node, if there is one; else each member of the payload goes to
            the context field of its name, if there is one.
        when: Predicate of the context, asked once; False skips the wait.
    """

    name: str
    model: type[BaseModel] | None = None
    timeout: Duration | None = None
    on_timeout: Literal["continue", "compensate", "park"] = "compensate"
    default: BaseModel | Mapping[str, Any] | None = field(default=None, kw_only=True)
    signal: str | None = field(default=None, kw_only=True)
    into: str | None = field(default=None, kw_only=True)
    when: Predicate | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class ChildSaga:
    """A saga of its own as a step.

    It is started once, waited for durably, and undone when this saga goes back. If it does
    not complete, the step fails; a cancel of this saga reaches it. A child that does not let
    itself be undone parks this saga.

    Attributes:
        name: Unique within the saga.
        saga: The child.
        context: Function of this saga's context that returns the child's: its model, or a
            mapping that fits it.
        into: Context field that takes the child's final context. None for the field that
            is called like the node, if there is one, else none.
        when: Predicate of the context, asked once; False skips the child.
    """

    name: str
    saga: "Saga[Any]"
    context: Callable[[Any], BaseModel | Mapping[str, Any]]
    into: str | None = field(default=None, kw_only=True)
    when: Predicate | None = field(default=None, kw_only=True)


SagaNode = Step | Parallel | ForEach | Sleep | WaitForSignal | ChildSaga
Branch = SagaNode | Sequence[SagaNode]

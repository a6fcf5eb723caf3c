"""What does a definition leave out? The functions, bound here to the names of its leaves."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar, assert_never

from pydantic import BaseModel, ValidationError

from eventsaga.core.definition import (
    ChildDefinition,
    ForEachDefinition,
    Node,
    OnDoubt,
    OnTimeout,
    ParallelDefinition,
    SequenceDefinition,
    SignalDefinition,
    SleepDefinition,
    StepDefinition,
    require_identifier,
)
from eventsaga.errors import DefinitionError
from eventsaga.saga.functions import (
    BoundFunction,
    BoundQuestion,
    bound_function,
    bound_question,
)
from eventsaga.saga.limit import Limit
from eventsaga.saga.nodes import (
    Branch,
    ChildSaga,
    ForEach,
    Parallel,
    Predicate,
    Retry,
    SagaNode,
    Sleep,
    Step,
    WaitForSignal,
    to_timedelta,
)

_Choice = TypeVar("_Choice", bound=StrEnum)
_KINDS = (Step, Parallel, ForEach, Sleep, WaitForSignal, ChildSaga)


@dataclass(frozen=True, slots=True)
class BoundStep:
    """What the definition of a step cannot hold: functions, errors and limits."""

    execute: BoundFunction
    compensate: BoundFunction | None
    verify: BoundFunction | None
    retry: Retry
    compensate_retry: Retry
    limit: Limit | None


@dataclass(slots=True)
class Bound:
    """All functions of a saga, by the names of its leaves.

    Attributes:
        steps: Of a `ForEach`, under its name, the step for one item.
        conditions: Predicates.
        item_conditions: Predicates of steps for one item, by the name of the `ForEach`.
        items: What the items of a `ForEach` are.
        durations: What is computed from the context; others are in the definition.
        children: The nodes of child sagas.
        signals: Model of each signal's payload, by the signal's name.
    """

    steps: dict[str, BoundStep] = field(default_factory=dict[str, BoundStep])
    conditions: dict[str, BoundQuestion] = field(default_factory=dict[str, BoundQuestion])
    item_conditions: dict[str, BoundQuestion] = field(default_factory=dict[str, BoundQuestion])
    items: dict[str, BoundQuestion] = field(default_factory=dict[str, BoundQuestion])
    durations: dict[str, BoundQuestion] = field(default_factory=dict[str, BoundQuestion])
    children: dict[str, ChildSaga] = field(default_factory=dict[str, ChildSaga])
    signals: dict[str, type[BaseModel] | None] = field(
        default_factory=dict[str, type[BaseModel] | None]
    )


class Builder:
    """Turns what the author wrote into a definition and its functions.

    Args:
        saga: Name of the saga.
        context: Its context model.
    """

    def __init__(self, saga: str, context: type[BaseModel]) -> None:
        self._saga = saga
        self._context = context
        self.bound = Bound()

    def nodes(self, steps: object) -> tuple[Node, ...]:
        """Return the tree of *steps*.

        Raises:
            DefinitionError: If it is written in a way that cannot work; names the node.
        """
        return tuple(self._node(node) for node in _listed(steps))

    def _node(self, branch: Branch) -> Node:
        if not isinstance(branch, _KINDS):
            nodes = _listed(branch)
            if not nodes:
                raise DefinitionError(f"saga {self._saga!r} has an empty list of steps")
            return SequenceDefinition(tuple(self._node(node) for node in nodes))
        where = f"{_KIND_NAMES[type(branch)]} {branch.name!r}"
        try:
            _require_text(branch.name)
            return self._leaf(branch, where)
        except DefinitionError as error:
            text = str(error)
            raise DefinitionError(text if where in text else f"{where}: {text}") from error

    def _leaf(self, node: SagaNode, where: str) -> Node:
        match node:
            case Parallel():
                branches = tuple(self._node(inner) for inner in _listed(node.branches))
                return ParallelDefinition(node.name, branches, node.max_concurrency)
            case Step():
                return self._step(node, node.name, where)
            case ForEach():
                return self._for_each(node, where)
            case Sleep():
                return self._sleep(node, where)
            case WaitForSignal():
                return self._signal(node, where)
            case ChildSaga():
                return self._child(node, where)
            case _:
                assert_never(node)

    def _step(self, step: Step, name: str, where: str, *, for_item: bool = False) -> StepDefinition:
        on_doubt = _one_of(OnDoubt, "on_doubt", step.on_doubt)
        if (on_doubt is OnDoubt.VERIFY) != (step.verify is not None):
            raise DefinitionError(f"{where}: on_doubt='verify' and a verify function go together")
        if step.transactional and on_doubt is not OnDoubt.RETRY:
            raise DefinitionError(f"{where}: a transactional step is never in doubt")
        self.bound.steps[name] = BoundStep(
            execute=bound_function(where, "execute", step.execute),
            compensate=_optional(where, "compensate", step.compensate),
            verify=_optional(where, "verify", step.verify),
            retry=step.retry,
            compensate_retry=step.compensate_retry,
            limit=self._limit(step, name),
        )
        return StepDefinition(
            name=step.name,
            compensable=step.compensate is not None,
            retry=step.retry.policy(),
            compensate_retry=step.compensate_retry.policy(),
            timeout=to_timedelta("timeout", step.timeout),
            conditional=self._condition(name, where, step.when, for_item=for_item),
            pivot=step.pivot,
            on_doubt=on_doubt,
            key_ttl=None if step.key_ttl is None else to_timedelta("key_ttl", step.key_ttl),
            transactional=step.transactional,
        )

    def _condition(
        self, name: str, where: str, when: Predicate | None, *, for_item: bool = False
    ) -> bool:
        if when is None:
            return False
        conditions = self.bound.item_conditions if for_item else self.bound.conditions
        conditions[name] = bound_question(where, "when", when, with_item=for_item)
        return True

    def _limit(self, step: Step, name: str) -> Limit | None:
        if step.rate is None and step.concurrency is None:
            if step.quota is not None:
                raise DefinitionError("a quota needs a rate or a concurrency")
            return None
        if step.quota is not None:
            require_identifier("quota", step.quota)
        if step.concurrency is not None and step.concurrency < 1:
            raise DefinitionError(f"concurrency must be at least 1, not {step.concurrency}")
        return Limit(
            key=f"quota/{step.quota}" if step.quota else f"step/{self._saga}/{name}",
            concurrency=step.concurrency,
            interval=None if step.rate is None else step.rate.interval(),
            burst=1 if step.rate is None else step.rate.burst,
        )

    def _for_each(self, node: ForEach, where: str) -> ForEachDefinition:
        if not isinstance(node.step, Step):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DefinitionError(f"{where}: step must be a Step, not {type(node.step).__name__}")
        require_identifier("step", node.step.name)
        if node.into is not None:
            self._require_field(node.into)
        self.bound.items[node.name] = bound_question(where, "items", node.items)
        return ForEachDefinition(
            name=node.name,
            step=self._step(node.step, node.name, where, for_item=True),
            max_concurrency=node.max_concurrency,
            into=node.into,
            conditional=self._condition(node.name, where, node.when),
        )

    def _sleep(self, node: Sleep, where: str) -> SleepDefinition:
        duration = None
        if callable(node.duration):
            self.bound.durations[node.name] = bound_question(where, "duration", node.duration)
        else:
            duration = to_timedelta("duration", node.duration)
        conditional = self._condition(node.name, where, node.when)
        return SleepDefinition(name=node.name, duration=duration, conditional=conditional)

    def _signal(self, node: WaitForSignal, where: str) -> SignalDefinition:
        signal = node.name if node.signal is None else node.signal
        require_identifier("signal", signal)
        if node.model is not None and not is_model(node.model):
            raise DefinitionError(f"{where}: model must be a pydantic model class")
        if self.bound.signals.setdefault(signal, node.model) is not node.model:
            raise DefinitionError(f"{where}: signal {signal!r} has two models")
        on_timeout = _one_of(OnTimeout, "on_timeout", node.on_timeout)
        if node.default is not None and on_timeout is not OnTimeout.CONTINUE:
            raise DefinitionError(f"{where}: a default is for on_timeout='continue'")
        into = self._into(node.name, node.into)
        members = () if into or node.model is None else tuple(node.model.model_fields)
        return SignalDefinition(
            name=node.name,
            signal=signal,
            timeout=None if node.timeout is None else to_timedelta("timeout", node.timeout),
            on_timeout=on_timeout,
            default=_default(where, node) if on_timeout is OnTimeout.CONTINUE else None,
            into=into,
            fields=tuple(name for name in members if name in self._context.model_fields),
            conditional=self._condition(node.name, where, node.when),
        )

    def _child(self, node: ChildSaga, where: str) -> ChildDefinition:
        definition = getattr(node.saga, "definition", None)
        if definition is None:
            raise DefinitionError(f"{where}: saga must be a Saga, not {type(node.saga).__name__}")
        bound_question(where, "context", node.context)
        self.bound.children[node.name] = node
        return ChildDefinition(
            name=node.name,
            saga=node.saga.name,
            into=self._into(node.name, node.into),
            conditional=self._condition(node.name, where, node.when),
            undoable=definition.pivot is None,
        )

    def _into(self, name: str, into: str | None) -> str | None:
        if into is not None:
            self._require_field(into)
            return into
        return name if name in self._context.model_fields else None

    def _require_field(self, name: str) -> None:
        is_open = self._context.model_config.get("extra") == "allow"
        if name not in self._context.model_fields and not is_open:
            raise DefinitionError(f"{self._context.__name__} has no field {name!r}")


_KIND_NAMES = {
    Step: "step",
    Parallel: "parallel group",
    ForEach: "group",
    Sleep: "sleep",
    WaitForSignal: "signal",
    ChildSaga: "child saga",
}


def is_model(candidate: object) -> bool:
    """Whether *candidate* is a class of pydantic models."""
    return isinstance(candidate, type) and issubclass(candidate, BaseModel)


def _listed(branch: object) -> Sequence[SagaNode]:
    """Return *branch*, which is a list of nodes if it was written by the rules."""
    if isinstance(branch, list | tuple):
        return tuple(branch)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    kind = type(branch).__name__
    known = ", ".join(cls.__name__ for cls in _KINDS)
    raise DefinitionError(f"a saga is made of {known} and lists of them, not of {kind}")


def _require_text(name: object) -> None:
    if not isinstance(name, str):
        raise DefinitionError(f"a name must be a string, not {type(name).__name__}")


def _optional(where: str, role: str, function: Callable[..., Any] | None) -> BoundFunction | None:
    return None if function is None else bound_function(where, role, function)


def _one_of(choices: type[_Choice], name: str, value: str) -> _Choice:
    try:
        return choices(value)
    except ValueError:
        known = ", ".join(repr(choice.value) for choice in choices)
        raise DefinitionError(f"{name} must be one of {known}, not {value!r}") from None


def _default(where: str, node: WaitForSignal) -> dict[str, Any]:
    """Return the payload to go on with, as the JSON data that its model makes of it."""
    default: BaseModel | Mapping[str, Any] = {} if node.default is None else node.default
    if node.model is None:
        plain = default.model_dump(mode="json") if isinstance(default, BaseModel) else default
        try:
            return dict(json.loads(json.dumps(plain, allow_nan=False)))
        except (TypeError, ValueError) as error:
            raise DefinitionError(f"{where}: default must be a JSON object: {error}") from error
    try:
        return node.model.model_validate(default, by_alias=True, by_name=True).model_dump(
            mode="json"
        )
    except ValidationError as error:
        raise DefinitionError(
            f"{where}: on_timeout='continue' needs a default that fits {node.model.__name__}"
        ) from error

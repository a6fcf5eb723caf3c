"""What do a saga's steps reach? In a simulation, participants that keep a ledger.

They honour idempotency keys: a request that comes again changes nothing, and one that comes
after its own compensation is refused. What a step answers is scripted; a step that is not
scripted succeeds and returns nothing.
"""

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from inspect import isawaitable
from typing import Any

from pydantic import BaseModel

from eventsaga.core.definition import group_of
from eventsaga.core.draft import idempotency_key
from eventsaga.core.events import Operation
from eventsaga.core.state import State
from eventsaga.errors import InDoubtError, PermanentError
from eventsaga.runtime.context import StepContext
from eventsaga.saga import BoundFunction, Saga

Answer = Mapping[str, Any] | BaseModel | Exception | Callable[..., Any] | None
"""What an attempt ends with: its result, the error that it raises, or a function."""

Outcomes = Mapping[str, Any]
"""`Answer` by step, or ``step/compensate`` or ``step/verify``.

One answer for all attempts, or a list with one for each, of which the last stands for all
that follow.
"""


class Fault(StrEnum):
    """What goes wrong with one attempt."""

    FAILS = "fails"
    NOT_SENT = "times out before it takes effect"
    NO_ANSWER = "takes effect, and its answer is lost"
    LATE = "times out, and takes effect when all is over"


@dataclass(frozen=True, slots=True)
class Effect:
    """Something that a participant did, once for its key.

    Attributes:
        at: When, in virtual time.
        step: The step.
        operation: ``execute`` or ``compensate``.
        key: The idempotency key.
    """

    at: datetime
    step: str
    operation: str
    key: str


class World:
    """The participants of a simulation.

    Args:
        outcomes: What steps answer.
        now: The virtual clock.
        fault: Asked for each attempt, with its number, counting from 1.
        honest: Whether participants honour keys; without that, each request counts.
    """

    def __init__(
        self,
        outcomes: Outcomes,
        now: Callable[[], datetime],
        *,
        fault: Callable[[int], Fault | None] = lambda _number: None,
        honest: bool = True,
    ) -> None:
        self._outcomes = outcomes
        self._now = now
        self._fault = fault
        self._honest = honest
        self._answered: Counter[str] = Counter()
        self._late: list[Effect] = []
        self._twins: dict[int, Saga[Any]] = {}
        self.calls = 0
        self.effects: list[Effect] = []

    def scripted(self, saga: Saga[Any]) -> Saga[Any]:
        """Return *saga* with steps that reach this world instead of calling functions."""
        if id(saga) in self._twins:
            return self._twins[id(saga)]  # a child of two parents, or twice of one
        twin = self._twins[id(saga)] = copy.copy(saga)
        steps = {
            name: replace(
                step,
                execute=self._function(Operation.EXECUTE),
                compensate=step.compensate and self._function(Operation.COMPENSATE),
                verify=step.verify and self._function(Operation.VERIFY),
                limit=None,
            )
            for name, step in saga.bound.steps.items()
        }
        children = {
            name: replace(node, saga=self.scripted(node.saga))
            for name, node in saga.bound.children.items()
        }
        twin.bound = replace(saga.bound, steps=steps, children=children)
        twin.hooks = {
            hook: BoundFunction(_nothing, is_async=True, takes_step=False) for hook in saga.hooks
        }
        return twin

    def land_late(self) -> None:
        """Let what was under way all the time take effect now."""
        for effect in self._late:
            self._apply(effect)
        self._late.clear()

    def _function(self, operation: Operation) -> BoundFunction:
        async def reach(context: Any, step: StepContext) -> Any:
            return await self._reached(operation, context, step)

        return BoundFunction(reach, is_async=True, takes_step=True)

    async def _reached(self, operation: Operation, context: Any, step: StepContext) -> Any:
        self.calls += 1
        fault = self._fault(self.calls)
        effect = Effect(self._now(), step.step, operation.value, step.idempotency_key)
        if operation is Operation.VERIFY:
            if fault is not None:
                raise InDoubtError(f"{step.step}: no answer to what was asked")
            return await self._verified(context, step)
        match fault:
            case Fault.FAILS:
                raise PermanentError(f"{step.step}: refused")
            case Fault.NOT_SENT:
                raise InDoubtError(f"{step.step}: no answer")
            case Fault.LATE:
                self._late.append(effect)
                raise InDoubtError(f"{step.step}: no answer")
            case _:
                answer = await self._answer(operation, context, step)
                self._apply(effect)
                if fault is Fault.NO_ANSWER:
                    raise InDoubtError(f"{step.step}: no answer")
                return answer

    async def _verified(self, context: Any, step: StepContext) -> Any:
        scripted = await self._answer(Operation.VERIFY, context, step)
        if scripted is not None:
            return scripted
        return any(effect.key == step.idempotency_key for effect in self.effects)

    def _apply(self, effect: Effect) -> None:
        if self._honest:
            keys = {done.key for done in self.effects}
            if effect.key in keys or f"{effect.key}/compensate" in keys:
                return
        self.effects.append(effect)

    async def _answer(self, operation: Operation, context: Any, step: StepContext) -> Any:
        what = step.step if operation is Operation.EXECUTE else f"{step.step}/{operation.value}"
        answer = self._scripted(what)
        if isinstance(answer, Exception):
            raise answer
        if callable(answer):
            answer = answer(context, step)
            if isawaitable(answer):
                answer = await answer
        return answer

    def _scripted(self, what: str) -> Any:
        answers: Any = self._outcomes.get(what)
        if what not in self._outcomes:
            step, slash, operation = what.partition("/")
            answers = self._outcomes.get((group_of(step) or step) + slash + operation)
        if not isinstance(answers, list | tuple):
            return answers
        number = self._answered[what]
        self._answered[what] += 1
        return list[Any](answers)[min(number, len(answers) - 1)]  # pyright: ignore[reportUnknownArgumentType]


async def _nothing(_context: Any) -> None:
    """Stand in for a hook."""


def stands(effects: Sequence[Effect], state: State, step: str) -> bool:
    """Whether the effect of *step* happened and was not undone."""
    keys = {effect.key for effect in effects}
    executed = idempotency_key(state, step, Operation.EXECUTE)
    return executed in keys and idempotency_key(state, step, Operation.COMPENSATE) not in keys

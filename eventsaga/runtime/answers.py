"""What do the user's predicates, items and durations say? Asked while a decision is made.

They are quick and pure functions of the context. The model that they are given is built once
for each context and shared: a function that changes it in place breaks its promise.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel

from eventsaga.contexts import checked_input, to_context
from eventsaga.core.answers import AnswerError, ChildInput
from eventsaga.core.definition import StepName, group_of, item_index
from eventsaga.core.draft import later
from eventsaga.core.events import JsonObject
from eventsaga.core.state import State
from eventsaga.errors import PayloadError
from eventsaga.runtime.outcome import describe
from eventsaga.runtime.patch import require_fit
from eventsaga.saga import Saga, to_timedelta
from eventsaga.saga.functions import BoundQuestion
from eventsaga.wire.payload import check_size, load, to_json_object


class SagaAnswers:
    """The user's functions of one saga; see `eventsaga.core.answers.Answers`.

    Args:
        saga: Its functions.
    """

    __slots__ = ("_model", "_saga", "_seen")

    def __init__(self, saga: Saga[Any]) -> None:
        self._saga = saga
        self._seen: Mapping[str, Any] | None = None
        self._model: BaseModel | None = None

    def context(self, state: State) -> BaseModel:
        """Return the context of *state* as its model, shared by all who ask.

        Raises:
            PayloadError: If it does not fit the model.
        """
        if self._model is None or state.context is not self._seen:
            self._model = to_context(self._saga, state.context)
            self._seen = state.context
        return self._model

    def accept(self, text: str) -> JsonObject:
        """Return the context that JSON *text* stands for, as the model writes it."""
        try:
            check_size(text, "$")
            return checked_input(self._saga, load(text))
        except Exception as error:
            # Nobody has looked at the text before, and the model's validators are the user's.
            raise _refused(error) from error

    def holds(self, state: State, step: StepName) -> bool:
        """Return whether the predicate of *step* holds."""
        group = group_of(step)
        if group is None:
            question, item = self._saga.bound.conditions[step], None
        else:
            question, item = self._saga.bound.item_conditions[group], item_of(state, group, step)
        holds: bool = self._asked(question, state, item=item, then=bool)
        return holds

    def require_fit(self, state: State, patch: JsonObject) -> None:
        """Refuse what the context of *state* cannot take."""
        try:
            require_fit(self._saga, {**state.context, **patch})
        except PayloadError as error:
            raise _refused(error) from error

    def items(self, state: State, step: StepName) -> tuple[Any, ...]:
        """Return the items of a group as JSON data."""
        items = self._asked(self._saga.bound.items[step], state, then=list)
        try:
            plain = to_json_object({"items": items}, what=f"the items of {step}")
        except PayloadError as error:
            raise _refused(error) from error
        return tuple(plain["items"])

    def fire_at(self, state: State, step: StepName, at: datetime) -> datetime:
        """Return when a sleep that begins *at* is over."""

        def instant(answer: Any) -> datetime:
            if isinstance(answer, datetime):
                if answer.tzinfo is None:
                    raise ValueError(f"sleep {step!r}: the instant must have a timezone")
                return answer
            return later(at, max(to_timedelta("duration", answer), timedelta(0)))

        fire_at: datetime = self._asked(self._saga.bound.durations[step], state, then=instant)
        return fire_at

    def child(self, state: State, step: StepName) -> ChildInput:
        """Return what a child is started with."""
        node = self._saga.bound.children[step]
        definition = node.saga.definition

        def checked(answer: Any) -> ChildInput:
            context = checked_input(node.saga, answer)
            return ChildInput(definition.name, definition.version, context)

        child: ChildInput = self._asked(BoundQuestion(node.context), state, then=checked)
        return child

    def _asked(
        self,
        question: BoundQuestion,
        state: State,
        *,
        item: Any = None,
        then: Callable[[Any], Any] = lambda answer: answer,
    ) -> Any:
        try:
            arguments = (
                (self.context(state), item) if question.takes_item else (self.context(state),)
            )
            return then(question.function(*arguments))
        except Exception as error:
            # Whatever a user's function raises is the outcome of the step that it is for.
            raise _refused(error) from error


def item_of(state: State, group: StepName, step: StepName) -> Any:
    """Return the item that *step* of *group* is for, as JSON data."""
    return state.items[group].values[item_index(step)]


def _refused(error: Exception) -> AnswerError:
    return AnswerError(type(error).__name__, describe(error))

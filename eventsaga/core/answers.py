"""What must the user's own code answer before a decision? Asked once; the answer is recorded.

Predicates, items, durations and the input of a child are functions of the context. They are
quick and pure, so a decision calls them directly: what they say is in the same append as
what follows from it. Whoever decides brings the answers; the core knows no user's code.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn, Protocol

from eventsaga.core.definition import StepName
from eventsaga.core.events import JsonObject
from eventsaga.core.state import State


class AnswerError(Exception):
    """The user's function raised, or what it returned cannot be used.

    Attributes:
        error_type: Name of the exception class.
        message: What it reported.
    """

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(error_type, message)
        self.error_type = error_type
        self.message = message


@dataclass(frozen=True, slots=True)
class ChildInput:
    """What a child is started with: a version of its definition, and a validated context."""

    saga_name: str
    version: int
    context: JsonObject


class Answers(Protocol):
    """The user's functions of a saga, applied to the context of a state.

    Every method raises `AnswerError` if there is no answer.
    """

    def accept(self, text: str, /) -> JsonObject:
        """Return the context that JSON *text* stands for, as the model writes it."""
        ...

    def holds(self, state: State, step: StepName, /) -> bool:
        """Return whether the predicate of *step* holds."""
        ...

    def items(self, state: State, step: StepName, /) -> tuple[Any, ...]:
        """Return the items of a group as JSON data."""
        ...

    def fire_at(self, state: State, step: StepName, at: datetime, /) -> datetime:
        """Return when a sleep that begins now, *at*, is over."""
        ...

    def child(self, state: State, step: StepName, /) -> ChildInput:
        """Return what a child is started with."""
        ...

    def require_fit(self, state: State, patch: JsonObject, /) -> None:
        """Refuse *patch* if the context of *state* cannot take it."""
        ...


class NoAnswers:
    """For definitions that ask nothing."""

    def accept(self, _text: str) -> JsonObject:
        """Refuse."""
        _refuse("the input")

    def holds(self, _state: State, step: StepName) -> bool:
        """Refuse."""
        _refuse(step)

    def items(self, _state: State, step: StepName) -> tuple[Any, ...]:
        """Refuse."""
        _refuse(step)

    def fire_at(self, _state: State, step: StepName, _at: datetime) -> datetime:
        """Refuse."""
        _refuse(step)

    def child(self, _state: State, step: StepName) -> ChildInput:
        """Refuse."""
        _refuse(step)

    def require_fit(self, _state: State, _patch: JsonObject) -> None:
        """Take anything: there is no model."""


def _refuse(step: StepName) -> NoReturn:
    raise AnswerError("LookupError", f"nobody is here to answer for {step!r}")

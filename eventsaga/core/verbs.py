"""What may a person ask of a saga? The answer depends on where it stands, and on nothing else."""

from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple, assert_never

from eventsaga.core.definition import (
    ChildDefinition,
    ForEachDefinition,
    StepDefinition,
    StepName,
)
from eventsaga.core.events import Resolution
from eventsaga.core.graph import SagaDefinition
from eventsaga.core.ready import pivot_is_open
from eventsaga.core.state import Phase, State, Status
from eventsaga.errors import IllegalCommandError


class Verb(StrEnum):
    """A request of a person."""

    CANCEL = "cancel"
    RETRY = "retry"
    SKIP = "skip"
    RESOLVE = "resolve"
    ABANDON = "abandon"
    UNDO = "undo"


class Legal(NamedTuple):
    """A request that the saga would take now.

    Attributes:
        verb: What is asked.
        step: Of which step; None if of the saga.
        resolution: What a person may have found out about the step.
    """

    verb: Verb
    step: StepName | None = None
    resolution: Resolution | None = None

    def __str__(self) -> str:
        return " ".join(part for part in self if part is not None)


def legal_verbs(definition: SagaDefinition, state: State) -> tuple[Legal, ...]:
    """Return what the saga would take now, in the order in which a person would try it."""
    return tuple(_legal(definition, state))


def retriable(definition: SagaDefinition, state: State) -> tuple[StepName, ...]:
    """Return the steps that gave up and may be tried again."""
    if state.turn is not None and not state.is_backward:
        return ()
    return tuple(
        name
        for name in state.stuck_steps
        # A child that has ended, or items that were done, are not begun a second time.
        if not state.steps[name].doubted
        or not isinstance(definition.steps.get(name), ChildDefinition | ForEachDefinition)
    )


def require(
    definition: SagaDefinition,
    state: State,
    verb: Verb,
    step: StepName | None = None,
    resolution: Resolution | None = None,
) -> None:
    """Refuse a request that the saga's state does not allow.

    Raises:
        IllegalCommandError: With the reason, and with the requests that are legal.
    """
    legal = legal_verbs(definition, state)
    if Legal(verb, step, resolution) not in legal:
        asked = str(Legal(verb, step, resolution))
        reason = _reason(definition, state, verb, step)
        raise IllegalCommandError(asked, reason, tuple(map(str, legal)))


def _legal(definition: SagaDefinition, state: State) -> Iterator[Legal]:
    match state.status:
        case Status.PENDING | Status.RUNNING | Status.COMPENSATING:
            # A saga that goes back already takes another cancel, which changes nothing.
            if state.turn is not None or _may_turn(definition, state):
                yield Legal(Verb.CANCEL)
        case Status.PARKED:
            yield from _legal_parked(definition, state)
        case Status.COMPLETED:
            if not state.committed:
                yield Legal(Verb.UNDO)
        case Status.COMPENSATED | Status.FAILED:
            return
        case _:
            assert_never(state.status)


def _may_turn(definition: SagaDefinition, state: State) -> bool:
    return not state.committed and not pivot_is_open(definition, state)


def _legal_parked(definition: SagaDefinition, state: State) -> Iterator[Legal]:
    to_retry = retriable(definition, state)
    if to_retry or not state.stuck_steps:
        yield Legal(Verb.RETRY)
    for name in state.stuck_steps:
        if name in to_retry:
            yield Legal(Verb.RETRY, name)
        yield from _legal_for(definition, state, name)
    if state.turn is None and _may_turn(definition, state):
        yield Legal(Verb.CANCEL)
    yield Legal(Verb.ABANDON)


def _legal_for(definition: SagaDefinition, state: State, name: StepName) -> Iterator[Legal]:
    if state.steps[name].phase is Phase.COMPENSATION_FAILED:
        yield Legal(Verb.RESOLVE, name, Resolution.COMPENSATED)
    else:
        yield Legal(Verb.RESOLVE, name, Resolution.SUCCEEDED)
        if not state.committed:
            yield Legal(Verb.RESOLVE, name, Resolution.FAILED)
    leaf = definition.steps.get(name)
    if not (isinstance(leaf, StepDefinition) and leaf.pivot):
        yield Legal(Verb.SKIP, name)


def _reason(definition: SagaDefinition, state: State, verb: Verb, step: StepName | None) -> str:
    if state.committed and verb in {Verb.CANCEL, Verb.UNDO}:
        return f"it has passed its pivot {definition.pivot!r}, there is no way back"
    if verb is Verb.CANCEL and pivot_is_open(definition, state):
        return (
            f"its pivot {definition.pivot!r} is under way or in doubt, and only its outcome tells "
            "whether there is a way back"
        )
    if step is not None and step not in state.steps:
        return f"step {step!r} was never started"
    if step is not None and state.status is Status.PARKED:
        return f"step {step!r} is {state.steps[step].phase}"
    return f"the saga is {state.status}"

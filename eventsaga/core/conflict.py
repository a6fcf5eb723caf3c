"""Do two branches contradict each other? Never the last writer wins: it is a named error."""

import json
from collections.abc import Iterator
from datetime import datetime

from eventsaga.core.answers import AnswerError
from eventsaga.core.definition import ChildDefinition, ForEachDefinition, StepName, group_of
from eventsaga.core.draft import Draft
from eventsaga.core.events import JsonObject, Next, StepFailed, StepSucceeded
from eventsaga.core.graph import SagaDefinition
from eventsaga.core.state import Phase, State


def success_of(
    draft: Draft,
    at: datetime,
    step: StepName,
    attempt: int,
    result: JsonObject | None,
    *,
    pivot: bool = False,
) -> StepSucceeded | StepFailed:
    """Return what is recorded of a *step* that returned *result*.

    A result that contradicts another branch, or does not fit what has become of the context
    since the step began, turns the saga back; where there is no way back, a person has to
    say what is true.
    """
    conflict = conflict_of(draft.definition, draft.state, step, result) or _misfit(
        draft, step, result
    )
    if conflict is not None and draft.state.committed:
        return StepFailed(
            at=at,
            step=step,
            attempt=attempt,
            error_type="ConflictError",
            message=conflict,
            effect_happened=True,
            then=Next.PARK,
        )
    return StepSucceeded(
        at=at,
        step=step,
        attempt=attempt,
        result=result,
        conflict=conflict,
        pivot=True if pivot else None,
    )


def _misfit(draft: Draft, step: StepName, result: JsonObject | None) -> str | None:
    """Return why the context cannot take *result*, or None.

    What a function returned was held against the context that it was given, so only what
    came by another way, or beside others, is looked at again.
    """
    leaf = draft.definition.steps.get(step)
    is_collected = isinstance(leaf, ForEachDefinition | ChildDefinition)
    if not result or leaf is None or not (is_collected or draft.definition.concurrent[step]):
        return None
    try:
        draft.answers.require_fit(draft.state, result)
    except AnswerError as error:
        return f"the result of {step!r} cannot be recorded: {error.message}"
    return None


def conflict_of(
    definition: SagaDefinition, state: State, step: StepName, result: JsonObject | None
) -> str | None:
    """Return what *result* of *step* contradicts in another branch or item, or None."""
    if not result:
        return None
    group = group_of(step)
    if group is not None and state.items[group].into is not None:
        return None  # collected, not merged
    for other, theirs in _beside(definition, state, step, group, result):
        shared = [name for name in result if name in theirs]
        fields = [name for name in shared if not is_same(theirs[name], result[name])]
        if fields:
            return f"{step!r} and {other!r} returned different values for {', '.join(fields)}"
    return None


def _beside(
    definition: SagaDefinition,
    state: State,
    step: StepName,
    group: StepName | None,
    result: JsonObject,
) -> Iterator[tuple[StepName, JsonObject]]:
    """Yield what was merged from steps that run, or ran, at the same time as *step*."""
    if group is not None:
        yield from _patches(state, group, result)
    for other in definition.concurrent[group or step]:
        if other in state.items:
            yield from _patches(state, other, result)
        theirs = state.steps.get(other)
        if theirs is not None and theirs.phase is Phase.SUCCEEDED and theirs.result:
            yield other, theirs.result


def _patches(
    state: State, group: StepName, result: JsonObject
) -> Iterator[tuple[StepName, JsonObject]]:
    # By field, so that the price does not grow with the number of items.
    patched = state.items[group].patched
    for name in result:
        if name in patched:
            other = patched[name]
            yield other, state.steps[other].result or {}


def is_same(one: object, other: object) -> bool:
    """Whether two values are the same JSON."""
    # To Python 1 and True are equal, at any depth; to JSON they are not.
    return one == other and json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)

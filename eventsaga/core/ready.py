"""What may begin? Questions about one step, asked by `advance` and by `react`."""

from collections.abc import Iterator, Mapping
from typing import Final

from eventsaga.core.definition import ForEachDefinition, Hook, StepName
from eventsaga.core.graph import SagaDefinition, is_compensable
from eventsaga.core.state import Phase, State, Status

_SATISFIED: Final = frozenset({Phase.SUCCEEDED, Phase.SKIPPED})
_HOOK_OF: Final = {
    Status.COMPLETED: Hook.ON_COMPLETED,
    Status.COMPENSATED: Hook.ON_COMPENSATED,
    Status.PARKED: Hook.ON_PARKED,
}
# What has to end by itself before the saga can go back, or wait for a person.
SETTLING: Final = (Phase.RUNNING, Phase.VERIFYING, Phase.CHILD)


def may_start(definition: SagaDefinition, state: State, name: StepName) -> bool:
    """Return whether the step was never started and all it waits for has succeeded."""
    steps = state.steps
    if name in steps:
        return False
    for before in definition.predecessors[name]:
        if before not in steps or steps[before].phase not in _SATISFIED:
            return False
    return name not in definition.gates or _is_admitted(definition, state, name)


def _is_admitted(definition: SagaDefinition, state: State, name: StepName) -> bool:
    """Return whether each limited group around the step has room for its branch."""
    for gate in definition.gates[name]:
        own = gate.branches[gate.own]
        if any(other in state.steps for other in own):
            continue  # its branch is under way
        if sum(_is_under_way(state, branch) for branch in gate.branches) >= gate.limit:
            return False
    return True


def _is_under_way(state: State, branch: tuple[StepName, ...]) -> bool:
    begun = [state.steps[name].phase for name in branch if name in state.steps]
    return bool(begun) and not (
        len(begun) == len(branch) and all(phase in _SATISFIED for phase in begun)
    )


def may_compensate(definition: SagaDefinition, state: State, name: StepName) -> bool:
    """Return whether a compensation is owed, was not begun, and nothing stands before it.

    A step is compensated after everything that depends on it. A compensation that has
    failed for good does not hold up the others: it is settled too, and parks the saga.
    """
    leaf = definition.steps[name]
    return (
        is_compensable(leaf)
        and _is_owed(definition, state, name)
        and (isinstance(leaf, ForEachDefinition) or name not in state.open_steps)
        and not any(
            _is_owed(definition, state, after)
            for after in seen_through(state, name, definition.compensates_after)
        )
    )


def seen_through(
    state: State, name: StepName, edges: Mapping[StepName, tuple[StepName, ...]]
) -> Iterator[StepName]:
    """Yield the neighbours of *name* by *edges*; behind one that was skipped, its neighbours.

    What was skipped, and a group that left nothing to undo, hold up nobody: whatever stands
    behind them has to.
    """
    todo, seen = [name], {name}
    while todo:
        for other in edges[todo.pop()]:
            if other in seen:
                continue
            seen.add(other)
            yield other
            if _is_transparent(state, other):
                todo.append(other)


def _is_transparent(state: State, name: StepName) -> bool:
    step = state.steps.get(name)
    if step is None:
        return False  # never begun, so nothing behind it was either
    return step.phase is Phase.SKIPPED or (name in state.items and not state.items[name].to_undo)


def _is_owed(definition: SagaDefinition, state: State, name: StepName) -> bool:
    if isinstance(definition.steps[name], ForEachDefinition):
        return name in state.items and bool(state.items[name].to_undo)
    step = state.steps.get(name)
    return step is not None and step.is_owed


def items_to_undo(definition: SagaDefinition, state: State, group: StepName) -> list[StepName]:
    """Return the items of *group* whose compensation may begin now."""
    leaf, items = definition.steps[group], state.items[group]
    assert isinstance(leaf, ForEachDefinition), "only groups have items"
    room = leaf.max_concurrency - items.under_way
    chosen: list[StepName] = []
    for name in items.to_undo:
        if len(chosen) >= room:
            break
        if name not in state.open_steps:
            chosen.append(name)
    return chosen


def pivot_is_open(definition: SagaDefinition, state: State) -> bool:
    """Whether the pivot may have succeeded, and nobody knows: then there is no turning."""
    step = state.steps.get(definition.pivot) if definition.pivot else None
    return step is not None and (
        step.doubted or step.phase in {Phase.RUNNING, Phase.VERIFYING, Phase.STUCK}
    )


def owed_hook(definition: SagaDefinition, state: State) -> Hook | None:
    """Return the hook that is to be told how the saga ended; None if none is."""
    if state.input is not None:
        return None  # a hook takes the context, and there is none
    hook = _HOOK_OF.get(state.status)
    return hook if hook in definition.hooks and not state.hook_is_done else None


def is_at_rest(definition: SagaDefinition, state: State) -> bool:
    """Whether nothing is left to do for the engine, hooks included."""
    return state.status.is_settled and owed_hook(definition, state) is None

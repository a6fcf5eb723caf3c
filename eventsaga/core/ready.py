"""What may begin? Two questions about one step, asked by `decide` and by `react`."""

from typing import Final

from eventsaga.core.definition import SagaDefinition, StepName
from eventsaga.core.state import Phase, State

_SETTLED: Final = frozenset({Phase.COMPENSATED, Phase.COMPENSATION_FAILED})


def may_start(definition: SagaDefinition, state: State, name: StepName) -> bool:
    """Return whether the step was never started and all it waits for has succeeded."""
    steps = state.steps
    if name in steps:
        return False
    for before in definition.predecessors[name]:
        if before not in steps or steps[before].phase is not Phase.SUCCEEDED:
            return False
    return True


def may_compensate(definition: SagaDefinition, state: State, name: StepName) -> bool:
    """Return whether a compensation is owed, was not begun, and nothing stands before it.

    A step is compensated after everything that depends on it. A compensation that has
    failed for good does not hold up the others: it is settled too, and parks the saga.
    """
    return (
        definition.steps[name].compensable
        and _is_owed(state, name)
        and name not in state.open_steps
        and not any(_is_owed(state, after) for after in definition.compensates_after[name])
    )


def _is_owed(state: State, name: StepName) -> bool:
    step = state.steps.get(name)
    return step is not None and step.may_have_happened and step.phase not in _SETTLED

"""What is owed to be undone? Read from events alone, apart from `eventsaga.core.evolve`."""

from collections import Counter
from collections.abc import Iterable, Iterator

from eventsaga.core.definition import ForEachDefinition, StepName
from eventsaga.core.events import (
    Operation,
    Resolution,
    SagaEvent,
    SagaRetried,
    StepCompensated,
    StepCompensationFailed,
    StepFailed,
    StepInDoubt,
    StepResolved,
    StepStarted,
    StepSucceeded,
)
from eventsaga.core.graph import SagaDefinition


class Standing:
    """How a saga's steps stand, event by event.

    Attributes:
        happened: Steps whose effect happened, or may have.
        undone: Steps that are compensated, or of which a person says so.
        left: Steps whose compensation was given up, and not put right since.
    """

    def __init__(self) -> None:
        self.happened: set[StepName] = set()
        self.undone: set[StepName] = set()
        self.left: set[StepName] = set()

    def read(self, event: SagaEvent) -> None:
        """Take the next event."""
        if isinstance(event, StepStarted):
            return  # an intent says nothing yet, and is every other event
        match event:
            case (
                StepSucceeded(step=step) | StepResolved(step=step, resolution=Resolution.SUCCEEDED)
            ):
                self.happened.add(step)
            case (
                StepFailed(step=step, effect_happened=True)
                | StepInDoubt(step=step, operation=Operation.EXECUTE)
            ):
                self.happened.add(step)
            case (
                StepFailed(step=step, effect_happened=False)
                | StepResolved(step=step, resolution=Resolution.FAILED)
            ):
                self.happened.discard(step)
            case StepCompensated(step=step) | StepResolved(step=step):
                self.undone.add(step)
                self.left.discard(step)
            case _ if (gave_up := compensation_given_up(event)) is not None:
                self.left.add(gave_up)
            case SagaRetried(steps=steps):
                self.left.difference_update(steps)
            case _:
                pass

    def owed(self, definition: SagaDefinition) -> set[StepName]:
        """Return the steps that happened and have a compensation."""
        return {name for name in self.happened if _is_undone_by_itself(definition, name)}


def compensation_given_up(event: SagaEvent) -> StepName | None:
    """Return the step whose compensation has no attempt left after *event*; None if none."""
    match event:
        case (
            StepCompensationFailed(step=step, retry_at=None)
            | StepInDoubt(step=step, operation=Operation.COMPENSATE, retry_at=None)
        ):
            return step
        case _:
            return None


def base(name: StepName) -> StepName:
    """Return the leaf of the definition that *name* is, or is an item of."""
    return name.partition("[")[0] or name


def _is_undone_by_itself(definition: SagaDefinition, name: StepName) -> bool:
    leaf = definition.steps.get(base(name))
    if leaf is None or (isinstance(leaf, ForEachDefinition) and base(name) == name):
        return False  # a group is undone item by item
    return definition.compensable(base(name))


class Backlog:
    """Which leaves still have something behind them that is to be undone first.

    Each edge of the graph is walked once, however many steps are undone.
    """

    def __init__(self, definition: SagaDefinition, owed: Iterable[StepName]) -> None:
        self._owed = set(owed)
        self._pending = Counter(map(base, self._owed))
        self._before = definition.predecessors
        self._after: dict[StepName, list[StepName]] = {name: [] for name in definition.order}
        for name, others in definition.predecessors.items():
            for other in others:
                self._after[other].append(name)
        self._behind = Counter[StepName]()
        for name in reversed(definition.order):
            if self._is_blocking(name):
                self._behind.update(self._before[name])

    def ahead_of(self, step: StepName) -> list[StepName]:
        """Return the leaves that depend on *step* and are not undone, sorted; [] if none is."""
        if not self._behind[base(step)]:
            return []
        return sorted(name for name in self._reached(base(step)) if self._pending[name])

    def settle(self, step: StepName) -> None:
        """Take note that the compensation of *step* is done, or given up."""
        if step not in self._owed:
            return
        self._owed.discard(step)
        self._pending[base(step)] -= 1
        todo = [base(step)]
        while todo:
            name = todo.pop()
            if self._is_blocking(name):
                continue
            for other in self._before[name]:
                self._behind[other] -= 1
                if not self._behind[other]:
                    todo.append(other)

    def _is_blocking(self, name: StepName) -> bool:
        return bool(self._pending[name] or self._behind[name])

    def _reached(self, step: StepName) -> Iterator[StepName]:
        seen, todo = {step}, [step]
        while todo:
            for name in self._after[todo.pop()]:
                if name not in seen:
                    seen.add(name)
                    todo.append(name)
                    yield name

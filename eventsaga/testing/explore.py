"""Is there any way to break my saga? Every combination of one and two faults is tried.

    explore(order_saga, Order(...), lambda end: end.stands("charge") == end.stands("ship"))

A fault is an attempt that fails, that gets no answer (before or after it took effect), that
takes effect when all is over, or a worker that dies before or after any append. The faults
of a run are placed on the run before it, so that each place that exists is tried once.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel

from eventsaga.saga import Saga
from eventsaga.testing.memory import Crash
from eventsaga.testing.simulate import NO_FAULTS, Plan, Script, Simulated, Simulator
from eventsaga.testing.world import Fault, Outcomes

Invariant = Callable[[Simulated], bool | None]
"""Returns False, or raises AssertionError, if the end of a run must not be."""

_MOST_FAULTS: Final = 2


class InvariantBrokenError(AssertionError):
    """There is a way in which the saga ends as it must not.

    Attributes:
        faults: What went wrong in the shortest such run.
        simulated: How it ended.
        runs: How many were tried until then.
    """

    def __init__(
        self, faults: tuple[str, ...], simulated: Simulated, runs: int, reason: str
    ) -> None:
        super().__init__(faults, simulated, runs, reason)
        self.faults = faults
        self.simulated = simulated
        self.runs = runs
        self.reason = reason

    def __str__(self) -> str:
        faults = "".join(f"\n  - {fault}" for fault in self.faults) or " none"
        reason = f": {self.reason}" if self.reason else ""
        return (
            f"the invariant is broken{reason}\nfaults:{faults}\n"
            f"ends as {self.simulated.status}:\n{self.simulated.timeline()}"
        )


@dataclass(frozen=True, slots=True)
class Explored:
    """How much was tried.

    Attributes:
        runs: Different runs.
        statuses: How often each status was their end.
    """

    runs: int
    statuses: Mapping[str, int]


def explore(
    saga: Saga[Any],
    context: BaseModel | Mapping[str, Any],
    invariant: Invariant,
    *,
    outcomes: Outcomes | None = None,
    script: Script | None = None,
    faults: int = 1,
    honest: bool = True,
) -> Explored:
    """Run *saga* with every combination of faults, and hold each end against *invariant*.

    Args:
        saga: What to run.
        context: Its input.
        invariant: What must hold at the end of every run.
        outcomes: What steps answer where no fault strikes.
        script: What somebody outside does meanwhile.
        faults: Most faults in one run: 0, 1 or 2. Two take some thousand runs.
        honest: Whether participants honour idempotency keys.

    Raises:
        InvariantBrokenError: With the shortest history that breaks it.
    """
    if not 0 <= faults <= _MOST_FAULTS:
        raise ValueError(f"faults must be 0, 1 or 2, not {faults}")
    simulator = Simulator(saga, outcomes, honest=honest)
    statuses: dict[str, int] = {}
    runs = 0
    seen = set[object]()
    plans: list[tuple[Plan, tuple[str, ...]]] = [(NO_FAULTS, ())]
    for level in range(faults + 1):
        following: list[tuple[Plan, tuple[str, ...]]] = []
        broken: list[tuple[tuple[str, ...], Simulated, str]] = []
        for plan, said in plans:
            whole = frozenset(plan.attempts.items()), frozenset(plan.appends.items())
            if whole in seen:
                continue  # a fault and a crash are found from both sides
            seen.add(whole)
            simulated = simulator.run(context, script, plan=plan)
            runs += 1
            statuses[simulated.status] = statuses.get(simulated.status, 0) + 1
            reason = _broken(invariant, simulated)
            if reason is not None:
                broken.append((said, simulated, reason))
            elif level < faults:
                following += _further(plan, said, simulated)
        if broken:
            said, simulated, reason = min(broken, key=lambda found: len(found[1].history))
            raise InvariantBrokenError(said, simulated, runs, reason)
        plans = following
    return Explored(runs, statuses)


def _broken(invariant: Invariant, simulated: Simulated) -> str | None:
    try:
        held = invariant(simulated)
    except AssertionError as error:
        return str(error) or "an assertion failed"
    return inspect.cleandoc(invariant.__doc__ or "") if held is False else None


def _further(
    plan: Plan, said: tuple[str, ...], simulated: Simulated
) -> Iterator[tuple[Plan, tuple[str, ...]]]:
    """Yield *plan* with one fault more, behind those that it has."""
    for number in range(max(plan.attempts, default=0) + 1, simulated.calls + 1):
        for fault in Fault:
            attempts = {**plan.attempts, number: fault}
            yield Plan(attempts, plan.appends), (*said, f"attempt {number} {fault.value}")
    for number in range(max(plan.appends, default=0) + 1, simulated.appends + 1):
        for crash in Crash:
            appends = {**plan.appends, number: crash}
            what = f"the worker dies {crash.value} append {number}"
            yield Plan(plan.attempts, appends), (*said, what)

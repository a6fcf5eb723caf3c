"""What does one saga's history say against the engine? Invariants 7, 10-14, 17 and 18.

Each judge reads the events and writes down what must not be. All are written apart from
`decide` and `evolve`, so that they can bear witness against both; they presuppose a history
that the grammar accepts, or its beginning up to the event that it refuses.
"""

from typing import Final

from eventsaga.core.events import (
    CompensationStarted,
    SagaCompensated,
    SagaCompleted,
    SagaEvent,
    SagaFailed,
    SagaParked,
    SagaRecovered,
    StepCompensated,
    StepCompensationStarted,
)
from eventsaga.store.examine import Violation
from eventsaga.store.invariants.backward import (
    all_or_compensated,
    no_false_ending,
    reverse_order,
    undone_once,
)
from eventsaga.store.invariants.forward import TURNS, no_forward, of_the_definition, stable_keys
from eventsaga.store.invariants.running import bounded_takeovers, bounded_trying, one_writer
from eventsaga.store.invariants.told import Judge, Told

Kinds = frozenset[type[SagaEvent]]

_UNDOES: Final[Kinds] = frozenset({CompensationStarted, StepCompensationStarted, StepCompensated})
_ENDS: Final[Kinds] = frozenset({SagaCompleted, SagaCompensated})
_TAKES_OVER: Final[Kinds] = frozenset({SagaRecovered})
_STOPS: Final[Kinds] = frozenset({SagaCompensated, SagaFailed, SagaParked})

# Most sagas just go forward and end well: who has nothing to say about them is not asked.
# Without kinds a judge is always asked. A step that begins where only a conflict forbids it
# is refused by the grammar anyway.
_JUDGES: Final[tuple[tuple[Judge, Kinds], ...]] = (
    (of_the_definition, frozenset()),
    (stable_keys, frozenset()),
    (no_forward, TURNS),
    (all_or_compensated, _ENDS),
    (reverse_order, _UNDOES),
    (undone_once, _UNDOES),
    (one_writer, frozenset()),
    (bounded_trying, frozenset()),
    (bounded_takeovers, _TAKES_OVER),
    (no_false_ending, _STOPS | _UNDOES),
)


def judge_history(told: Told) -> list[Violation]:
    """Return what is wrong with a history, by invariant."""
    return [
        violation
        for judge, about in _JUDGES
        if not about or not about.isdisjoint(told.kinds)
        for violation in judge(told)
    ]

"""Is every promise kept? The one place that knows all invariants and judges them.

`INVARIANTS` lists them. What a saga's rows say is judged by `judge`, given its definition
(order, attempts) and the participants' `Ledger`, if there is one; what only all sagas
together can tell by `judge_starts`, `judge_keys`, `judge_due` and `judge_grants`. Nothing
here reads a database: `eventsaga.client.verify` does, and tests bring what they have seen.
"""

from eventsaga.store.invariants.across import (
    Due,
    Grant,
    Keyed,
    StartKey,
    judge_due,
    judge_grants,
    judge_keys,
    judge_starts,
    start_key_of,
)
from eventsaga.store.invariants.catalogue import INVARIANTS, How, Invariant
from eventsaga.store.invariants.effects import Effect, Ledger, judge_effects
from eventsaga.store.invariants.history import judge_history
from eventsaga.store.invariants.judge import judge, known_definitions
from eventsaga.store.invariants.told import Known, Told

__all__ = [
    "INVARIANTS",
    "Due",
    "Effect",
    "Grant",
    "How",
    "Invariant",
    "Keyed",
    "Known",
    "Ledger",
    "StartKey",
    "Told",
    "judge",
    "judge_due",
    "judge_effects",
    "judge_grants",
    "judge_history",
    "judge_keys",
    "judge_starts",
    "known_definitions",
    "start_key_of",
]

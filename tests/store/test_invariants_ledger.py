"""Is it named what a participant's ledger says against a history, and only that?"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from eventsaga import (
    ChildSaga,
    ForEach,
    Parallel,
    Saga,
    Step,
)
from eventsaga.core.events import (
    Operation,
    SagaEvent,
    StepCompensated,
    StepStarted,
)
from eventsaga.core.graph import SagaDefinition
from eventsaga.store.examine import Violation
from eventsaga.store.invariants import (
    Effect,
    Ledger,
    Told,
    judge_effects,
    judge_history,
)
from eventsaga.testing import explore
from eventsaga.testing.simulate import Simulated
from tests.core.histories import (
    COMPENSATE,
    EXECUTE,
    SAGA,
    SECOND,
    T0,
    drive,
    saga,
    step,
)
from tests.store.rows import (
    CHAIN,
    COMPLETED,
    REVOKED,
    UNDONE,
    UNKNOWN,
    Events,
    at,
    judged,
    known,
)


class Shop(BaseModel):
    number: int = 0


async def _never(_shop: Shop) -> None:
    raise AssertionError("a simulation called a real function")


def undoable(name: str, **options: Any) -> Step:
    return Step(name, _never, compensate=_never, **options)


INNER = Saga("inner", context=Shop, steps=[undoable("pack"), undoable("send")])
SHAPES = {
    "a chain": Saga("chain", context=Shop, steps=[undoable("a"), undoable("b"), Step("c", _never)]),
    "a group": Saga(
        "group",
        context=Shop,
        steps=[undoable("a"), Parallel("both", [undoable("b"), undoable("c")]), Step("d", _never)],
    ),
    "for each": Saga(
        "each",
        context=Shop,
        steps=[
            undoable("a"),
            ForEach("all", lambda _shop: [1, 2], undoable("item"), max_concurrency=1),
            undoable("z"),
        ],
    ),
    "a pivot": Saga(
        "pivot", context=Shop, steps=[undoable("a"), Step("b", _never, pivot=True), undoable("c")]
    ),
    "a child": Saga(
        "parent",
        context=Shop,
        steps=[undoable("a"), ChildSaga("inner", INNER, context=lambda shop: shop), undoable("z")],
    ),
    "doubt": Saga(
        "doubt",
        context=Shop,
        steps=[
            undoable("a", on_doubt="compensate"),
            undoable("b", on_doubt="verify", verify=_never),
            undoable("c", on_doubt="park"),
        ],
    ),
}


def effects_of(end: Simulated) -> list[Effect]:
    """Return what participants did for the saga itself, not for its children."""
    saga_id = end.state.saga_id
    return [
        Effect(saga_id, done.step, Operation(done.operation), done.key, done.at)
        for done in end.effects
        if done.key.startswith(str(saga_id))
    ]


def found_in(saga: Saga[Any], end: Simulated) -> list[Violation]:
    told = Told(
        end.state.saga_id,
        [stored.event for stored in end.history],
        workers=[stored.worker_id for stored in end.history],
        recorded_at=[stored.recorded_at for stored in end.history],
        known=known(saga.definition),
    )
    ledger = Ledger(effects_of(end), covers=saga.definition.order)
    return [*judge_history(told), *judge_effects(told, ledger)]


@pytest.mark.parametrize("shape", SHAPES)
def test_no_fault_breaks_an_invariant_of_any_shape(shape: str) -> None:
    def keeps_all(end: Simulated) -> None:
        assert found_in(SHAPES[shape], end) == []

    assert explore(SHAPES[shape], Shop(), keeps_all).runs > 10


def test_two_faults_break_none_either() -> None:
    def keeps_all(end: Simulated) -> None:
        assert found_in(SHAPES["a group"], end) == []

    assert explore(SHAPES["a group"], Shop(), keeps_all, faults=2).runs > 100


def test_a_participant_that_ignores_keys_is_found() -> None:
    found: set[int] = set()

    def look(end: Simulated) -> None:
        found.update(violation.invariant for violation in found_in(SHAPES["a chain"], end))

    explore(SHAPES["a chain"], Shop(), look, faults=1, honest=False)

    assert {9} <= found <= {9, 10, 13}


# -- what is broken is named, and nothing else


def key(name: str, operation: Operation) -> str:
    return f"{SAGA}/{name}" + ("/compensate" if operation is COMPENSATE else "")


def effect(name: str, operation: Operation = EXECUTE, **given: Any) -> Effect:
    return Effect(SAGA, name, operation, given.pop("key", key(name, operation)), **given)


def moment(events: Events, kind: type[SagaEvent], about: str) -> datetime:
    """Return an instant just after an event."""
    return T0 + (at(events, kind, about) + 1) * SECOND + SECOND / 2


DID = [effect(name, at=moment(COMPLETED, StepStarted, name)) for name in "abc"]
DID_AND_UNDID = [
    *(effect(name, at=moment(UNDONE, StepStarted, name)) for name in "ab"),
    *(effect(name, COMPENSATE, at=moment(UNDONE, StepCompensated, name) - SECOND) for name in "ba"),
]
LOCAL = [replace(done, is_local=True) for done in DID]
TRANSACTIONAL = saga(*(step(name, transactional=True) for name in "abc"))
LOCALLY = drive(TRANSACTIONAL).events

LEDGERS: dict[str, tuple[SagaDefinition, Events, Sequence[Effect], set[int]]] = {
    "all was done": (CHAIN, COMPLETED, DID, set()),
    "all was done, in transactions": (TRANSACTIONAL, LOCALLY, LOCAL, set()),
    "all was undone": (CHAIN, UNDONE, DID_AND_UNDID, set()),
    "an effect without an intent": (CHAIN, COMPLETED[:3], DID[:2], {6}),
    "an intent after its effect": (
        CHAIN,
        COMPLETED,
        [replace(DID[0], at=T0), *DID[1:]],
        {6},
    ),
    "two keys for one effect": (
        CHAIN,
        COMPLETED,
        [replace(DID[0], key="other"), *DID[1:]],
        {7},
    ),
    "the key of another step": (
        CHAIN,
        COMPLETED,
        [replace(DID[1], step="a", at=DID[0].at), *DID[1:]],
        {7},
    ),
    "a row twice": (TRANSACTIONAL, LOCALLY, [replace(LOCAL[0], times=2), *LOCAL[1:]], {8}),
    "a row without a result": (TRANSACTIONAL, LOCALLY[:2], LOCAL[:1], {8}),
    "a result without a row": (TRANSACTIONAL, LOCALLY, LOCAL[:2], {8}),
    "done twice": (CHAIN, COMPLETED, [*DID, DID[0]], {9}),
    "succeeded, and never done": (CHAIN, COMPLETED, DID[:2], {9}),
    "done after it was undone": (
        CHAIN,
        UNDONE,
        [replace(DID_AND_UNDID[0], at=T0 + 99 * SECOND), *DID_AND_UNDID[1:]],
        {10},
    ),
    "undone, and completed": (
        CHAIN,
        REVOKED.events[:8],
        [*DID, effect("c", COMPENSATE)],
        {6, 11},
    ),
    "compensated, and never undone": (CHAIN, UNDONE, DID_AND_UNDID[:3], {11}),
    "undone in the wrong order": (
        CHAIN,
        UNDONE,
        [*DID_AND_UNDID[:2], replace(DID_AND_UNDID[2], at=T0 + 99 * SECOND), DID_AND_UNDID[3]],
        {12},
    ),
    "undone twice": (CHAIN, UNDONE, [*DID_AND_UNDID, DID_AND_UNDID[3]], {13}),
}


@pytest.mark.parametrize("case", LEDGERS.values(), ids=LEDGERS)
def test_a_ledger_that_says_otherwise_is_named(
    case: tuple[SagaDefinition, Events, Sequence[Effect], set[int]],
) -> None:
    definition, events, effects, expected = case
    found = judged(definition, events, ledger=Ledger(effects, covers="abc"))
    assert {violation.invariant for violation in found} == expected


def test_what_the_ledger_does_not_cover_may_be_missing() -> None:
    assert judged(CHAIN, COMPLETED, ledger=Ledger([])) == []


def test_what_never_arrived_need_not_be_undone() -> None:
    """The step in doubt had no effect, so its compensation had none either."""
    effects = [effect(name, operation) for name in "ab" for operation in (EXECUTE, COMPENSATE)]
    assert judged(CHAIN, UNKNOWN, ledger=Ledger(effects, covers="abc")) == []


def test_a_ledger_of_keys_alone_is_enough() -> None:
    effects = [Effect.of_key(done.key, done.at) for done in DID_AND_UNDID]

    assert effects == DID_AND_UNDID
    assert Effect.of_key(f"{SAGA}/each[3]").step == "each[3]"
    for text in ("", "k-1", f"{SAGA}", f"{SAGA}/", f"{SAGA}/a/b", f"{SAGA}/a/compensate/c"):
        with pytest.raises(ValueError):
            Effect.of_key(text)


def test_an_effect_of_no_saga_is_named() -> None:
    ledger = Ledger(DID)
    assert [v.invariant for v in ledger.strangers([])] == [6]
    assert list(ledger.strangers([SAGA])) == []
    assert list(Ledger(DID, is_whole=False).strangers([])) == []


def test_a_key_of_two_sagas_is_named() -> None:
    other = UUID(int=77)
    ledger = Ledger([*DID, replace(DID[0], saga_id=other)])
    assert [(v.saga_id, v.invariant) for v in ledger.strangers([SAGA, other])] == [(other, 7)]

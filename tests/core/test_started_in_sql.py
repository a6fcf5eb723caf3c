"""What if nobody has validated the input? A worker does before anything begins, or parks it."""

from dataclasses import replace

import pytest

from eventsaga.core.answers import AnswerError, NoAnswers
from eventsaga.core.commands import Wake
from eventsaga.core.decide import transition
from eventsaga.core.definition import Hook
from eventsaga.core.events import ParkReason, SagaAccepted, SagaEvent, SagaParked
from eventsaga.core.evolve import evolve, replay
from eventsaga.core.grammar import first_violation
from eventsaga.core.graph import SagaDefinition
from eventsaga.core.react import react
from eventsaga.core.ready import is_at_rest
from eventsaga.core.state import State, Status
from tests.core.histories import (
    BAD,
    SAGA,
    SECOND,
    T0,
    Says,
    cancel,
    recover,
    retry,
    saga,
    started_in_sql,
    step,
)

ONE = saga(step("a"), deadline=9 * SECOND, hooks=[Hook.ON_PARKED, Hook.ON_COMPENSATED])
STARTED = started_in_sql('{"x": 1}')
REFUSES = Says(**{STARTED.input or "": BAD})


def begun(definition: SagaDefinition = ONE) -> State:
    return replace(evolve(State(SAGA), STARTED), fingerprint=definition.fingerprint)


def names(events: tuple[SagaEvent, ...]) -> list[str]:
    return [type(event).__name__ for event in events]


def test_what_fits_is_accepted_in_the_append_of_the_first_step() -> None:
    decided = transition(ONE, begun(), Wake(at=T0 + SECOND), Says())

    assert names(decided.events) == ["SagaAccepted", "StepStarted"]
    assert decided.state.context == {"text": STARTED.input}
    assert decided.state.input is None
    assert decided.state.deadline_at == T0 + 10 * SECOND, "from when it was accepted"


def test_a_key_is_one_within_its_tenant_only() -> None:
    plain = evolve(State(SAGA), replace(STARTED, key="o-1"))
    of_a = evolve(State(SAGA), replace(STARTED, key="o-1", tenant="a"))
    of_b = evolve(State(SAGA), replace(STARTED, key="o-1", tenant="b"))
    unkeyed = evolve(State(SAGA), replace(STARTED, tenant="a"))

    assert plain.start_key == "o-1"
    assert len({plain.start_key, of_a.start_key, of_b.start_key}) == 3
    assert unkeyed.start_key is None


def test_a_saga_without_deadline_is_accepted_without() -> None:
    definition = saga(step("a"))

    accepted = transition(definition, begun(definition), Wake(at=T0), Says()).events[0]

    assert isinstance(accepted, SagaAccepted)
    assert accepted.deadline_at is None


def test_what_does_not_fit_is_parked_with_the_reason_and_nobody_is_told() -> None:
    decided = transition(ONE, begun(), Wake(at=T0), REFUSES)

    (parked,) = decided.events
    assert isinstance(parked, SagaParked)
    assert (parked.reason, parked.message) == (ParkReason.INVALID_CONTEXT, BAD.message)
    assert "cancel the saga" in parked.remedy
    assert is_at_rest(ONE, decided.state), "a hook takes a context"
    assert react(ONE, decided.state) == ()


def test_it_is_validated_again_when_a_person_asks() -> None:
    parked = transition(ONE, begun(), Wake(at=T0), REFUSES).state

    again = transition(ONE, parked, retry(), REFUSES)
    at_last = transition(ONE, again.state, retry(), Says())

    assert names(again.events) == ["SagaRetried", "SagaParked"]
    assert names(at_last.events) == ["SagaRetried", "SagaAccepted", "StepStarted"]


def test_cancelled_it_ends_without_a_context() -> None:
    parked = transition(ONE, begun(), Wake(at=T0), REFUSES).state

    for state in (begun(), parked):
        decided = transition(ONE, state, cancel(), REFUSES)
        assert names(decided.events) == [
            "SagaCancelRequested",
            "CompensationStarted",
            "SagaCompensated",
        ]
        assert decided.state.status is Status.COMPENSATED
        assert is_at_rest(ONE, decided.state)


def test_whoever_only_takes_over_does_not_judge_it() -> None:
    taken = transition(ONE, begun(), replace(recover(), hold=True), REFUSES)

    assert names(taken.events) == ["SagaRecovered"]
    assert taken.state.input is not None


def test_who_knows_no_model_accepts_nothing() -> None:
    with pytest.raises(AnswerError):
        NoAnswers().accept("{}")


def test_a_history_in_which_it_began_unaccepted_is_no_history() -> None:
    accepted = transition(ONE, begun(), Wake(at=T0), Says()).events
    history = (STARTED, *accepted)

    assert first_violation(history) is None
    assert replay(history, State(SAGA)).status is Status.RUNNING
    assert first_violation((STARTED, *accepted[1:])) is not None
    assert first_violation((*history[:2], accepted[0])) is not None
    assert first_violation((replace(STARTED, input=None), accepted[0])) is not None

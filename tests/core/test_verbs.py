"""What may a person ask? `legal_verbs` is the oracle, and `decide` never contradicts it."""

from collections.abc import Callable
from itertools import product

import pytest

from eventsaga.core.decide import decide
from eventsaga.core.definition import OnDoubt, OnTimeout
from eventsaga.core.events import (
    CompensationStarted,
    Outcome,
    Resolution,
    SagaFailed,
    SagaRetried,
    StepCompensated,
    StepCompensationStarted,
    StepResolved,
    StepSkipped,
    TurnReason,
    UndoRequested,
)
from eventsaga.core.state import Phase, Status
from eventsaga.core.verbs import Legal, Verb, legal_verbs
from eventsaga.errors import IllegalCommandError
from tests.core.histories import (
    COMPENSATE,
    EXECUTE,
    POISON,
    SECOND,
    T0,
    TWICE,
    Story,
    abandon,
    begun,
    cancel,
    doubt,
    drive,
    fail,
    for_each,
    kinds,
    parallel,
    pivot,
    recover,
    resolve,
    retry,
    saga,
    skip,
    start,
    step,
    succeed,
    undo,
    wait,
)
from tests.core.plots import command_of

CAREFUL = step("c", on_doubt=OnDoubt.PARK)
PLAIN = saga(step("a"), CAREFUL, step("d"))
TAILED = saga(step("a"), pivot("p"), CAREFUL)
UNDO_FAILS = {("d", EXECUTE, 1): "fail", ("a", COMPENSATE, 1): "fail"}


def _pending() -> Story:
    story = Story(PLAIN)
    story.send(start())
    return story


def _poisoned() -> Story:
    story = begun(PLAIN)
    story.send(POISON)
    return story


def _poisoned_on_the_way_back() -> Story:
    story = begun(PLAIN)
    story.send(cancel(), POISON)
    return story


def _turned_and_stuck() -> Story:
    story = begun(saga(parallel(step("a"), CAREFUL)))
    story.send(fail("a"), doubt("c"))
    return story


def _compensating() -> Story:
    story = begun(PLAIN)
    story.send(succeed("a"), fail("c"))
    return story


def _abandoned() -> Story:
    story = _poisoned()
    story.send(abandon())
    return story


STANDINGS: dict[str, tuple[Callable[[], Story], list[str]]] = {
    "pending": (_pending, ["cancel"]),
    "running": (lambda: begun(PLAIN), ["cancel"]),
    "compensating": (_compensating, ["cancel"]),
    "completed": (lambda: drive(PLAIN), ["undo"]),
    "completed with a pivot": (lambda: drive(TAILED), []),
    "compensated": (lambda: drive(PLAIN, {("a", EXECUTE, 1): "fail"}), []),
    "failed": (_abandoned, []),
    "poisoned": (_poisoned, ["retry", "cancel", "abandon"]),
    "poisoned on the way back": (_poisoned_on_the_way_back, ["retry", "abandon"]),
    "in doubt": (
        lambda: drive(PLAIN, {("c", EXECUTE, 1): "doubt"}),
        [
            "retry",
            "retry c",
            "resolve c succeeded",
            "resolve c failed",
            "skip c",
            "cancel",
            "abandon",
        ],
    ),
    "in doubt on the way back": (
        _turned_and_stuck,
        ["resolve c succeeded", "resolve c failed", "skip c", "abandon"],
    ),
    "in doubt after the pivot": (
        lambda: drive(TAILED, {("c", EXECUTE, 1): "doubt"}),
        ["retry", "retry c", "resolve c succeeded", "skip c", "abandon"],
    ),
    "a compensation failed": (
        lambda: drive(PLAIN, UNDO_FAILS),
        ["retry", "retry a", "resolve a compensated", "skip a", "abandon"],
    ),
}
ALL = [
    *(Legal(verb) for verb in (Verb.CANCEL, Verb.RETRY, Verb.ABANDON, Verb.UNDO)),
    *(Legal(verb, name) for verb, name in product((Verb.RETRY, Verb.SKIP), "acdz")),
    *(Legal(Verb.RESOLVE, name, found) for name, found in product("acdz", Resolution)),
]


@pytest.mark.parametrize("standing", STANDINGS)
def test_what_is_legal_follows_from_where_the_saga_stands(standing: str) -> None:
    tell, legal = STANDINGS[standing]
    story = tell()

    assert [*map(str, legal_verbs(story.definition, story.state))] == legal


@pytest.mark.parametrize("standing", STANDINGS)
def test_what_is_legal_is_taken_and_all_else_is_refused_with_the_list(standing: str) -> None:
    story = STANDINGS[standing][0]()
    legal = legal_verbs(story.definition, story.state)
    assert set(legal) <= set(ALL)

    for asked in ALL:
        command = command_of(asked, T0)
        if asked in legal:
            decide(story.definition, story.state, command, story.answers)
            continue
        with pytest.raises(IllegalCommandError) as refused:
            decide(story.definition, story.state, command, story.answers)
        assert refused.value.legal == tuple(map(str, legal))
        assert refused.value.command == str(asked)


def test_a_refusal_says_why() -> None:
    story = drive(PLAIN, {("c", EXECUTE, 1): "doubt"})
    for command, told in (
        (skip("a"), "step 'a' is succeeded"),
        (skip("z"), "step 'z' was never started"),
        (undo(), "the saga is PARKED"),
    ):
        with pytest.raises(IllegalCommandError, match=told):
            story.send(command)


# -- retry ----------------------------------------------------------------------------------


def test_a_retry_gives_a_new_budget() -> None:
    story = drive(
        saga(pivot(), step("b", retry=TWICE)),
        {("b", EXECUTE, 1): "fail", ("b", EXECUTE, 2): "fail"},
    )
    story.send(retry("b"))
    assert story.of(SagaRetried)[0].steps == ("b",)
    assert story.of(SagaRetried)[0].actor == "bob"

    story.send(fail("b", attempt=3))

    assert story.wake_at() == T0 + SECOND / 2


def test_a_failed_compensation_is_tried_again_with_a_new_budget() -> None:
    story = drive(PLAIN, UNDO_FAILS)

    assert kinds(story.send(retry())) == ["SagaRetried", "StepCompensationStarted a"]
    story.go_on(lambda _: "ok")
    assert story.state.status is Status.COMPENSATED


def test_one_of_two_that_gave_up_is_tried_again_alone() -> None:
    pair = saga(parallel(step("b", on_doubt=OnDoubt.PARK), CAREFUL), step("d"))
    story = begun(pair)
    story.send(doubt("b"), doubt("c"))

    assert kinds(story.send(retry("b"))) == ["SagaRetried", "StepStarted b"]
    assert kinds(story.send(succeed("b", attempt=2))) == ["StepSucceeded b", "SagaParked"]
    assert list(story.state.stuck_steps) == ["c"]


def test_the_time_that_a_person_took_is_not_counted() -> None:
    definition = saga(CAREFUL, deadline=9 * SECOND)
    story = drive(definition, {("c", EXECUTE, 1): "doubt"})

    story.send(retry(at=T0 + 100 * SECOND))

    assert story.state.deadline_at is None
    assert [effect.attempt for effect in story.due()] == [2]


# -- skip -----------------------------------------------------------------------------------


def test_a_saga_goes_on_without_a_step_that_was_skipped() -> None:
    story = drive(PLAIN, {("c", EXECUTE, 1): "doubt"})

    assert kinds(story.send(skip("c"))) == ["StepSkipped c", "StepStarted d"]
    assert story.of(StepSkipped)[0].reason == "not needed"
    story.go_on(lambda effect: "fail" if effect.step == "d" else "ok")
    # To go on without it is not to say that it did not happen.
    undone = [(event.step, event.outcome) for event in story.of(StepCompensationStarted)]
    assert undone == [("c", Outcome.UNKNOWN), ("a", Outcome.SUCCEEDED)]


def test_a_saga_goes_on_without_an_item_that_was_skipped() -> None:
    definition = saga(for_each(of=CAREFUL, into="all"))
    story = drive(definition, {("each[0]", EXECUTE, 1): "doubt"})

    story.send(skip("each[0]"))

    assert story.state.status is Status.COMPLETED
    assert story.state.context == {"all": [None, None]}


def test_a_saga_whose_failed_compensation_is_skipped_ends_as_failed() -> None:
    story = drive(PLAIN, UNDO_FAILS)

    assert kinds(story.send(skip("a"))) == ["StepSkipped a", "SagaFailed"]
    (ended,) = story.of(SagaFailed)
    assert ended.uncompensated == ("a",)
    assert ended.reason == "the compensation of a was skipped"
    assert story.state.status is Status.FAILED
    assert story.state.uncompensated == ("a",)


def test_what_was_left_is_named_even_if_others_are_compensated_later() -> None:
    script = {**UNDO_FAILS, ("c", COMPENSATE, 1): "fail"}
    story = drive(PLAIN, script)
    story.send(skip("c"))
    assert story.state.status is Status.PARKED

    story.send(resolve("a", Resolution.COMPENSATED))

    assert story.of(SagaFailed)[0].uncompensated == ("c",)


# -- resolve --------------------------------------------------------------------------------


def test_a_step_that_happened_is_resolved_with_its_result() -> None:
    story = drive(PLAIN, {("c", EXECUTE, 1): "doubt"})

    assert kinds(story.send(resolve("c", Resolution.SUCCEEDED, {"p": 1}))) == [
        "StepResolved c",
        "StepStarted d",
    ]
    assert story.state.context == {"p": 1}
    story.go_on(lambda _: "fail")
    assert story.of(StepCompensationStarted)[0].outcome is Outcome.SUCCEEDED


def test_a_step_that_did_not_happen_turns_the_saga_back_and_is_not_compensated() -> None:
    story = drive(PLAIN, {("c", EXECUTE, 1): "doubt"})

    story.send(resolve("c", Resolution.FAILED, {"p": 1}))

    assert story.of(StepResolved)[0].result is None
    assert story.of(CompensationStarted)[0].because_of == "c"
    assert [event.step for event in story.of(StepCompensationStarted)] == ["a"]


def test_a_step_that_was_undone_by_hand_is_compensated() -> None:
    story = drive(PLAIN, UNDO_FAILS)

    assert kinds(story.send(resolve("a", Resolution.COMPENSATED))) == [
        "StepResolved a",
        "SagaCompensated",
    ]
    assert story.state.steps["a"].phase is Phase.COMPENSATED


def test_a_wait_is_resolved_with_the_payload_that_did_not_come() -> None:
    definition = saga(wait(timeout=SECOND, on_timeout=OnTimeout.PARK, into="approval"))
    story = begun(definition)
    story.wake(SECOND)

    story.send(resolve("approval", Resolution.SUCCEEDED, {"by": "Grace"}))

    assert story.state.context == {"approval": {"by": "Grace"}}
    assert story.state.status is Status.COMPLETED


def test_a_saga_stays_parked_until_all_that_gave_up_is_settled() -> None:
    story = begun(saga(parallel(step("b", on_doubt=OnDoubt.PARK), CAREFUL)))
    story.send(doubt("b"), doubt("c"), resolve("b", Resolution.SUCCEEDED))
    assert not story.state.status.is_terminal

    story.send(resolve("c", Resolution.SUCCEEDED))
    assert story.state.status is Status.COMPLETED


def test_what_ran_in_a_poisoned_saga_is_not_run_again_under_its_old_number() -> None:
    """A step had given up already when the claimer parked the saga."""
    story = begun(saga(parallel(CAREFUL, step("b"))))
    story.send(doubt("c"), POISON)

    assert kinds(story.send(resolve("c", Resolution.SUCCEEDED))) == [
        "StepResolved c",
        "StepInDoubt b",
        "StepStarted b",
    ]


# -- abandon --------------------------------------------------------------------------------


def test_an_abandoned_saga_lists_what_it_leaves_behind() -> None:
    definition = saga(
        step("a"), step("b", compensable=False), for_each(), parallel(step("x"), CAREFUL)
    )
    story = drive(definition, {("c", EXECUTE, 1): "doubt", ("x", EXECUTE, 1): "permanent"})

    story.send(abandon())

    assert story.of(SagaFailed)[0].uncompensated == ("a", "each[0]", "each[1]", "c")
    assert story.state.status is Status.FAILED


def test_what_was_compensated_is_not_left_behind() -> None:
    definition = saga(step("a"), for_each(), step("d"))
    story = drive(definition, UNDO_FAILS)
    assert len(story.of(StepCompensated)) == 2

    story.send(abandon())

    assert story.of(SagaFailed)[0].uncompensated == ("a",)


# -- undo and cancel ------------------------------------------------------------------------


def test_a_completed_saga_is_undone_in_reverse() -> None:
    story = drive(PLAIN)

    assert kinds(story.send(undo())) == [
        "UndoRequested",
        "CompensationStarted",
        "StepCompensationStarted d",
    ]
    assert story.of(CompensationStarted)[0].reason is TurnReason.UNDO
    assert story.of(UndoRequested)[0].actor == "bob"
    story.go_on(lambda _: "ok")
    assert [event.step for event in story.of(StepCompensated)] == ["d", "c", "a"]
    assert story.state.status is Status.COMPENSATED


def test_an_undo_survives_a_crash() -> None:
    story = drive(PLAIN)
    story.send(undo())
    story.reload()
    story.send(recover())
    story.go_on(lambda _: "ok")

    assert story.state.status is Status.COMPENSATED


def test_an_undo_that_fails_parks_the_saga() -> None:
    story = drive(PLAIN)
    story.send(undo())
    story.go_on(lambda _: "fail")

    assert list(story.state.stuck_steps) == ["d", "c", "a"]
    assert story.state.status is Status.PARKED


def test_a_cancel_of_a_parked_saga_compensates_what_is_in_doubt() -> None:
    story = drive(PLAIN, {("c", EXECUTE, 1): "doubt"})

    assert kinds(story.send(cancel())) == [
        "SagaCancelRequested",
        "CompensationStarted",
        "StepCompensationStarted c",
    ]
    assert story.of(StepCompensationStarted)[0].outcome is Outcome.UNKNOWN

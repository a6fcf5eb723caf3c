import pytest

from eventsaga.core.commands import Wake
from eventsaga.core.definition import Node, OnDoubt, OnTimeout
from eventsaga.core.events import (
    Next,
    ParkReason,
    Resolution,
    StepCompensationStarted,
    StepFailed,
    StepResolved,
    StepSucceeded,
)
from eventsaga.core.state import Phase, Status
from eventsaga.core.verbs import legal_verbs
from eventsaga.errors import DefinitionError, IllegalCommandError
from tests.core.histories import (
    EXECUTE,
    SECOND,
    T0,
    TWICE,
    begun,
    cancel,
    child,
    doubt,
    drive,
    fail,
    for_each,
    kinds,
    parallel,
    pivot,
    resolve,
    retry,
    saga,
    signal,
    skip,
    sleep,
    step,
    succeed,
    undo,
    wait,
)

TAILED = saga(step("a"), pivot(), step("b"), deadline=9 * SECOND)

REFUSED: list[tuple[tuple[Node, ...], str]] = [
    ((pivot("p"), pivot("q")), "has two pivots, p and q"),
    ((parallel(pivot(), step("b")),), "'pivot': a pivot in a parallel branch cannot hold"),
    ((pivot(), step("b", on_doubt=OnDoubt.COMPENSATE)), "'b' comes after the pivot 'pivot'"),
    ((pivot(), for_each(of=step("i", on_doubt=OnDoubt.COMPENSATE))), "'each' comes after"),
    ((pivot(), wait(timeout=SECOND)), "signal 'approval' comes after the pivot 'pivot'"),
    ((child(undoable=False), pivot()), "child saga 'child': saga 'delivery' has a pivot"),
    ((child(undoable=False),), "it may only stand after a pivot"),
]


@pytest.mark.parametrize(("nodes", "told"), REFUSED)
def test_a_promise_that_cannot_hold_is_refused(nodes: tuple[Node, ...], told: str) -> None:
    with pytest.raises(DefinitionError, match=told):
        saga(*nodes)


def test_a_pivot_may_have_a_tail_that_only_goes_forward() -> None:
    definition = saga(
        step("a"),
        pivot(),
        child(undoable=False),
        wait("one"),
        wait("two", timeout=SECOND, on_timeout=OnTimeout.PARK),
        parallel(for_each(), sleep()),
    )

    assert definition.pivot == "pivot"
    assert saga(step("a")).pivot is None
    assert saga(parallel(pivot())).pivot == "pivot"


def test_a_pivot_is_always_done() -> None:
    with pytest.raises(DefinitionError, match="a pivot cannot be conditional"):
        step("a", pivot=True, conditional=True)


def test_the_pivot_is_marked_in_the_history() -> None:
    story = drive(TAILED)

    assert [event.step for event in story.of(StepSucceeded) if event.pivot] == ["pivot"]
    assert story.state.committed


def test_before_the_pivot_a_cancel_turns_the_saga_back() -> None:
    story = begun(TAILED)

    assert "SagaCancelRequested" in kinds(story.send(cancel()))


def test_a_cancel_is_refused_while_the_pivot_is_under_way() -> None:
    story = begun(TAILED)
    story.send(succeed("a"))

    with pytest.raises(IllegalCommandError, match="its pivot 'pivot' is under way or in doubt"):
        story.send(cancel())


def test_a_pivot_that_failed_and_waits_for_its_retry_can_be_cancelled() -> None:
    story = begun(saga(step("a"), step("p", pivot=True, retry=TWICE)))
    story.send(succeed("a"), fail("p"))

    assert kinds(story.send(cancel()))[:2] == ["SagaCancelRequested", "CompensationStarted"]


def test_after_the_pivot_a_cancel_is_refused_with_a_clear_answer() -> None:
    story = begun(TAILED)
    story.send(succeed("a"), succeed("pivot"))

    with pytest.raises(IllegalCommandError, match="has passed its pivot 'pivot', there is no way"):
        story.send(cancel())


def test_the_deadline_means_nothing_while_the_pivot_is_under_way_nor_after_it() -> None:
    story = begun(TAILED)
    story.send(succeed("a"))
    assert story.wake_at() is None
    assert story.send(Wake(at=T0 + 10 * SECOND)) == ()

    story.send(succeed("pivot", at=T0 + 10 * SECOND))

    assert story.wake_at() is None
    assert story.send(Wake(at=T0 + 20 * SECOND)) == ()


def test_the_deadline_counts_again_when_the_pivot_did_not_happen() -> None:
    story = begun(saga(step("a"), step("p", pivot=True, retry=TWICE), deadline=9 * SECOND))
    story.send(succeed("a"))

    story.send(fail("p", at=T0 + 9 * SECOND))

    assert story.state.status is Status.COMPENSATING


def test_a_pivot_that_failed_turns_the_saga_back() -> None:
    assert drive(TAILED, {("pivot", EXECUTE, 1): "fail"}).state.status is Status.COMPENSATED


@pytest.mark.parametrize("outcome", ["doubt", "refused"])
def test_a_pivot_in_doubt_is_no_reason_to_go_back(outcome: str) -> None:
    story = begun(TAILED)
    story.send(succeed("a"))

    story.send(
        doubt("pivot")
        if outcome == "doubt"
        else fail("pivot", effect_happened=True, retryable=False)
    )

    assert story.state.status is Status.PARKED
    assert story.state.park_reason is ParkReason.IN_DOUBT
    assert [*map(str, legal_verbs(TAILED, story.state))] == [
        "retry",
        "retry pivot",
        "resolve pivot succeeded",
        "resolve pivot failed",
        "abandon",
    ]


def test_a_failure_after_a_doubt_of_the_pivot_parks_too() -> None:
    definition = saga(step("a"), step("p", compensable=False, pivot=True, retry=TWICE))

    story = drive(definition, {("p", EXECUTE, 1): "doubt", ("p", EXECUTE, 2): "fail"})

    assert story.state.park_reason is ParkReason.IN_DOUBT


def test_a_pivot_in_doubt_that_has_a_compensation_is_compensated() -> None:
    story = drive(saga(step("a"), pivot(compensable=True)), {("pivot", EXECUTE, 1): "doubt"})

    assert [event.step for event in story.of(StepCompensationStarted)] == ["pivot", "a"]


def test_a_saga_that_goes_back_from_its_pivot_takes_a_cancel_that_changes_nothing() -> None:
    story = begun(saga(step("a"), pivot(compensable=True)))
    story.send(succeed("a"), doubt("pivot"))

    assert story.send(cancel()) == ()


def test_a_pivot_in_doubt_is_resolved_either_way() -> None:
    story = drive(TAILED, {("pivot", EXECUTE, 1): "doubt"})
    done = kinds(story.send(resolve("pivot", Resolution.SUCCEEDED)))
    assert done == ["StepResolved pivot", "StepStarted b"]
    assert story.of(StepResolved)[0].pivot
    assert story.state.committed

    story = drive(TAILED, {("pivot", EXECUTE, 1): "doubt"})
    story.send(resolve("pivot", Resolution.FAILED))
    assert [event.step for event in story.of(StepCompensationStarted)] == ["a"]


def test_a_pivot_cannot_be_skipped() -> None:
    story = drive(TAILED, {("pivot", EXECUTE, 1): "doubt"})

    with pytest.raises(IllegalCommandError, match="cannot skip pivot"):
        story.send(skip("pivot"))


@pytest.mark.parametrize("outcome", ["fail", "permanent", "doubt"])
def test_a_step_that_gives_up_after_the_pivot_parks_the_saga(outcome: str) -> None:
    story = drive(TAILED, {("b", EXECUTE, 1): outcome})

    assert kinds(story.events)[-1] == "SagaParked"
    assert story.state.steps["b"].phase is Phase.STUCK
    assert kinds(story.send(retry())) == ["SagaRetried", "StepStarted b"]
    story.go_on(lambda _: "ok")
    assert story.state.status is Status.COMPLETED


def test_a_parked_tail_offers_no_way_back() -> None:
    story = drive(TAILED, {("b", EXECUTE, 1): "fail"})

    assert [*map(str, legal_verbs(TAILED, story.state))] == [
        "retry",
        "retry b",
        "resolve b succeeded",
        "skip b",
        "abandon",
    ]


def test_a_conflict_after_the_pivot_parks_the_saga() -> None:
    definition = saga(pivot(), parallel(step("a"), step("b")))

    story = drive(definition, {("a", EXECUTE, 1): {"p": 1}, ("b", EXECUTE, 1): {"p": 2}})

    assert story.of(StepFailed) == [
        StepFailed(
            at=T0,
            step="b",
            attempt=1,
            error_type="ConflictError",
            message="'b' and 'a' returned different values for p",
            effect_happened=True,
            then=Next.PARK,
        )
    ]
    assert story.state.status is Status.PARKED
    assert story.state.context == {"p": 1}


def test_a_conflict_is_not_resolved_with_what_contradicts() -> None:
    definition = saga(pivot(), parallel(step("a"), step("b")))
    story = drive(definition, {("a", EXECUTE, 1): {"p": 1}, ("b", EXECUTE, 1): {"p": 2}})

    with pytest.raises(IllegalCommandError, match="different values for p"):
        story.send(resolve("b", Resolution.SUCCEEDED, {"p": 2}))
    story.send(resolve("b", Resolution.SUCCEEDED, {"p": 1}))

    assert story.state.status is Status.COMPLETED


def test_a_signal_that_contradicts_after_the_pivot_is_not_heard_again() -> None:
    story = begun(saga(pivot(), parallel(step("a"), wait(into="p"))))
    story.send(succeed("pivot"), succeed("a", {"p": 1}), signal({"x": 1}))
    assert story.state.status is Status.PARKED

    assert kinds(story.send(retry())) == ["SagaRetried", "SignalAwaited approval"]
    assert story.state.signals == {"approved": ()}


def test_a_completed_saga_with_a_pivot_cannot_be_undone() -> None:
    with pytest.raises(IllegalCommandError, match="has passed its pivot 'pivot', there is no way"):
        drive(TAILED).send(undo())


def test_a_pivot_belongs_to_the_shape() -> None:
    assert saga(pivot("a")).fingerprint != saga(step("a", compensable=False)).fingerprint

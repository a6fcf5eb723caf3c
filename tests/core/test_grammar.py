"""Each rule of the grammar has a history that breaks it, and nothing else."""

from dataclasses import replace

import pytest

from eventsaga.core.events import (
    CompensationStarted,
    Outcome,
    ParkReason,
    SagaCancelRequested,
    SagaCompensated,
    SagaCompleted,
    SagaDeadlineExceeded,
    SagaEvent,
    SagaParked,
    SagaRecovered,
    SagaStarted,
    StepCompensated,
    StepCompensationFailed,
    StepCompensationStarted,
    StepFailed,
    StepInDoubt,
    StepStarted,
    StepSucceeded,
    TurnReason,
)
from eventsaga.core.grammar import first_violation
from tests.core.histories import (
    COMPENSATE,
    EXECUTE,
    OTHER_WORKER,
    T0,
    TWICE,
    WORKER,
    begun,
    cancel,
    drive,
    saga,
    step,
)

BORN = SagaStarted(
    at=T0, saga_name="order", version=1, fingerprint="f", context={}, correlation_id="c"
)
CANCELLED = SagaCancelRequested(at=T0, reason="no", actor="alice")
LATE = SagaDeadlineExceeded(at=T0, deadline_at=T0)
TURNED = CompensationStarted(at=T0, reason=TurnReason.STEP_FAILED, message="no")
PARKED = SagaParked(at=T0, reason=ParkReason.POISON, steps=(), message="m", remedy="r")
RECOVERED = SagaRecovered(at=T0, worker_id=OTHER_WORKER, previous_worker_id=WORKER)
COMPLETED = SagaCompleted(at=T0)
UNDONE = SagaCompensated(at=T0)


def run(name: str = "a", attempt: int = 1) -> StepStarted:
    return StepStarted(at=T0, step=name, attempt=attempt, idempotency_key=name)


def done(name: str = "a", attempt: int = 1, conflict: str | None = None) -> StepSucceeded:
    return StepSucceeded(at=T0, step=name, attempt=attempt, conflict=conflict)


def failed(
    name: str = "a", attempt: int = 1, *, again: bool = False, happened: bool | None = None
) -> StepFailed:
    return StepFailed(
        at=T0,
        step=name,
        attempt=attempt,
        error_type="E",
        message="m",
        retry_at=T0 if again else None,
        effect_happened=happened,
    )


def doubted(name: str = "a", attempt: int = 1, *, again: bool = False) -> StepInDoubt:
    return StepInDoubt(
        at=T0,
        step=name,
        attempt=attempt,
        operation=EXECUTE,
        error_type="E",
        message="m",
        retry_at=T0 if again else None,
    )


def undo_doubted(name: str = "a", attempt: int = 1, *, again: bool = False) -> StepInDoubt:
    return replace(doubted(name, attempt, again=again), operation=COMPENSATE)


def undo(name: str = "a", attempt: int = 1) -> StepCompensationStarted:
    return StepCompensationStarted(
        at=T0, step=name, attempt=attempt, idempotency_key=name, outcome=Outcome.SUCCEEDED
    )


def undone(name: str = "a", attempt: int = 1) -> StepCompensated:
    return StepCompensated(at=T0, step=name, attempt=attempt)


def undo_failed(
    name: str = "a", attempt: int = 1, *, again: bool = False
) -> StepCompensationFailed:
    return StepCompensationFailed(
        at=T0,
        step=name,
        attempt=attempt,
        error_type="E",
        message="m",
        retry_at=T0 if again else None,
    )


BACK = (BORN, run("a"), done("a"), run("b"), failed("b"), TURNED)
GOING_BACK = (*BACK, undo("a"))

WELL_FORMED: dict[str, tuple[SagaEvent, ...]] = {
    "nothing yet": (),
    "a completed saga": (BORN, run(), done(), COMPLETED),
    "a failure tried again": (BORN, run(), failed(again=True), run(attempt=2), done(attempt=2)),
    "a doubt tried again": (BORN, run(), doubted(again=True), RECOVERED, run(attempt=2)),
    "a compensated saga": (*GOING_BACK, undone(), UNDONE),
    "a doubt undone": (BORN, run(), doubted(), TURNED, undo(), undone(), UNDONE),
    "a refused result undone": (BORN, run(), failed(happened=True), TURNED, undo(), undone()),
    "a compensation tried again": (*GOING_BACK, undo_failed(again=True), undo(attempt=2)),
    "a doubtful compensation": (*GOING_BACK, undo_doubted(again=True), undo(attempt=2)),
    "a compensation given up": (*GOING_BACK, undo_failed(), PARKED),
    "a conflict": (BORN, run("a"), done("a", conflict="b"), TURNED, undo("a"), undone("a"), UNDONE),
    "a cancel": (BORN, CANCELLED, TURNED, UNDONE),
    "a deadline": (BORN, run(), LATE, done(), TURNED, undo()),
    "two failures in a group": (BORN, run("a"), run("b"), failed("a"), failed("b"), TURNED),
    "a waiting step given up": (BORN, run(), doubted(again=True), CANCELLED, TURNED, undo()),
    "a parked saga": (BORN, run(), PARKED),
}

BROKEN: dict[str, tuple[tuple[SagaEvent, ...], str]] = {
    "no start": ((run(),), "a history begins with SagaStarted"),
    "a second start": ((BORN, BORN), "a history begins with SagaStarted"),
    "an event after completion": (
        (BORN, run(), done(), COMPLETED, RECOVERED),
        "ended or is parked",
    ),
    "an event after compensation": ((BORN, CANCELLED, TURNED, UNDONE, run()), "ended or is parked"),
    "an event after parking": ((BORN, run(), PARKED, done()), "ended or is parked"),
    "a second cancel": ((BORN, CANCELLED, CANCELLED), "goes back already"),
    "a deadline after a cancel": ((BORN, CANCELLED, LATE), "goes back already"),
    "a cancel on the way back": ((*BACK, CANCELLED), "goes back already"),
    "a turn without a reason": ((BORN, TURNED), "nothing has turned the saga back"),
    "a turn after a retry": ((BORN, run(), failed(again=True), TURNED), "nothing has turned"),
    "a second turn": ((*BACK, TURNED), "nothing has turned the saga back"),
    "a turn beside a running step": (
        (BORN, run("a"), run("b"), failed("a"), TURNED),
        "step 'b' is still running",
    ),
    "completion on the way back": ((*BACK, COMPLETED), "the saga goes back"),
    "completion after a cancel": ((BORN, run(), CANCELLED, done(), COMPLETED), "goes back"),
    "completion with a running step": ((BORN, run(), COMPLETED), "'a' has not succeeded"),
    "completion with a waiting step": (
        (BORN, run(), failed(again=True), COMPLETED),
        "'a' has not succeeded",
    ),
    "an end of a way back that never began": ((BORN, CANCELLED, UNDONE), "no CompensationStarted"),
    "an end while a compensation runs": ((*GOING_BACK, UNDONE), "'a' is not compensated"),
    "an end while a compensation waits": (
        (*GOING_BACK, undo_failed(again=True), UNDONE),
        "'a' is not compensated",
    ),
    "an end although a compensation failed": (
        (*GOING_BACK, undo_failed(), UNDONE),
        "'a' is not compensated",
    ),
    "a step after a cancel": ((BORN, CANCELLED, run()), "the saga goes back"),
    "a step after a failure": ((BORN, run("a"), failed("a"), run("b")), "the saga goes back"),
    "a step after a conflict": (
        (BORN, run("a"), done("a", conflict="b"), run("b")),
        "the saga goes back",
    ),
    "a step on the way back": ((*BACK, run("c")), "the saga goes back"),
    "a first attempt numbered 2": ((BORN, run(attempt=2)), "attempt 2, not 1"),
    "a number passed over": ((BORN, run(), failed(again=True), run(attempt=3)), "3, not 2"),
    "a number used twice": ((BORN, run(), failed(again=True), run()), "1, not 2"),
    "two attempts at once": ((BORN, run(), run(attempt=2)), "'a' has no attempt left"),
    "an attempt after success": ((BORN, run(), done(), run(attempt=2)), "no attempt left"),
    "a result without intent": ((BORN, done()), "no attempt of step 'a' is running"),
    "a result recorded twice": ((BORN, run(), done(), done()), "no attempt of step 'a' is running"),
    "a doubt after a result": ((BORN, run(), done(), doubted()), "no attempt of step 'a'"),
    "a failure of another attempt": ((BORN, run(), failed(attempt=2)), "attempt 2, not 1"),
    "a compensation before the turn": ((BORN, run(), done(), undo()), "no CompensationStarted"),
    "a compensation of an unknown step": ((*BACK, undo("z")), "'z' never had an effect"),
    "a compensation of a failed step": ((*BACK, undo("b")), "'b' never had an effect"),
    "a compensation numbered 2": ((*BACK, undo(attempt=2)), "attempt 2, not 1"),
    "two compensations at once": ((*GOING_BACK, undo(attempt=2)), "'a' has no attempt left"),
    "a compensation after the last": (
        (*GOING_BACK, undo_failed(), undo(attempt=2)),
        "'a' has no attempt left",
    ),
    "a second compensation": ((*GOING_BACK, undone(), undo(attempt=2)), "no attempt left"),
    "a compensation without intent": ((*BACK, undone()), "no compensation of step 'a' is running"),
    "a compensation that never was": ((*BACK, undo_failed("z")), "no compensation of step 'z'"),
    "a compensation recorded twice": ((*GOING_BACK, undone(), undone()), "no compensation of step"),
    "a compensation of another number": ((*GOING_BACK, undone(attempt=2)), "attempt 2, not 1"),
    "a doubtful compensation unasked": ((*BACK, undo_doubted()), "no compensation of step 'a'"),
}


@pytest.mark.parametrize("name", WELL_FORMED)
def test_a_well_formed_history_is_accepted_to_its_last_event(name: str) -> None:
    history = WELL_FORMED[name]

    assert [first_violation(history[:end]) for end in range(len(history) + 1)] == [None] * (
        len(history) + 1
    )


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_history_is_refused_at_its_last_event(name: str) -> None:
    history, reason = BROKEN[name]

    assert first_violation(history[:-1]) is None
    violation = first_violation(history)

    assert violation is not None
    seq, told = violation
    assert seq == len(history)
    assert type(history[-1]).__name__ in told
    assert reason in told


def test_what_follows_the_first_violation_is_not_judged() -> None:
    violation = first_violation((BORN, done(), done(), BORN))

    assert violation is not None
    assert violation[0] == 2


def test_what_is_decided_is_accepted() -> None:
    definition = saga(step("a", retry=TWICE, compensate_retry=TWICE), step("b"))
    story = drive(
        definition,
        {
            ("a", EXECUTE, 1): "doubt",
            ("b", EXECUTE, 1): "crash",
            ("b", EXECUTE, 2): "fail",
            ("a", COMPENSATE, 1): "handover",
            ("a", COMPENSATE, 2): "fail",
        },
    )
    cancelled = begun(definition)
    cancelled.send(cancel())

    assert first_violation(story.events) is None
    assert first_violation(cancelled.events) is None

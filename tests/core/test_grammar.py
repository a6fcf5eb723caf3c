"""Each rule of the grammar has a history that breaks it, and nothing else."""

from dataclasses import replace

import pytest

from eventsaga.core.definition import Hook
from eventsaga.core.events import (
    ChildEnded,
    ChildStarted,
    CompensationStarted,
    DataRedacted,
    ForEachStarted,
    HookDelivered,
    HookFailed,
    Next,
    Outcome,
    ParkReason,
    Resolution,
    SagaCancelRequested,
    SagaCompensated,
    SagaCompleted,
    SagaDeadlineExceeded,
    SagaEvent,
    SagaFailed,
    SagaParked,
    SagaRecovered,
    SagaRetried,
    SagaStarted,
    SignalAwaited,
    SignalReceived,
    StepCompensated,
    StepCompensationFailed,
    StepCompensationStarted,
    StepFailed,
    StepInDoubt,
    StepResolved,
    StepSkipped,
    StepStarted,
    StepSucceeded,
    TimerFired,
    TimerStarted,
    TurnReason,
    UndoRequested,
    VerificationStarted,
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


def stuck(name: str = "a") -> StepInDoubt:
    return replace(doubted(name), then=Next.PARK)


def resolved(name: str = "a", resolution: Resolution = Resolution.SUCCEEDED) -> StepResolved:
    return StepResolved(at=T0, step=name, resolution=resolution, reason="r", actor="bob")


def skipped(name: str = "a", actor: str | None = "bob") -> StepSkipped:
    return StepSkipped(at=T0, step=name, actor=actor)


def retried(*names: str) -> SagaRetried:
    return SagaRetried(at=T0, steps=names, reason="r", actor="bob")


def items(name: str = "each") -> ForEachStarted:
    return ForEachStarted(at=T0, step=name, items=("x",))


UNDO_ASKED = UndoRequested(at=T0, reason="r", actor="bob")
FAILED = SagaFailed(at=T0, uncompensated=(), reason="r", actor="bob")
REDACTED = DataRedacted(at=T0, path="p", reason="r", actor="bob", events={1: "00"})
TOLD = HookDelivered(at=T0, hook=Hook.ON_PARKED, attempt=1)
NOT_TOLD = HookFailed(at=T0, hook=Hook.ON_PARKED, attempt=1, error_type="E", message="m")
NAP = TimerStarted(at=T0, step="a", fire_at=T0)
FIRED = TimerFired(at=T0, step="a")
AWAITED = SignalAwaited(at=T0, step="a", signal="s")
HEARD = SignalReceived(at=T0, signal="s", id=WORKER, payload={}, actor="bob")
CHILD = ChildStarted(at=T0, step="a", child_id=WORKER, saga_name="child", version=1, context={})
CHILD_ENDED = ChildEnded(at=T0, step="a", child_id=WORKER, status="COMPLETED")
ASKED = VerificationStarted(at=T0, step="a", attempt=1)
PIVOTED = (BORN, run("p"), replace(done("p"), pivot=True))
STUCK = (BORN, run(), stuck(), PARKED)
NO_BEGINNING = failed(attempt=0)

BACK = (BORN, run("a"), done("a"), run("b"), failed("b"), TURNED)
GOING_BACK = (*BACK, undo("a"))

WELL_FORMED: dict[str, tuple[SagaEvent, ...]] = {
    "nothing yet": (),
    "a completed saga": (BORN, run(), done(), COMPLETED),
    "a value taken out after the end": (BORN, run(), done(), COMPLETED, REDACTED, UNDO_ASKED),
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
    "a sleep": (BORN, NAP, FIRED, done(), COMPLETED),
    "a signal": (BORN, HEARD, AWAITED, done(), COMPLETED),
    "a wait that was too long": (BORN, AWAITED, FIRED, failed(), TURNED),
    "a child": (BORN, CHILD, CHILD_ENDED, done(), COMPLETED),
    "a child undone": (BORN, CHILD, done(), CANCELLED, TURNED, undo(), CHILD_ENDED, undone()),
    "items": (BORN, items(), run("each[0]"), done("each[0]"), done("each"), COMPLETED),
    "a step skipped": (BORN, skipped(actor=None), COMPLETED),
    "a step that could not begin": (BORN, NO_BEGINNING, TURNED, UNDONE),
    "a beginning tried again": (
        *(BORN, replace(NO_BEGINNING, then=Next.PARK), PARKED, retried("a")),
        *(skipped(actor=None), COMPLETED),
    ),
    "a question": (BORN, run(), replace(doubted(again=True), then=Next.VERIFY), ASKED, done()),
    "a step resolved": (*STUCK, resolved(), COMPLETED),
    "a step resolved as failed": (*STUCK, resolved(resolution=Resolution.FAILED), TURNED, UNDONE),
    "a step skipped by a person": (*STUCK, skipped(), COMPLETED),
    "a step retried": (*STUCK, retried("a"), run(attempt=2)),
    "two steps stuck": (
        *(BORN, run("a"), run("b"), stuck("a"), stuck("b"), PARKED),
        *(resolved("a"), resolved("b"), COMPLETED),
    ),
    "a stuck step cancelled": (*STUCK, CANCELLED, TURNED, undo(), undone(), UNDONE),
    "a compensation resolved": (
        *(*GOING_BACK, undo_failed(), PARKED),
        *(resolved(resolution=Resolution.COMPENSATED), UNDONE),
    ),
    "a compensation retried": (*GOING_BACK, undo_failed(), PARKED, retried("a"), undo(attempt=2)),
    "a compensation skipped": (*GOING_BACK, undo_failed(), PARKED, skipped(), FAILED),
    "a saga given up": (*STUCK, FAILED),
    "an undo": (BORN, run(), done(), COMPLETED, UNDO_ASKED, TURNED, undo(), undone(), UNDONE),
    "hooks": (BORN, run(), PARKED, NOT_TOLD, TOLD, retried(), doubted(again=True)),
    "a hook after the end": (BORN, run(), done(), COMPLETED, NOT_TOLD, TOLD),
}

BROKEN: dict[str, tuple[tuple[SagaEvent, ...], str]] = {
    "no start": ((run(),), "a history begins with SagaStarted"),
    "a second start": ((BORN, BORN), "a history begins with SagaStarted"),
    "an event after completion": (
        (BORN, run(), done(), COMPLETED, RECOVERED),
        "has ended",
    ),
    "an event after compensation": ((BORN, CANCELLED, TURNED, UNDONE, run()), "has ended"),
    "a step beside a parked saga": ((BORN, run(), PARKED, run("b")), "the saga is parked"),
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
    "a cancel after the pivot": ((*PIVOTED, CANCELLED), "passed its pivot"),
    "a deadline after the pivot": ((*PIVOTED, LATE), "passed its pivot"),
    "a failure after the pivot": ((*PIVOTED, run(), failed()), "passed its pivot"),
    "a conflict after the pivot": ((*PIVOTED, run(), done(conflict="b")), "passed its pivot"),
    "an undo after the pivot": ((*PIVOTED, COMPLETED, UNDO_ASKED), "passed its pivot"),
    "a pivot resolved, then a cancel": (
        (*STUCK, replace(resolved(), pivot=True), CANCELLED),
        "passed its pivot",
    ),
    "a value taken out on the way": ((BORN, REDACTED), "has not ended"),
    "an undo of a saga that has not completed": ((BORN, UNDO_ASKED), "has not completed"),
    "a hook before the end": ((BORN, TOLD), "the saga has not settled"),
    "a failed hook before the end": ((BORN, NOT_TOLD), "the saga has not settled"),
    "an end out of nothing": ((BORN, FAILED), "only a parked saga is given up"),
    "a takeover of a parked saga": ((*STUCK, RECOVERED), "the saga is parked"),
    "a second parking": ((*STUCK, PARKED), "the saga is parked"),
    "completion of a parked saga": ((BORN, run(), done(), PARKED, COMPLETED), "is parked"),
    "a turn of a parked saga": ((BORN, run(), failed(), PARKED, TURNED), "is parked"),
    "a retry of what is not parked": ((BORN, retried()), "the saga is not parked"),
    "a retry of what did not give up": ((*STUCK, retried("b")), "'b' has not given up"),
    "a skip of what is not parked": ((BORN, run(), skipped()), "the saga is not parked"),
    "a skip of what did not give up": (
        (BORN, run("a"), run("b"), stuck("a"), PARKED, skipped("b")),
        "'b' has not given up",
    ),
    "a resolution of the wrong kind": (
        (*STUCK, resolved(resolution=Resolution.COMPENSATED)),
        "not one that can be compensated",
    ),
    "a compensation found to have succeeded": (
        (*GOING_BACK, undo_failed(), PARKED, resolved()),
        "not one that can be succeeded",
    ),
    "a condition asked too late": ((BORN, run(), skipped(actor=None)), "'a' was begun"),
    "a condition asked on the way back": ((BORN, CANCELLED, skipped(actor=None)), "goes back"),
    "a condition asked of a parked saga": ((*STUCK, skipped("b", actor=None)), "is parked"),
    "an item without its group": ((BORN, run("each[0]")), "group 'each' was not begun"),
    "an item after its group": (
        (BORN, items(), done("each"), run("each[0]")),
        "group 'each' was not begun",
    ),
    "a timer that was not started": ((BORN, run(), FIRED), "'a' does not wait for it"),
    "a child that was not started": ((BORN, CHILD_ENDED), "'a' does not wait for it"),
    "a signal taken twice": ((BORN, HEARD, HEARD), "the signal was taken before"),
    "a question out of nothing": ((BORN, run(), ASKED), "nothing is to be asked about step 'a'"),
    "a question about another attempt": (
        (
            *(BORN, run(), replace(doubted(again=True), then=Next.VERIFY)),
            replace(ASKED, attempt=2),
        ),
        "attempt 2, not 1",
    ),
    "a question on the way back": (
        (BORN, run(), replace(doubted(again=True), then=Next.VERIFY), CANCELLED, ASKED),
        "the saga goes back",
    ),
    "a sleep on the way back": ((BORN, CANCELLED, NAP), "the saga goes back"),
    "completion beside a sleep": ((BORN, NAP, COMPLETED), "'a' has not succeeded"),
    "completion beside a stuck step": ((BORN, run(), stuck(), COMPLETED), "has not succeeded"),
    "a turn beside a child": (
        (BORN, CHILD, run("b"), failed("b"), TURNED),
        "step 'a' is still running",
    ),
    "a turn beside a question": (
        (
            *(BORN, run("b"), run(), replace(doubted(again=True), then=Next.VERIFY), ASKED),
            *(failed("b"), TURNED),
        ),
        "step 'a' is still running",
    ),
    "an end that hides what was left": (
        (*GOING_BACK, undo_failed(), PARKED, skipped(), UNDONE),
        "'a' is not compensated",
    ),
    "a beginning that failed twice": ((BORN, NO_BEGINNING, NO_BEGINNING), "no attempt of step"),
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

"""Does the timeline tell every legal history, one line an attempt, and leave nothing out?"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from hypothesis import given, settings

from eventsaga.core.definition import Hook, group_of, item_name
from eventsaga.core.events import (
    ChildEnded,
    ChildStarted,
    CompensationStarted,
    DataRedacted,
    ForEachStarted,
    HookDelivered,
    HookFailed,
    Next,
    Operation,
    Outcome,
    Resolution,
    SagaEvent,
    SagaFailed,
    SagaRetried,
    SagaStarted,
    SignalAwaited,
    SignalReceived,
    StepCompensated,
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
from eventsaga.core.state import Phase
from eventsaga.observe.summary import summary
from eventsaga.observe.timeline import Line, timeline
from tests.core.histories import SAGA, SECOND, T0, WORKER
from tests.core.plots import Player, Plot, plots

_UNDER_WAY = (
    Phase.RUNNING,
    Phase.VERIFYING,
    Phase.SLEEPING,
    Phase.AWAITING,
    Phase.CHILD,
    Phase.FANNED,
    Phase.COMPENSATING,
    Phase.CHILD_UNDO,
)


@dataclass(frozen=True)
class Row:
    seq: int
    event: SagaEvent
    worker_id: UUID | None = WORKER


def lines_of(events: Iterable[SagaEvent]) -> list[Line]:
    return timeline(Row(seq, event) for seq, event in enumerate(events, 1))


def told(*events: SagaEvent) -> list[tuple[str, str, str]]:
    return [(line.subject, line.outcome, line.detail) for line in lines_of(events)]


def later(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def begun(step: str, attempt: int = 1, at: datetime = T0) -> StepStarted:
    return StepStarted(at=at, step=step, attempt=attempt, idempotency_key=f"{SAGA}/{step}")


def done(step: str, attempt: int = 1, at: datetime = T0) -> StepSucceeded:
    return StepSucceeded(at=at, step=step, attempt=attempt)


# -- any history --------------------------------------------------------------------------


@settings(max_examples=40)
@given(plots())
def test_what_goes_on_in_a_saga_is_what_has_no_end_in_its_timeline(plot: Plot) -> None:
    for story in Player(plot).play():
        lines = lines_of(story.events)

        under_way = set(story.state.open_in(*_UNDER_WAY))
        no_end = {line.step for line in lines if line.operation and line.ended_at is None}
        if story.state.turn is None or story.state.is_backward:
            assert no_end == under_way
        else:
            assert no_end >= under_way  # waits end when compensation starts
        assert [line.seq for line in lines] == sorted(line.seq for line in lines)


@settings(max_examples=40)
@given(plots())
def test_a_summary_keeps_what_it_does_not_put_together(plot: Plot) -> None:
    story = list(Player(plot).play())[-1]
    lines = lines_of(story.events)

    assert summary(lines, few=1000) == lines
    shortest = summary(lines, few=0)
    assert sum(line.lines for line in shortest) == len(lines)
    kept = {id(line) for line in shortest}
    assert all(id(line) in kept for line in lines if group_of(line.step or "saga") is None)


# -- each kind ----------------------------------------------------------------------------


def test_a_step_that_could_not_begin_is_a_line_of_its_own() -> None:
    failed = StepFailed(at=T0, step="pay", attempt=0, error_type="KeyError", message="'price'")

    (line,) = lines_of([failed])

    assert (line.subject, line.outcome, line.attempt) == ("pay", "failed", 0)
    assert line.detail == "KeyError: 'price'"
    assert line.took == timedelta(0)


def test_a_key_that_is_too_old_is_told_after_the_attempt_that_ended() -> None:
    doubt = StepInDoubt(
        at=later(1),
        step="pay",
        attempt=1,
        operation=Operation.EXECUTE,
        error_type="WorkerLost",
        message="the worker is gone",
        interrupted=True,
        retry_at=later(9),
    )
    expired = StepInDoubt(
        at=later(9),
        step="pay",
        attempt=1,
        operation=Operation.EXECUTE,
        error_type="KeyExpired",
        message="its key is too old",
        interrupted=True,
        then=Next.PARK,
    )

    assert told(begun("pay"), doubt, expired) == [
        ("pay #1", "in doubt", "WorkerLost: the worker is gone; next attempt after 8.00 s"),
        ("pay #1", "in doubt", "KeyExpired: its key is too old"),
    ]


def test_asking_the_other_side_is_a_line_after_the_doubt() -> None:
    doubt = StepInDoubt(
        at=T0,
        step="pay",
        attempt=1,
        operation=Operation.EXECUTE,
        error_type="TimeoutError",
        message="",
        retry_at=T0,
        then=Next.VERIFY,
    )
    asked = VerificationStarted(at=T0, step="pay", attempt=1)

    assert told(begun("pay"), doubt, asked) == [
        ("pay #1", "in doubt", "TimeoutError"),
        ("verify pay #1", "asking", ""),
    ]
    assert told(begun("pay"), doubt, asked, done("pay"))[1] == ("verify pay #1", "succeeded", "")


def test_a_sleep_and_a_wait_say_for_what_and_how_long() -> None:
    slept = TimerStarted(at=T0, step="nap", fire_at=later(90))
    fired = TimerFired(at=later(90), step="nap")
    awaited = SignalAwaited(at=T0, step="approval", signal="yes", timeout_at=later(5))
    received = SignalReceived(
        at=later(1), signal="yes", id=UUID(int=7), payload={"by": "ann"}, actor="ann"
    )

    assert told(slept) == [("nap", "sleeping", "for 0:01:30")]
    assert told(slept, fired, done("nap")) == [("nap", "succeeded", "for 0:01:30")]
    assert told(awaited, received, done("approval")) == [
        ("approval", "succeeded", "signal yes, 5.00 s"),
        ("saga", "signal", 'yes {"by": "ann"} (by ann)'),
    ]
    late = StepFailed(
        at=later(5), step="approval", attempt=1, error_type="SignalTimeout", message="too late"
    )
    over = TimerFired(at=later(5), step="approval")
    assert told(awaited, over, late)[0] == (
        "approval",
        "failed",
        "signal yes, 5.00 s; its time was over; SignalTimeout: too late",
    )


def test_a_child_is_named_when_it_starts_and_when_it_is_undone() -> None:
    child = UUID(int=9)
    started = ChildStarted(
        at=T0, step="ship", child_id=child, saga_name="shipping", version=1, context={}
    )
    ended = ChildEnded(at=later(2), step="ship", child_id=child, status="COMPLETED")
    back = CompensationStarted(at=later(2), reason=TurnReason.CANCELLED, message="a whim")
    undo = StepCompensationStarted(
        at=later(2),
        step="ship",
        attempt=1,
        idempotency_key="k",
        outcome=Outcome.SUCCEEDED,
        child_id=child,
    )
    undone = ChildEnded(at=later(3), step="ship", child_id=child, status="COMPENSATED")
    compensated = StepCompensated(at=later(3), step="ship", attempt=1)

    lines = lines_of([started, ended, done("ship", at=later(2)), back, undo, undone, compensated])

    assert [(line.subject, line.outcome, line.detail, line.child_id) for line in lines] == [
        ("ship", "succeeded", f"shipping {child}; COMPLETED", child),
        ("saga", "goes back", "cancelled", None),
        ("undo ship #1", "compensated", "COMPENSATED", child),
    ]
    assert [line.took for line in lines] == [2 * SECOND, None, SECOND]


def test_what_people_do_is_told_with_who_and_why() -> None:
    resolved = StepResolved(
        at=T0, step="pay", resolution=Resolution.SUCCEEDED, reason="the bank says", actor="ann"
    )
    events: list[SagaEvent] = [
        StepSkipped(at=T0, step="mail"),
        StepSkipped(at=T0, step="fax", reason="no fax", actor="ann"),
        resolved,
        SagaRetried(at=T0, steps=("pay",), reason="again", actor="ann"),
        UndoRequested(at=T0, reason="returned", actor="ann"),
        SagaFailed(at=T0, uncompensated=("pay",), reason="enough", actor="ann"),
    ]

    assert told(*events) == [
        ("mail", "skipped", ""),
        ("fax", "skipped", "no fax (by ann)"),
        ("pay", "resolved as succeeded", "the bank says (by ann)"),
        ("saga", "retried", "pay: again (by ann)"),
        ("saga", "undo requested", "returned (by ann)"),
        ("saga", "given up", "enough (by ann); left as it is: pay"),
    ]


def test_hooks_and_parents_are_told_too() -> None:
    started = SagaStarted(
        at=T0,
        saga_name="shipping",
        version=1,
        fingerprint="f",
        context={},
        correlation_id="c",
        parent_id=SAGA,
        parent_step="ship",
    )
    hook = Hook.ON_COMPLETED
    failed = HookFailed(
        at=T0, hook=hook, attempt=1, error_type="OSError", message="down", retry_at=later(1)
    )

    assert told(started, failed, HookDelivered(at=later(1), hook=hook, attempt=2)) == [
        ("saga", "started", f"by ship of {SAGA}"),
        ("saga", "not told", "on_completed #1: OSError: down"),
        ("saga", "told", "on_completed"),
    ]


def test_a_redaction_says_what_and_why() -> None:
    redacted = DataRedacted(
        at=T0, path="customer.email", reason="forgotten", actor="bob", events={1: "00"}
    )
    assert told(redacted) == [("saga", "redacted", "customer.email: forgotten (by bob)")]


# -- many items ---------------------------------------------------------------------------


def of_many(count: int, failing: frozenset[int]) -> list[SagaEvent]:
    events: list[SagaEvent] = [ForEachStarted(at=T0, step="mails", items=tuple(range(count)))]
    for index in range(count):
        name = item_name("mails", index)
        events.append(begun(name, at=later(index)))
        if index in failing:
            events.append(
                StepFailed(
                    at=later(index + 1), step=name, attempt=1, error_type="Bounced", message=""
                )
            )
        else:
            events.append(done(name, at=later(index + 1)))
    return events


def test_ten_thousand_items_are_a_few_lines_and_those_that_failed_are_shown() -> None:
    lines = lines_of(of_many(10_000, frozenset({17, 4711})))
    assert len(lines) == 10_001

    short = summary(lines)

    assert [(line.subject, line.outcome, line.detail) for line in short] == [
        ("mails", "running", "10,000 items"),
        ("mails", "succeeded", "9,998 items"),
        ("mails[17] #1", "failed", "Bounced"),
        ("mails[4711] #1", "failed", "Bounced"),
    ]
    assert short[1].took == 10_000 * SECOND


def test_of_very_many_that_failed_the_first_are_shown_and_the_others_counted() -> None:
    short = summary(lines_of(of_many(500, frozenset(range(500)))))

    assert len(short) == 12
    assert (short[-1].subject, short[-1].outcome, short[-1].detail) == (
        "mails",
        "failed",
        "490 more",
    )


def test_a_few_items_stay_as_they_are() -> None:
    lines = lines_of(of_many(5, frozenset()))

    assert summary(lines) == lines

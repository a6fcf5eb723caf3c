"""Which events stand for their stored names? One each, with every optional field filled in."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from eventsaga.core import events as ev
from eventsaga.core.definition import Hook

AT: Final = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
LATER: Final = AT + timedelta(seconds=90)
CHILD: Final = UUID("44444444-4444-8444-8444-444444444444")

CONTEXT: Final[dict[str, Any]] = {
    "order_id": "order-4711",
    "total": "12.50",
    "note": "Grüße, 世界 🚀",
    "express": True,
    "coupon": None,
    "items": [{"sku": "A-1", "count": 2, "weight": 0.25}],
}

SAMPLES: Final[tuple[ev.SagaEvent, ...]] = (
    ev.SagaStarted(
        at=AT,
        saga_name="order",
        version=3,
        fingerprint="0123456789abcdef0123456789abcdef",
        context=CONTEXT,
        correlation_id="request-17",
        key="order-4711",
        deadline_at=LATER,
    ),
    ev.StepStarted(
        at=AT,
        step="reserve_inventory",
        attempt=2,
        idempotency_key="01890000-0000-7000-8000-000000000001/reserve_inventory",
    ),
    ev.StepSucceeded(
        at=AT,
        step="reserve_inventory",
        attempt=2,
        result={"reservation_id": "r-9", "cleared": None},
        conflict="'reserve_inventory' and 'ship' returned different values for reservation_id",
    ),
    ev.StepFailed(
        at=AT,
        step="process_payment",
        attempt=1,
        error_type="CardDeclinedError",
        message="card declined",
        retry_at=LATER,
        effect_happened=True,
    ),
    ev.StepInDoubt(
        at=AT,
        step="process_payment",
        attempt=1,
        operation=ev.Operation.EXECUTE,
        error_type="TimeoutError",
        message="no result after 10 s; it may yet take effect",
        interrupted=True,
        retry_at=LATER,
    ),
    ev.CompensationStarted(
        at=AT,
        reason=ev.TurnReason.STEP_FAILED,
        because_of="process_payment",
        message="card declined",
    ),
    ev.StepCompensationStarted(
        at=AT,
        step="reserve_inventory",
        attempt=1,
        idempotency_key="01890000-0000-7000-8000-000000000001/reserve_inventory/compensate",
        outcome=ev.Outcome.UNKNOWN,
    ),
    ev.StepCompensated(at=AT, step="reserve_inventory", attempt=1, result={"reservation_id": None}),
    ev.StepCompensationFailed(
        at=AT,
        step="reserve_inventory",
        attempt=1,
        error_type="HTTPStatusError",
        message="POST http://inventory/release answered 500 Internal Server Error",
        retry_at=LATER,
    ),
    ev.SagaCancelRequested(at=AT, reason="the customer called", actor="ada@example.org"),
    ev.SagaDeadlineExceeded(at=AT, deadline_at=AT - timedelta(seconds=1)),
    ev.SagaRecovered(
        at=AT,
        worker_id=UUID("11111111-1111-4111-8111-111111111111"),
        previous_worker_id=UUID("22222222-2222-4222-8222-222222222222"),
    ),
    ev.SagaParked(
        at=AT,
        reason=ev.ParkReason.COMPENSATION_FAILED,
        steps=("process_payment", "reserve_inventory"),
        message="2 compensations gave up",
        remedy="undo them by hand",
    ),
    ev.VerificationStarted(at=AT, step="process_payment", attempt=2),
    ev.StepSkipped(at=AT, step="gift_wrap", reason="no paper left", actor="ada@example.org"),
    ev.ForEachStarted(
        at=AT,
        step="pack",
        items=({"sku": "A-1", "count": 2, "note": None}, "Grüße", 3, 0.5, None, [True]),
        into="parcels",
    ),
    ev.TimerStarted(at=AT, step="cool_down", fire_at=LATER),
    ev.TimerFired(at=AT, step="cool_down"),
    ev.SignalAwaited(at=AT, step="approval", signal="approved", timeout_at=LATER),
    ev.SignalReceived(
        at=AT,
        signal="approved",
        id=UUID("33333333-3333-4333-8333-333333333333"),
        payload={"by": "Grace", "limit": "500.00"},
        actor="grace@example.org",
    ),
    ev.ChildStarted(
        at=AT,
        step="delivery",
        child_id=CHILD,
        saga_name="delivery",
        version=2,
        context={"address": "Straße 1"},
    ),
    ev.ChildEnded(
        at=AT, step="delivery", child_id=CHILD, status="COMPENSATED", message="no driver"
    ),
    ev.SagaRetried(
        at=AT, steps=("process_payment",), reason="the bank is back", actor="ada@example.org"
    ),
    ev.StepResolved(
        at=AT,
        step="process_payment",
        resolution=ev.Resolution.SUCCEEDED,
        result={"transaction_id": "t-7"},
        reason="seen on the statement",
        actor="ada@example.org",
        pivot=True,
    ),
    ev.UndoRequested(at=AT, reason="a duplicate", actor="ada@example.org"),
    ev.SagaFailed(
        at=AT, uncompensated=("reserve_inventory",), reason="written off", actor="ada@example.org"
    ),
    ev.HookDelivered(at=AT, hook=Hook.ON_COMPLETED, attempt=2),
    ev.DataRedacted(
        at=AT,
        path="customer.email",
        reason="asked to be forgotten",
        actor="ada@example.org",
        events={1: "5f" * 32, 12: "a0" * 32},
    ),
    ev.HookFailed(
        at=AT,
        hook=Hook.ON_PARKED,
        attempt=1,
        error_type="ConnectError",
        message="the pager did not answer",
        retry_at=LATER,
    ),
    ev.SagaAccepted(at=AT, context=CONTEXT, deadline_at=LATER),
    ev.SagaCompleted(at=AT),
    ev.SagaCompensated(at=AT),
)

# What was added to an event after it had been stored without it, by what is new in it.
ADDITIONS: Final[dict[str, ev.SagaEvent]] = {
    "SagaStarted.parent": ev.SagaStarted(
        at=AT,
        saga_name="delivery",
        version=2,
        fingerprint="fedcba9876543210fedcba9876543210",
        context=CONTEXT,
        correlation_id="request-17",
        parent_id=UUID("01890000-0000-7000-8000-000000000001"),
        parent_step="delivery",
    ),
    "SagaStarted.input": ev.SagaStarted(
        at=AT,
        saga_name="order",
        version=3,
        fingerprint="0123456789abcdef0123456789abcdef",
        context={},
        correlation_id="request-17",
        input='{"order_id": "order-4711"}',
    ),
    "StepSucceeded.pivot": ev.StepSucceeded(at=AT, step="process_payment", attempt=1, pivot=True),
    "StepFailed.interrupted": ev.StepFailed(
        at=AT,
        step="book",
        attempt=1,
        error_type="WorkerLost",
        message="the worker's lease ended during the attempt",
        interrupted=True,
        then=ev.Next.PARK,
    ),
    "StepInDoubt.then": ev.StepInDoubt(
        at=AT,
        step="process_payment",
        attempt=1,
        operation=ev.Operation.EXECUTE,
        error_type="TimeoutError",
        message="no result after 10 s; it may yet take effect",
        retry_at=LATER,
        then=ev.Next.VERIFY,
    ),
    "StepCompensationStarted.child": ev.StepCompensationStarted(
        at=AT,
        step="delivery",
        attempt=1,
        idempotency_key="01890000-0000-7000-8000-000000000001/delivery/compensate",
        outcome=ev.Outcome.SUCCEEDED,
        child_id=CHILD,
    ),
    "StepCompensationFailed.interrupted": ev.StepCompensationFailed(
        at=AT,
        step="book",
        attempt=1,
        error_type="WorkerLost",
        message="the worker's lease ended during the attempt",
        retry_at=LATER,
        interrupted=True,
    ),
}

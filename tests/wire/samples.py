"""Which events stand for their stored names? One each, with every optional field filled in."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from eventsaga.core import events as ev

AT: Final = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
LATER: Final = AT + timedelta(seconds=90)

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
    ev.SagaCompleted(at=AT),
    ev.SagaCompensated(at=AT),
)

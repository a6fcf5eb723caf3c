"""Scene 4: the worker is killed with 50 orders in its hands."""

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from eventsaga.client import SagaHandle
from eventsaga.core.state import Status
from eventsaga.demo.checks import (
    Check,
    check_completed,
    check_statuses,
    effects_of,
    interrupted_keys,
    recovered_at,
)
from eventsaga.demo.crew import LEASE_ENVIRONMENT, WorkerProcess
from eventsaga.demo.order import Order
from eventsaga.demo.report import Scene
from eventsaga.demo.scenes.one import PATIENCE_SECONDS
from eventsaga.demo.stage import Stage
from eventsaga.store.ports import StoredEvent

ORDERS: Final = 50

# Then some charges are in the ledger whose answers are still on their way to the worker.
_ENOUGH_CHARGES: Final = 10
_LOOK_SECONDS: Final = 0.02
_SHOW_SECONDS: Final = 0.1

_CHARGES: Final = "SELECT count(*) FROM demo_payments.ledger WHERE order_id = ANY ($1::text[])"
_RUNNING: Final = """
SELECT count(*) FROM eventsaga.sagas s JOIN eventsaga.workers w ON w.worker_id = s.owner
 WHERE s.saga_id = ANY ($1::uuid[]) AND s.status = 'RUNNING' AND w.pid = $2
"""
_SETTLED: Final = """
SELECT count(*) FROM eventsaga.sagas WHERE saga_id = ANY ($1::uuid[]) AND owner IS NULL
   AND status IN ('COMPLETED', 'COMPENSATED', 'PARKED', 'FAILED')
"""
_TAKEN_BY: Final = """
SELECT DISTINCT w.pid
  FROM eventsaga.events e
  JOIN eventsaga.workers w USING (worker_id)
 WHERE e.saga_id = ANY ($1::uuid[]) AND e.type = 'SagaRecovered'
"""
_NOW: Final = "SELECT clock_timestamp()"


async def kill_the_worker(stage: Stage, scene: Scene) -> None:
    """Kill the worker in the middle of 50 orders, start another, and find each effect once."""
    orders = [stage.order(f"bulk-{number:02}") for number in range(1, ORDERS + 1)]
    handles = await _start(stage, scene, orders)
    killed_at = await _kill(stage, scene, orders)
    began = time.monotonic()
    stage.worker = WorkerProcess(stage.place.url, stage.urls)
    await stage.worker.spawn()
    await _watch(stage, scene.sagas)
    finished = time.monotonic() - began
    histories = {handle.id: await handle.history() for handle in handles}
    shown = await _tell_of_the_takeover(stage, scene, orders, histories, killed_at)
    scene.measure(
        "all_settled_after",
        finished,
        f"All {ORDERS} orders settled {finished:.1f} s after the kill.",
    )
    scene.show(histories[shown])
    scene.check(
        Check(
            "processes that took orders over",
            [stage.worker.pid],
            [row["pid"] for row in await stage.db.fetch(_TAKEN_BY, scene.sagas)],
        ),
        await check_statuses(stage.db, scene.sagas, Status.COMPLETED),
        *await check_completed(stage.db, orders),
    )


async def _start(stage: Stage, scene: Scene, orders: Sequence[Order]) -> list[SagaHandle]:
    """Start all orders, and then again: a key starts a saga once."""
    keys = [order.order_id for order in orders]
    handles = await stage.orchestrator.start_many("order", orders, keys=keys)
    again = await stage.orchestrator.start_many("order", orders, keys=keys)
    scene.sagas.extend(handle.id for handle in handles)
    scene.check(
        Check("sagas started", ORDERS, sum(handle.created for handle in handles)),
        Check("more sagas by starting all of them again", 0, sum(h.created for h in again)),
    )
    return handles


async def _kill(stage: Stage, scene: Scene, orders: Sequence[Order]) -> datetime:
    """Kill the worker as soon as some cards are charged, and return when that was."""
    order_ids = [order.order_id for order in orders]
    worker = stage.worker
    with stage.console.status("waiting until the orders are under way…"):
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await stage.db.fetchval(_CHARGES, order_ids) < _ENOUGH_CHARGES:
                worker.require_running()
                await asyncio.sleep(_LOOK_SECONDS)
    killed_at: datetime = await stage.db.fetchval(_NOW)
    await worker.kill()
    running: int = await stage.db.fetchval(_RUNNING, scene.sagas, worker.pid)
    await worker.stop()
    scene.say(f"kill -9 {worker.pid}")
    scene.check(Check("orders that the killed worker was running", ORDERS, running))
    return killed_at


async def _watch(stage: Stage, saga_ids: Sequence[UUID]) -> None:
    """Return when all sagas have settled.

    Raises:
        TimeoutError: If they do not.
        WorkerEndedError: If the new worker ends by itself.
    """
    columns = (TextColumn("    orders settled"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=stage.console, transient=True) as progress:
        task = progress.add_task("", total=len(saga_ids))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (settled := await stage.db.fetchval(_SETTLED, saga_ids)) < len(saga_ids):
                progress.update(task, completed=settled)
                stage.worker.require_running()
                await asyncio.sleep(_SHOW_SECONDS)
        progress.update(task, completed=len(saga_ids))


async def _tell_of_the_takeover(
    stage: Stage,
    scene: Scene,
    orders: Sequence[Order],
    histories: dict[UUID, tuple[StoredEvent, ...]],
    killed_at: datetime,
) -> UUID:
    """Tell what the events say of the takeover, and return the saga that shows it best."""
    taken = {saga_id: recovered_at(history) for saga_id, history in histories.items()}
    waits = [(at - killed_at).total_seconds() for at in taken.values() if at is not None]
    scene.check(Check("orders that were taken over", ORDERS, len(waits)))
    if waits:
        lease, poll = LEASE_ENVIRONMENT["EVENTSAGA_LEASE"], LEASE_ENVIRONMENT["EVENTSAGA_POLL"]
        scene.measure(
            "takeover",
            max(waits),
            f"All taken over {max(waits):.2f} s after the kill, with the new worker's start: on "
            "the same machine it sees that the old one is gone. A worker elsewhere waits for the "
            f"lease and a poll (here {lease} s and {poll} s; by default 10 s and 1 s).",
        )
    interrupted = {
        key: saga_id for saga_id, history in histories.items() for key in interrupted_keys(history)
    }
    unknown = [
        interrupted[effect.idempotency_key]
        for effect in await effects_of(stage.db, [order.order_id for order in orders])
        if effect.idempotency_key in interrupted
        and effect.applied_at < (taken[interrupted[effect.idempotency_key]] or killed_at)
    ]
    scene.measured["interrupted"] = len(interrupted)
    scene.measure(
        "applied_unseen",
        len(unknown),
        f"{len(interrupted)} attempts were cut short; {len(unknown)} of them had taken effect, "
        "and no worker had recorded it.",
    )
    # Ordered by time: the last one is most likely a charge.
    return (unknown or [*histories])[-1]

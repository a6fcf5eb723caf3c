"""Did everything happen once, and was it known? The tables held against the ledger."""

from collections.abc import Iterator, Sequence

from eventsaga import Orchestrator
from eventsaga.client.verify import verify
from eventsaga.core.events import (
    SagaRecovered,
    StepCompensated,
    StepCompensationStarted,
    StepFailed,
    StepStarted,
    StepSucceeded,
)
from eventsaga.store.ports import SagaRow, StoredEvent
from tests.acceptance.crash.participant import Participant
from tests.acceptance.crash.program import LAST, STEPS, crash_saga


async def violations(orchestrator: Orchestrator, participant: Participant) -> list[str]:
    """Return what must not be: in the tables, in the ledger, and between the two."""
    found = [str(violation) async for violation in verify(orchestrator.store)]
    for row in await orchestrator.list(name=crash_saga.name, limit=10_000):
        history = await orchestrator.history(row.saga_id)
        found += _of_one_saga(row, history, participant)
    return found


def _of_one_saga(
    row: SagaRow, history: Sequence[StoredEvent], participant: Participant
) -> Iterator[str]:
    number = row.context["number"]
    for step in (*STEPS, LAST):
        did = participant.applied.get(("do", step, number), [])
        undid = participant.applied.get(("undo", step, number), [])
        yield from _keys(row, step, did, undid)
        yield from _intents(row, step, history, did, undid)
        if row.status == "COMPLETED" and (len(did), len(undid)) != (1, 0):
            yield f"{number}: completed, but {step} was done {len(did)} and undone {len(undid)}"
        if row.status == "COMPENSATED" and did and not undid:
            yield f"{number}: compensated, but {step} was not undone"
    yield from _writers(row, history)
    yield from _undone_once(row, history)


def _keys(row: SagaRow, step: str, did: Sequence[str], undid: Sequence[str]) -> Iterator[str]:
    """Invariants 7 and 9: one key for an operation, and one effect for a key."""
    if did not in ([], [f"{row.saga_id}/{step}"]):
        yield f"{step} was done under {did}"
    if undid not in ([], [f"{row.saga_id}/{step}/compensate"]):
        yield f"{step} was undone under {undid}"


def _intents(
    row: SagaRow,
    step: str,
    history: Sequence[StoredEvent],
    did: Sequence[str],
    undid: Sequence[str],
) -> Iterator[str]:
    """Invariant 6: what was done was meant to be; and what succeeded was done."""
    events = [stored.event for stored in history]
    meant = any(isinstance(event, StepStarted) and event.step == step for event in events)
    undo_meant = any(
        isinstance(event, StepCompensationStarted) and event.step == step for event in events
    )
    succeeded = any(isinstance(event, StepSucceeded) and event.step == step for event in events)
    compensated = any(isinstance(event, StepCompensated) and event.step == step for event in events)
    if (did and not meant) or (undid and not undo_meant):
        yield f"{row.saga_id}: {step} took effect without an intent"
    if (succeeded and not did) or (compensated and not undid):
        yield f"{row.saga_id}: {step} is recorded and was never done"


def _writers(row: SagaRow, history: Sequence[StoredEvent]) -> Iterator[str]:
    """Invariant 14: a saga changes hands by a takeover, or between two attempts."""
    running: set[str] = set()
    writer = history[0].worker_id
    for stored in history[1:]:
        event = stored.event
        if stored.worker_id != writer and running and not isinstance(event, SagaRecovered):
            yield f"{row.saga_id}: event {stored.seq} by {stored.worker_id}, not by {writer}"
        writer = stored.worker_id
        if isinstance(event, StepStarted | StepCompensationStarted):
            running.add(event.step)
        elif isinstance(event, StepSucceeded | StepFailed | StepCompensated):
            running.discard(event.step)


def _undone_once(row: SagaRow, history: Sequence[StoredEvent]) -> Iterator[str]:
    """Invariant 13."""
    undone = [stored.event.step for stored in history if isinstance(stored.event, StepCompensated)]
    if len(undone) != len(set(undone)):
        yield f"{row.saga_id}: compensated twice: {undone}"

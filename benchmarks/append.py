"""What does the engine cost without steps? Decide, encode, hash and append; no attempts run."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from benchmarks.workload import RESULT, new_order, order_saga
from eventsaga import Settings
from eventsaga.core.commands import RecordSuccess, StartSaga, Wake
from eventsaga.core.decide import transition
from eventsaga.core.react import RunStep, react
from eventsaga.core.state import State
from eventsaga.store.ports import Append, AppendResult, Committed, Start, Started, StartResult
from eventsaga.store.postgres.store import PostgresStore


class _Batch:
    """Sagas that drive themselves: each answer is the next append."""

    def __init__(self, store: PostgresStore, worker_id: UUID, total: int) -> None:
        self.store = store
        self.worker_id = worker_id
        self.left = total
        self.unfinished = total
        self.finished = asyncio.Event()

    def begin(self) -> None:
        if self.left:
            self.left -= 1
            _Saga(self)

    def end(self) -> None:
        self.unfinished -= 1
        self.begin()
        if not self.unfinished:
            self.finished.set()


class _Saga:
    def __init__(self, batch: _Batch) -> None:
        self._batch = batch
        now = datetime.now(UTC)
        context = new_order().model_dump(mode="json")
        command = StartSaga(at=now, context=context, correlation_id="benchmark")
        started = transition(order_saga.definition, State(uuid4()), command)
        first = transition(order_saga.definition, started.state, Wake(at=now))
        self._state = first.state
        self._hash = b""
        batch.store.start(
            Start(
                events=started.events + first.events,
                state=first.state,
                owned=True,
                digest=b"",
                done=self._started,
            ),
            batch.worker_id,
        )

    def _started(self, result: StartResult) -> None:
        assert isinstance(result, Started)
        self._hash = result.last_hash
        self._next()

    def _appended(self, result: AppendResult) -> None:
        assert isinstance(result, Committed)
        self._hash = result.last_hash
        self._next()

    def _next(self) -> None:
        effects = react(order_saga.definition, self._state)
        if not effects:
            self._batch.end()
            return
        effect = effects[0]
        assert isinstance(effect, RunStep)
        before = self._state
        command = RecordSuccess(
            at=datetime.now(UTC),
            step=effect.step,
            attempt=effect.attempt,
            operation=effect.operation,
            result={effect.step: RESULT},
        )
        decided = transition(order_saga.definition, before, command)
        self._state = decided.state
        self._batch.store.append(
            Append(
                expected=before.seq,
                previous_hash=self._hash,
                events=decided.events,
                state=decided.state,
                done=self._appended,
            ),
            self._batch.worker_id,
        )


async def run_append_path(
    url: str, total: int, in_flight: int, clock: Callable[[], float]
) -> float:
    """Append the events of *total* sagas and return the seconds it took."""
    async with PostgresStore(url, Settings()) as store:
        worker_id = uuid4()
        await store.register_worker(worker_id, timedelta(minutes=10), ())
        batch = _Batch(store, worker_id, total)
        began = clock()
        for _ in range(in_flight):
            batch.begin()
        await batch.finished.wait()
        seconds = clock() - began
        await store.release(worker_id)
        return seconds

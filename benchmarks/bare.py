"""How fast could it be? A bare asyncpg loop that commits the same rows in groups.

No registry, no retries, no validation: per saga the 12 events of the order saga with
intents, salts and hash chain, in six guarded appends of events and projection row, over
two writer connections. It uses eventsaga's tables and statements, so that only the code
around them differs.
"""

import asyncio
import json
import os
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from benchmarks.workload import RESULT, STEPS, new_order
from eventsaga.store.postgres.append import APPEND
from eventsaga.store.postgres.start import START

Row = tuple[Any, ...]


class BareSaga:
    """A saga as a counter: which step comes next, and the head of its chain."""

    def __init__(self) -> None:
        self.saga_id = uuid4()
        self.seq = 0
        self.step = 0
        self.hash = bytes(32)
        self.context = new_order().model_dump()

    def rows(self, events: list[tuple[str, dict[str, Any]]], now: datetime) -> list[Row]:
        """Return *events* as rows behind the chain."""
        rows: list[Row] = []
        instant = int(now.timestamp() * 1e6).to_bytes(8, "big")
        for name, data in events:
            self.seq += 1
            text, salt = json.dumps(data), os.urandom(16)
            head = self.hash + self.saga_id.bytes + self.seq.to_bytes(4, "big") + name.encode()
            body = sha256(salt + text.encode()).digest()
            self.hash = sha256(head + instant + body).digest()
            rows.append((self.saga_id, self.seq, name, 1, text, now, salt, self.hash))
        return rows

    def intent(self) -> tuple[str, dict[str, Any]]:
        """Return the start of the next step."""
        name = STEPS[self.step]
        return "StepStarted", {
            "step": name,
            "attempt": 1,
            "idempotency_key": f"{self.saga_id}/{name}",
        }

    def advance(self, now: datetime) -> tuple[Row, list[Row]]:
        """Return the row and the events of the next append."""
        expected, name = self.seq, STEPS[self.step]
        events: list[tuple[str, dict[str, Any]]] = [
            ("StepSucceeded", {"step": name, "attempt": 1, "result": {name: RESULT}})
        ]
        self.context[name] = RESULT
        self.step += 1
        done = self.step == len(STEPS)
        events.append(("SagaCompleted", {}) if done else self.intent())
        rows = self.rows(events, now)
        return (
            self.saga_id,
            expected,
            self.seq,
            self.hash,
            "COMPLETED" if done else "RUNNING",
            "" if done else STEPS[self.step],
            json.dumps(self.context) if done else None,
            None,
            now,
            done,
            None,
            True,
        ), rows

    def start(self, now: datetime) -> tuple[Row, list[Row]]:
        """Return the row and the events of the first commit."""
        context = json.dumps(self.context)
        rows = self.rows([("SagaStarted", {"context": self.context}), self.intent()], now)
        return (
            self.saga_id,
            "bench_bare",
            1,
            "",
            "RUNNING",
            STEPS[0],
            context,
            str(self.saga_id),
            self.seq,
            self.hash,
            now,
            now,
            True,
            None,
            b"",
        ), rows


def _columns(rows: list[Row], width: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]


class _Loop:
    """Two writers that take whatever has queued, and sagas that queue again when told."""

    def __init__(self, total: int) -> None:
        self.worker_id = uuid4()
        self.left = total
        self.unfinished = total
        self.starts: deque[BareSaga] = deque()
        self.appends: deque[BareSaga] = deque()
        self.work = asyncio.Event()
        self.finished = asyncio.Event()

    def begin(self) -> None:
        if self.left:
            self.left -= 1
            self.starts.append(BareSaga())
            self.work.set()

    async def write(self, connection: "asyncpg.Connection[Any]", most: int) -> None:
        while True:
            await self.work.wait()
            for queue, send in ((self.starts, self._start), (self.appends, self._append)):
                batch = [queue.popleft() for _ in range(min(most, len(queue)))]
                if batch:
                    await send(connection, batch)
            if not self.starts and not self.appends:
                self.work.clear()

    async def _start(self, connection: "asyncpg.Connection[Any]", batch: list[BareSaga]) -> None:
        now = datetime.now(UTC)
        pairs = [saga.start(now) for saga in batch]
        await connection.fetch(
            START,
            *_columns([row for row, _ in pairs], 15),
            self.worker_id,
            *_columns([event for _, events in pairs for event in events], 8),
        )
        self.appends.extend(batch)
        self.work.set()

    async def _append(self, connection: "asyncpg.Connection[Any]", batch: list[BareSaga]) -> None:
        now = datetime.now(UTC)
        pairs = [saga.advance(now) for saga in batch]
        taken: list[Any] = await connection.fetch(
            APPEND,
            *_columns([row for row, _ in pairs], 12),
            self.worker_id,
            list[UUID](),
            list[UUID](),
            *_columns([event for _, events in pairs for event in events], 8),
        )
        assert len(taken) == len(batch), "nobody else writes here"
        for saga in batch:
            if saga.step < len(STEPS):
                self.appends.append(saga)
            else:
                self.unfinished -= 1
                self.begin()
        if not self.unfinished:
            self.finished.set()
        self.work.set()


async def run_bare(url: str, total: int, in_flight: int, clock: Callable[[], float]) -> float:
    """Run *total* bare sagas, *in_flight* at a time, and return the seconds they took."""
    connections = [await asyncpg.connect(url) for _ in range(2)]
    loop = _Loop(total)
    began = clock()
    for _ in range(in_flight):
        loop.begin()
    writers = [asyncio.create_task(loop.write(connection, 200)) for connection in connections]
    await loop.finished.wait()
    seconds = clock() - began
    for writer in writers:
        writer.cancel()
    await asyncio.gather(*writers, return_exceptions=True)
    for connection in connections:
        await connection.close()
    return seconds

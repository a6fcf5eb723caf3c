"""How fast could it be? A bare asyncpg loop that commits the same rows in groups.

No registry, no retries, no validation: per saga the 12 events of the order saga with
intents, salts and hash chain, in six guarded appends of events and projection row, over
two writer connections. It uses eventsaga's tables, and the plainest statements that write
these rows with their fence.
"""

import asyncio
import json
import os
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final
from uuid import uuid4

import asyncpg

from benchmarks.workload import RESULT, STEPS, new_order

_EVENTS: Final = """
INSERT INTO eventsaga.events
       (saga_id, seq, type, schema_version, data, occurred_at, salt, hash, worker_id)
SELECT e.*, $1::uuid
  FROM unnest($2::uuid[], $3::int[], $4::text[], $5::smallint[], $6::json[], $7::timestamptz[],
              $8::bytea[], $9::bytea[])
           AS e(saga_id, seq, type, schema_version, data, occurred_at, salt, hash)
"""

START: Final = f"""
WITH started AS (
    INSERT INTO eventsaga.sagas
           (saga_id, name, version, fingerprint, status, current_steps, context, correlation_id,
            last_seq, last_hash, created_at, updated_at, owner)
    SELECT saga_id, name, 1, '', 'RUNNING', ARRAY[step], context, correlation_id, last_seq,
           last_hash, at, at, $1::uuid
      FROM unnest($10::uuid[], $11::text[], $12::text[], $13::json[], $14::text[], $15::int[],
                  $16::bytea[], $17::timestamptz[])
           AS g(saga_id, name, step, context, correlation_id, last_seq, last_hash, at)
)
{_EVENTS}
"""

APPEND: Final = f"""
WITH moved AS (
    UPDATE eventsaga.sagas s
       SET last_seq = m.last_seq, last_hash = m.last_hash, status = m.status,
           current_steps = string_to_array(m.step, ','),
           context = coalesce(m.context, s.context), updated_at = m.at,
           owner = CASE WHEN m.done THEN NULL ELSE s.owner END
      FROM unnest($10::uuid[], $11::int[], $12::int[], $13::bytea[], $14::text[], $15::text[],
                  $16::json[], $17::timestamptz[], $18::bool[])
           AS m(saga_id, expected, last_seq, last_hash, status, step, context, at, done)
     WHERE s.saga_id = m.saga_id AND s.last_seq = m.expected AND s.owner = $1::uuid
 RETURNING s.saga_id
)
{_EVENTS} JOIN moved USING (saga_id)
"""

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
            now,
            done,
        ), rows

    def start(self, now: datetime) -> tuple[Row, list[Row]]:
        """Return the row and the events of the first commit."""
        context = json.dumps(self.context)
        rows = self.rows([("SagaStarted", {"context": self.context}), self.intent()], now)
        correlation_id = str(self.saga_id)
        return (
            self.saga_id,
            "bench_bare",
            STEPS[0],
            context,
            correlation_id,
            self.seq,
            self.hash,
            now,
        ), rows


def _columns(rows: list[Row]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


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
        await self._send(connection, START, [saga.start(now) for saga in batch])
        self.appends.extend(batch)
        self.work.set()

    async def _send(
        self,
        connection: "asyncpg.Connection[Any]",
        statement: str,
        pairs: list[tuple[Row, list[Row]]],
    ) -> None:
        events = [event for _, events in pairs for event in events]
        rows = [row for row, _ in pairs]
        done = await connection.execute(
            statement, self.worker_id, *_columns(events), *_columns(rows)
        )
        assert done == f"INSERT 0 {len(events)}", "nobody else writes here"

    async def _append(self, connection: "asyncpg.Connection[Any]", batch: list[BareSaga]) -> None:
        now = datetime.now(UTC)
        await self._send(connection, APPEND, [saga.advance(now) for saga in batch])
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
    finished = asyncio.create_task(loop.finished.wait())
    await asyncio.wait([finished, *writers], return_when=asyncio.FIRST_COMPLETED)
    seconds = clock() - began
    for writer in writers:
        if writer.done():
            await writer  # it never ends but by an error
    for writer in writers:
        writer.cancel()
    await asyncio.gather(*writers, return_exceptions=True)
    for connection in connections:
        await connection.close()
    return seconds

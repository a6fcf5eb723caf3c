"""What is a step given? Who it is, which key it has, and a client that sends both."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Literal
from uuid import UUID

import httpx
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from eventsaga.core.state import Phase, StepState
from eventsaga.errors import DefinitionError
from eventsaga.observe import trace
from eventsaga.observe.log import logger
from eventsaga.runtime.http import CORRELATION_ID, IDEMPOTENCY_KEY, step_client
from eventsaga.store.ports import Transaction


class Results(Mapping[str, Mapping[str, Any]]):
    """What the steps of a saga have returned, by name; seen, not copied.

    Args:
        steps: The steps of the saga's state.
    """

    def __init__(self, steps: Mapping[str, StepState]) -> None:
        self._steps = steps

    def __getitem__(self, name: str) -> Mapping[str, Any]:
        step = self._steps[name]
        if step.phase is not Phase.SUCCEEDED or step.result is None:
            raise KeyError(name)
        return step.result

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._steps if name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True, kw_only=True)
class StepContext:
    """One attempt of a step, as its function sees it.

    Attributes:
        saga_id: The saga.
        saga_name: Its definition.
        step: The step.
        attempt: Counts from 1, attempts cut short by a crash included.
        idempotency_key: The same for every attempt, process and restart; the compensation
            has another one.
        correlation_id: The same for all calls of the saga.
        deadline: After this the saga is compensated; None for never.
        timeout: Limit of this attempt.
        outcome: In a compensation, what is known of the effect: ``"unknown"`` if it may
            or may not have happened. ``"succeeded"`` otherwise.
        result: In a compensation, what the step returned; None if it is not known.
        results: What other steps have returned so far, by name: payloads of signals and
            patches of the context.
        item: In a step of a `ForEach`, the item that it is for, as JSON data.
        index: In a step of a `ForEach`, the number of the item, counting from 0.
        trace: The trace context in which the saga was started; None for one of its own. See
            `traceparent`.
    """

    saga_id: UUID
    saga_name: str
    step: str
    attempt: int
    idempotency_key: str
    correlation_id: str
    deadline: datetime | None
    timeout: timedelta
    outcome: Literal["succeeded", "unknown"]
    result: Mapping[str, Any] | None
    results: Mapping[str, Mapping[str, Any]]
    transport: httpx.AsyncBaseTransport
    item: Any = None
    index: int | None = None
    transaction: Transaction | None = None
    trace: str | None = None

    @property
    def connection(self) -> AsyncConnection:
        """In a transactional step: SQLAlchemy's connection, with the transaction open.

        What is written on it is committed together with the step's result, or not at all.

        Raises:
            DefinitionError: If the step is not transactional.
        """
        connection: AsyncConnection = self._transaction.connection
        return connection

    @property
    def session(self) -> AsyncSession:
        """In a transactional step: an `AsyncSession` on `connection`.

        Raises:
            DefinitionError: If the step is not transactional.
        """
        session: AsyncSession = self._transaction.session
        return session

    @property
    def _transaction(self) -> Transaction:
        if self.transaction is None:
            raise DefinitionError(f"step {self.step!r} is not transactional=True")
        return self.transaction

    @property
    def headers(self) -> dict[str, str]:
        """The headers that `http` sends, for steps that use another client."""
        return {
            IDEMPOTENCY_KEY: self.idempotency_key,
            CORRELATION_ID: self.correlation_id,
            trace.TRACEPARENT: self.traceparent,
        }

    @property
    def traceparent(self) -> str:
        """The trace context of this attempt: that of its span, or else that of the saga."""
        return trace.of_attempt(self.saga_id, self.trace)

    @cached_property
    def http(self) -> httpx.AsyncClient:
        """Client that adds ``Idempotency-Key``, ``X-Correlation-ID`` and ``traceparent``.

        A second unsafe request of the same attempt gets ``<key>#2``, and so on.
        """
        headers = {CORRELATION_ID: self.correlation_id, trace.TRACEPARENT: self.traceparent}
        return step_client(self.transport, headers, self.idempotency_key, self.timeout)

    @cached_property
    def log(self) -> Any:
        """Logger that knows the saga, the step and the attempt."""
        return logger("step").bind(
            saga_id=str(self.saga_id),
            saga_name=self.saga_name,
            step=self.step,
            attempt=self.attempt,
            correlation_id=self.correlation_id,
        )

"""What is a step given? Who it is, which key it has, and a client that sends both."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Literal
from uuid import UUID

import httpx

from eventsaga.observe.log import logger
from eventsaga.runtime.http import CORRELATION_ID, IDEMPOTENCY_KEY, step_client


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
    transport: httpx.AsyncBaseTransport

    @property
    def headers(self) -> dict[str, str]:
        """The headers that `http` sends, for steps that use another client."""
        return {
            IDEMPOTENCY_KEY: self.idempotency_key,
            CORRELATION_ID: self.correlation_id,
        }

    @cached_property
    def http(self) -> httpx.AsyncClient:
        """Client that adds ``Idempotency-Key`` and ``X-Correlation-ID`` to requests.

        A second unsafe request of the same attempt gets ``<key>#2``, and so on.
        """
        headers = {CORRELATION_ID: self.correlation_id}
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

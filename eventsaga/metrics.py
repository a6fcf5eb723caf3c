"""How many, how long, how often? Metrics for Prometheus: counters here, gauges from the database.

Counters and histograms are of this process: each event is counted by the process that appended
it, once it was durable, so that nothing counts twice. Gauges are what the database says when
they are asked for: right after a restart, and the same from every process.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from threading import Thread
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, start_http_server
from prometheus_client.registry import REGISTRY, Collector

from eventsaga.client.monitor import limits_of
from eventsaga.client.orchestrator import Orchestrator
from eventsaga.core.commands import Command
from eventsaga.core.definition import StepName, group_of
from eventsaga.core.events import (
    CompensationStarted,
    Operation,
    SagaCompensated,
    SagaCompleted,
    SagaEvent,
    SagaFailed,
    SagaRecovered,
    SagaStarted,
    StepCompensationFailed,
    StepStarted,
    TurnReason,
)
from eventsaga.core.react import RunStep
from eventsaga.core.state import State, Status
from eventsaga.errors import DatabaseUnavailableError
from eventsaga.observe.alert import Alert
from eventsaga.observe.log import logger
from eventsaga.observe.observer import Observer
from eventsaga.store.postgres.watch import Measures, measure

_MINUTE: Final = 60
_HOUR: Final = 60 * _MINUTE
_SAGA_SECONDS: Final = (
    *(0.1, 0.5, 1, 2, 5, 10, 30, _MINUTE),
    *(5 * _MINUTE, 15 * _MINUTE, _HOUR, 6 * _HOUR, 24 * _HOUR, 7 * 24 * _HOUR),
)
_STEP_SECONDS: Final = (0.005, 0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 300)
_APPEND_SECONDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 15)
_BATCHES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500)
_PATIENCE_SECONDS: Final = 5.0

_ENDS: Final = {
    SagaCompleted: Status.COMPLETED,
    SagaCompensated: Status.COMPENSATED,
    SagaFailed: Status.FAILED,
}

_log = logger("metrics")


class Metrics:
    """The metrics of an orchestrator: seen from the moment at which this is made.

    Args:
        orchestrator: Whose.
        registry: Where they are registered; None for the default one of `prometheus_client`.

    Raises:
        ValueError: If the registry has such metrics already.
    """

    content_type: Final = CONTENT_TYPE_LATEST

    def __init__(
        self, orchestrator: Orchestrator, registry: CollectorRegistry | None = None
    ) -> None:
        self.registry = REGISTRY if registry is None else registry
        self._gauges = _DatabaseGauges(orchestrator)
        counters = _Counters(orchestrator, self.registry)
        self.registry.register(self._gauges)
        orchestrator.observe(counters)

    async def exposition(self) -> bytes:
        """Return all metrics of the registry as text, the gauges fresh from the database.

        Its media type is `content_type`.
        """
        self._gauges.answered = await self._gauges.ask()
        return generate_latest(self.registry)

    def serve(self, host: str, port: int) -> tuple[int, Callable[[], None]]:
        """Answer scrapes on a thread of its own; call it on the orchestrator's event loop.

        Args:
            host: Where to listen.
            port: 0 for a free one.

        Returns:
            The port, and what ends it.

        Raises:
            OSError: If the port cannot be had.
        """
        self._gauges.loop = asyncio.get_running_loop()
        server, thread = start_http_server(port, addr=host, registry=self.registry)
        return int(server.server_address[1]), lambda: _end(server, thread)


def _end(server: Any, thread: Thread) -> None:
    server.shutdown()
    server.server_close()
    thread.join()


class _Counters(Observer):
    """What is counted as it happens; an `Observer`."""

    def __init__(self, orchestrator: Orchestrator, registry: CollectorRegistry) -> None:
        def counter(name: str, what: str, *labels: str) -> Any:
            made = Counter(name, what, ("saga_name", *labels), registry=registry)
            return cache(made.labels)

        def histogram(name: str, what: str, buckets: Sequence[float], *labels: str) -> Any:
            made = Histogram(name, what, labels, buckets=buckets, registry=registry)
            return cache(made.labels) if labels else made

        self._started = counter("sagas_started_total", "Sagas that were begun.")
        self._completed = counter("sagas_completed_total", "Sagas that completed.")
        self._failed = counter(
            "sagas_failed_total",
            "Sagas that turned back because of a step, or were given up at one.",
            "failed_step",
        )
        self._compensated = counter("sagas_compensated_total", "Sagas that were compensated.")
        self._takeovers = counter(
            "saga_takeovers_total", "Sagas that were taken over from a worker that was gone."
        )
        self._undo_failures = counter(
            "saga_compensation_failures_total", "Attempts to compensate that failed."
        )
        self._retries = counter("saga_step_retries_total", "Attempts of steps but the first.")
        self._duration = histogram(
            "saga_duration_seconds",
            "From the start of a saga to its end.",
            _SAGA_SECONDS,
            *("saga_name", "status"),
        )
        self._step_duration = histogram(
            "saga_step_duration_seconds",
            "How long the function of a step ran in one attempt.",
            _STEP_SECONDS,
            *("saga_name", "step_name"),
        )
        self._batch = histogram(
            "saga_append_batch_size", "Sagas whose events were appended by one commit.", _BATCHES
        )
        self._append = histogram(
            "saga_append_seconds",
            "From when a batch of events was sent to when its outcome was certain.",
            _APPEND_SECONDS,
        )
        self._alerts = Gauge(
            "saga_alerts",
            "Alerts that hold, from the one worker that watches over a saga.",
            ("saga_name", "kind"),
            registry=registry,
        )
        self._simple: Mapping[type[SagaEvent], Any] = {
            SagaCompleted: self._completed,
            SagaCompensated: self._compensated,
            SagaRecovered: self._takeovers,
            StepCompensationFailed: self._undo_failures,
        }
        for saga in orchestrator.sagas:
            # A rate needs a first sample: what has not happened yet is 0, and not unknown.
            for zero in (self._started, self._retries, *self._simple.values()):
                zero(saga.name)

    def committed(self, state: State, events: Sequence[SagaEvent]) -> None:
        """Count *events*."""
        name = state.saga_name
        # Whoever appends first after the saga began has begun it, wherever it was started.
        if isinstance(events[0], SagaStarted) or state.seq - len(events) == 1:
            self._started(name).inc()
        for event in events:
            simple = self._simple.get(type(event))
            if simple is not None:
                simple(name).inc()
            self._count(state, event)

    def _count(self, state: State, event: SagaEvent) -> None:
        name = state.saga_name
        match event:
            case StepStarted(attempt=attempt) if attempt > 1:
                self._retries(name).inc()
            case SagaCompleted() | SagaCompensated() | SagaFailed():
                if isinstance(event, SagaFailed) and state.turn is None:
                    self._failed(name, _step(next(iter(state.stuck_steps), None))).inc()
                seconds = (event.at - state.created_at).total_seconds()
                self._duration(name, _ENDS[type(event)].value).observe(max(seconds, 0.0))
            case CompensationStarted(reason=TurnReason.STEP_FAILED | TurnReason.CONFLICT):
                self._failed(name, _step(event.because_of)).inc()
            case _:
                pass

    def attempted(self, state: State, effect: RunStep, _ended: Command, seconds: float, /) -> None:
        """Take the time of a step."""
        if effect.operation is Operation.EXECUTE:
            self._step_duration(state.saga_name, _step(effect.step)).observe(seconds)

    def appended(self, sagas: int, seconds: float) -> None:
        """Take the size and the time of a batch."""
        self._batch.observe(sagas)
        self._append.observe(seconds)

    def watched(self, alerts: Sequence[Alert]) -> None:
        """Show what holds."""
        self._alerts.clear()
        for alert in alerts:
            self._alerts.labels(alert.saga_name, alert.kind.value).inc()


def _step(step: StepName | None) -> str:
    """Return the step as a label: the items of a group have one together."""
    return "" if step is None else group_of(step) or step


class _DatabaseGauges(Collector):
    """Asks the database at every scrape; what it does not answer is left out."""

    def __init__(self, orchestrator: Orchestrator) -> None:
        self._orchestrator = orchestrator
        self._limits = limits_of(orchestrator.sagas, orchestrator.store)
        self._names = sorted({saga.name for saga in orchestrator.sagas})
        self.loop: asyncio.AbstractEventLoop | None = None
        # For those who ask on the event loop, where nobody can wait for an answer.
        self.answered: Measures | None = None

    def describe(self) -> Iterable[Metric]:
        """Return nothing: it must not be asked before there is a database."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges: from a thread, fresh; on the event loop, as of the last answer."""
        measures = self.answered
        if self.loop is not None and not _is_on_a_loop():
            asked = asyncio.run_coroutine_threadsafe(self.ask(), self.loop)
            try:
                measures = asked.result(_PATIENCE_SECONDS)
            except TimeoutError:
                asked.cancel()
                measures = None
        return _shown(measures, self._names)

    async def ask(self) -> Measures | None:
        """Return what the database says; None if it does not."""
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                return await measure(self._orchestrator.store, self._limits)
        except (DatabaseUnavailableError, TimeoutError) as error:
            _log.warning("gauges_without_database", error=str(error))
            return None


def _is_on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _shown(measures: Measures | None, names: Sequence[str]) -> Iterator[Metric]:
    """Yield the gauges of *measures*; of *names* also where there is nothing."""
    yield GaugeMetricFamily(
        "saga_database_up",
        "Whether the database answered; if not, its gauges are left out.",
        value=0 if measures is None else 1,
    )
    if measures is None:
        return
    yield from _standing(measures, names)
    in_doubt = _by_saga("sagas_in_doubt", "Steps of unfinished sagas that are in doubt.")
    for name in sorted({*names, *measures.in_doubt}):
        in_doubt.add_metric([name], measures.in_doubt.get(name, 0))
    yield in_doubt
    lease = GaugeMetricFamily(
        "saga_lease_remaining_seconds",
        "What is left of the lease of each living worker.",
        labels=("host", "pid"),
    )
    for worker in measures.workers:
        lease.add_metric([worker.host, str(worker.pid)], worker.lease_left)
    yield lease


def _standing(measures: Measures, names: Sequence[str]) -> Iterator[Metric]:
    active = dict.fromkeys(names, 0)
    parked, stuck, oldest = active.copy(), active.copy(), dict[str, float]()
    for one in measures.standing:
        stuck[one.name] = stuck.get(one.name, 0) + one.stuck
        oldest[one.name] = max(one.oldest, oldest.get(one.name, 0.0))
        counted = parked if one.status == Status.PARKED else active
        counted[one.name] = counted.get(one.name, 0) + one.sagas
    for name, what, values in (
        ("sagas_active", "Sagas that have not ended and are not parked.", active),
        ("sagas_parked", "Sagas that wait for a person.", parked),
        ("sagas_stuck", "Sagas without progress for longer than they may.", stuck),
        ("saga_oldest_unfinished_seconds", "Age of the oldest saga that has not ended.", oldest),
    ):
        family = _by_saga(name, what)
        for saga_name, value in values.items():
            family.add_metric([saga_name], value)
        yield family


def _by_saga(name: str, what: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, what, labels=("saga_name",))

"""How is it logged? structlog's key-value events, through the embedder's stdlib logging.

A library must not print: nothing is shown unless the application configured `logging`.
An event has a name of `EVENTS` and fields. As a line it is ``name key=value``; handlers that
want more find both on the record, as ``event`` and ``fields``. How they are rendered is decided
by `configure`, which only the command line calls, or by the embedder's own handlers.
"""

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

import structlog

_ROOT: Final = "eventsaga"

EVENTS: Final[Mapping[str, str]] = {
    # Sagas.
    "saga_started": "a saga was begun here",
    "saga_completed": "a saga has completed",
    "saga_compensated": "a saga has been compensated",
    "saga_failed": "a saga was given up by a person",
    "saga_parked": "a saga waits for a person",
    "saga_recovered": "a saga was taken over from a worker that is gone",
    "saga_lost": "another worker owns a saga that this one was driving",
    "saga_stopped": "a saga rests for a while: an error here that is not its own",
    "saga_unreadable": "the history of a saga cannot be read",
    "sagas_held": "sagas wait until somebody accepts the incarnation of the database",
    "message_refused": "a request to a saga was refused",
    # Steps.
    "step_failed": "an attempt of a step has failed",
    "step_in_doubt": "an attempt of a step, or of a compensation, has had no answer",
    "compensation_started": "a saga goes back",
    "compensation_failed": "an attempt to compensate a step has failed",
    "threads_taken": "steps that are plain functions wait for a thread for longer than a minute",
    "limit_not_asked": "a permit could not be asked for; it is asked for again",
    "payload_large": "a context, result or payload is larger than is good for it",
    # Alerts.
    "alert": "a person should know of it",
    "alert_over": "what an alert told of is over",
    "alert_not_taken": "the handler of alerts has failed",
    "monitor_failed": "a look for alerts has failed",
    "monitor_without_database": "a look for alerts did not reach the database",
    "gauges_without_database": "a scrape did not reach the database",
    "observer_failed": "an observer has failed",
    # Workers.
    "worker_started": "a worker has its lease, and looks for sagas",
    "told_to_stop": "a signal has come",
    "draining": "a worker takes nothing new, and lets running attempts end",
    "worker_stopped": "a worker has given up all that it held",
    "worker_stopped_without_release": "a worker could not give up what it held: its lease ends",
    "workers_gone": "workers of this machine are gone; their sagas are free at once",
    "neighbours_not_seen": "who is gone of this machine could not be asked",
    "lease_not_renewed": "a lease could not be renewed; it is tried again",
    "lease_lost": "a lease has ended: all of the worker's sagas are others' now",
    "claim_failed": "a look for sagas has failed; it is tried again",
    "chore_failed": "something was not done, and is found undone by the next look",
    "waiting_without_database": "who waits for sagas could not ask whether they have ended",
    "failpoints_armed": "faults will strike here, because somebody asked for them",
    # The store.
    "append_delayed": "events could not be appended at once; they are sent again",
    "append_outcome_not_handled": "a bug: whoever waited for a commit has failed",
    "commit_outcome_not_known": "the answer to a commit was lost; it is read back",
    "database_not_reached": "there is no connection; it is tried again",
    "writer_closed_with_appends_in_flight": "the process ends before all was appended",
    "feed_waits": "a consumer could not read the feed; it is tried again",
    "feed_not_released": "a consumer's lease of the feed ends by itself",
    # Schedules.
    "slot_started": "a slot of a schedule has started its saga",
    "slot_refused": "the saga of a slot could not be started",
    "slot_without_context": "the context of a slot could not be computed",
    "slots_skipped": "slots were missed, and are not caught up",
    "schedule_taken_over": "a schedule has another plan than before",
    "schedules_not_read": "schedules could not be read; it is tried again",
}
"""Every event that is logged by these packages, and what it means."""


def logger(name: str) -> Any:
    """Return the structured logger ``eventsaga.<name>``."""
    return structlog.wrap_logger(
        logging.getLogger(f"{_ROOT}.{name}"),
        wrapper_class=structlog.stdlib.BoundLogger,
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.processors.format_exc_info,
            _render,
        ],
        cache_logger_on_first_use=True,
    )


def _render(_logger: Any, _method: str, event: Any) -> tuple[tuple[str], dict[str, Any]]:
    """Return the event as one line, and its parts for handlers that want them."""
    name = event.pop("event")
    trace = event.pop("exception", None)
    fields = " ".join(f"{key}={value}" for key, value in event.items())
    line = f"{name} {fields}".rstrip()
    if trace:
        line, event["exception"] = f"{line}\n{trace}", trace
    # A literal percent sign is none to be filled in: there are no arguments.
    return (line,), {"extra": {"event": name, "fields": event}}


class LogFormat(StrEnum):
    """How log events are shown on standard error."""

    CONSOLE = "console"
    JSON = "json"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: timestamp in UTC, level, logger, event and its fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return *record* as JSON text."""
        line: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": getattr(record, "event", None) or record.getMessage(),
        }
        fields = getattr(record, "fields", None)
        if fields is None:
            fields = structlog.contextvars.get_contextvars()
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line | {k: v for k, v in fields.items() if k not in line}, default=str)


class SagaFilter(logging.Filter):
    """Puts ``saga_id``, ``saga_name``, ``step``, ``attempt`` and ``correlation_id`` on records.

    They are those of the attempt in which a record was logged, in a thread as well; "" outside
    of attempts. For handlers of your own: ``"%(saga_id)s %(message)s"``.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Complete *record*, and let it pass."""
        bound = structlog.contextvars.get_contextvars()
        for field in ("saga_id", "saga_name", "step", "attempt", "correlation_id"):
            if not hasattr(record, field):
                setattr(record, field, bound.get(field, ""))
        return True


def configure(level: int = logging.INFO, form: LogFormat | None = None) -> None:
    """Show log events on standard error; for command-line programs.

    A program that has configured `logging` by itself keeps that, unless *form* is given.

    Args:
        level: Of events of eventsaga; other libraries are shown from warnings on.
        form: None for the console, if nobody has configured anything else.
    """
    logging.getLogger(_ROOT).setLevel(level)
    # Its own lines hold whole URLs, and with them whatever secret stands in a query.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    root = logging.getLogger()
    if root.handlers and form is None:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter()
        if form is LogFormat.JSON
        else logging.Formatter("%(asctime)s %(levelname)-7s %(name)s %(message)s")
    )
    root.handlers[:] = [handler]

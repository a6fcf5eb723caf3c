"""How is it logged? structlog's key-value events, through the embedder's stdlib logging.

A library must not print: nothing is shown unless the application configured `logging`.
An event has a name and fields; how both are rendered is decided by `configure`, which only
the command line calls, or by the embedder's own handlers.
"""

import logging
import sys
from typing import Any

import structlog

_ROOT = "eventsaga"


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


def _render(_logger: Any, _method: str, event: Any) -> str:
    """Return the event as one line: its name, then ``key=value``."""
    name = event.pop("event")
    trace = event.pop("exception", None)
    fields = " ".join(f"{key}={value}" for key, value in event.items())
    line = f"{name} {fields}".rstrip()
    return f"{line}\n{trace}" if trace else line


def configure(level: int = logging.INFO) -> None:
    """Show eventsaga's log events on standard error; for command-line programs."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s %(message)s"))
    root = logging.getLogger(_ROOT)
    root.handlers[:] = [handler]
    root.setLevel(level)
    root.propagate = False
    # Its own lines hold whole URLs, and with them whatever secret stands in a query.
    logging.getLogger("httpx").setLevel(logging.WARNING)

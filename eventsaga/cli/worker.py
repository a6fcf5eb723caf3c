"""How does a worker process live? It runs until a signal, drains, and is gone at the second.

SIGTERM and SIGINT mean the same: stop claiming, let running attempts end or hand them over,
release all sagas. A second one means now, and is as safe as a crash.
"""

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

from eventsaga.cli import target
from eventsaga.cli.fail import OK, CommandError
from eventsaga.cli.module import ModuleArgument, load
from eventsaga.cli.output import AsJson, say, say_json
from eventsaga.cli.target import DatabaseUrl, Schema

if TYPE_CHECKING:
    from eventsaga.client import Orchestrator
    from eventsaga.metrics import Metrics

# An idle thread of a pool needs a moment to see that it is not wanted any more.
_GOOD_BYE_SECONDS: Final = 0.5
_LEVELS: Final = ("debug", "info", "warning", "error")


def worker(
    module: ModuleArgument,
    *,
    log_level: Annotated[
        str,
        typer.Option("--log-level", metavar="LEVEL", help=f"One of {', '.join(_LEVELS)}."),
    ] = "info",
    log_format: Annotated[
        str | None,
        typer.Option(
            "--log-format",
            metavar="FORMAT",
            envvar="EVENTSAGA_LOG_FORMAT",
            help="console or json; without it, logging that the module configures is left alone.",
            show_default=False,
        ),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            "--metrics-port",
            metavar="PORT",
            min=0,
            max=65535,
            help="Answer scrapes of Prometheus there; 0 for a free port.",
            show_default=False,
        ),
    ] = None,
    metrics_host: Annotated[
        str, typer.Option("--metrics-host", metavar="HOST", help="Where scrapes are answered.")
    ] = "127.0.0.1",
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> int:
    """Run sagas until SIGTERM or SIGINT, then drain.

    A second signal ends it at once, which is as safe as a crash. Logs go to standard error.
    One line on standard output says when it is ready, and one when it has stopped. Times and
    limits are EVENTSAGA_* variables, such as EVENTSAGA_LEASE and EVENTSAGA_DRAIN_TIMEOUT.

    Example:
      eventsaga worker shop.sagas:orchestrator
      eventsaga worker shop.sagas:orchestrator --metrics-port 9464
    """
    from eventsaga.observe import log

    if log_level.lower() not in _LEVELS:
        raise CommandError(f"--log-level must be one of {', '.join(_LEVELS)}, not {log_level!r}")
    if log_format not in {None, *log.LogFormat}:
        raise CommandError(f"--log-format must be console or json, not {log_format!r}")
    form = None if log_format is None else log.LogFormat(log_format)
    target.aim(database_url, schema)
    orchestrator = load(module)
    log.configure(getattr(logging, log_level.upper()), form)
    if not orchestrator.runs_sagas:
        raise CommandError(
            f"{module} runs nothing: it has no sagas, or was built with worker=False. "
            "Name its list of sagas instead"
        )
    metrics = None if metrics_port is None else _metrics(orchestrator)
    with asyncio.Runner(loop_factory=_fast_loop()) as runner:
        runner.run(_work(orchestrator, metrics, metrics_host, metrics_port or 0, as_json=as_json))
    _leave_hanging_threads()
    return OK


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's factory if it is installed; None for the default."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _metrics(orchestrator: "Orchestrator") -> "Metrics":
    try:
        from eventsaga.metrics import Metrics
    except ImportError as error:
        raise CommandError("--metrics-port needs: pip install 'eventsaga[metrics]'") from error
    return Metrics(orchestrator)


async def _work(
    orchestrator: "Orchestrator",
    metrics: "Metrics | None",
    host: str,
    port: int,
    *,
    as_json: bool,
) -> None:
    from eventsaga.client.stop import stop_signal

    with stop_signal(second=_exit_now) as told, ExitStack() as stack:
        async with orchestrator:
            url = None
            if metrics is not None:
                try:
                    port, end = metrics.serve(host, port)
                except OSError as error:
                    raise CommandError(f"{host}:{port} cannot be had: {error}") from error
                stack.callback(end)
                url = f"http://{host}:{port}/metrics"
            _announce(orchestrator, "ready", url, as_json=as_json)
            _log().info("told_to_stop", because=(await told).name)
            await orchestrator.drain()
        _announce(orchestrator, "stopped", as_json=as_json)


def _exit_now(number: int, _frame: FrameType | None) -> NoReturn:
    os._exit(128 + number)


def _announce(
    orchestrator: "Orchestrator", event: str, metrics: str | None = None, *, as_json: bool
) -> None:
    sagas = sorted(
        (saga.name, saga.definition.version, saga.definition.fingerprint)
        for saga in orchestrator.sagas
    )
    if as_json:
        named = [dict(zip(("name", "version", "fingerprint"), saga, strict=True)) for saga in sagas]
        where = {} if metrics is None else {"metrics": metrics}
        say_json({"event": event, "pid": os.getpid(), "sagas": named, **where})
        return
    runs = ", ".join(f"{name} v{version}" for name, version, _ in sagas)
    say(f"worker {os.getpid()} is {event}: {runs}")
    if metrics is not None:
        say(f"metrics are at {metrics}")
    sys.stdout.flush()


def _log() -> Any:
    from eventsaga.observe.log import logger

    return logger("cli")


def _leave_hanging_threads() -> None:
    """End the process although a step's thread does not; its saga was handed over.

    Python waits at its end for every thread of a pool, and a thread cannot be stopped.
    """
    until = time.monotonic() + _GOOD_BYE_SECONDS
    for thread in threading.enumerate():
        if thread.name.startswith("eventsaga-step"):
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                logging.shutdown()
                sys.stdout.flush()
                os._exit(OK)

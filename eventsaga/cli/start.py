"""How is a saga started from a shell? Checked by its definition, and durable on return."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from eventsaga.cli import target
from eventsaga.cli.fail import NO, OK
from eventsaga.cli.given import FORMS, json_object
from eventsaga.cli.module import ModuleOption, load_idle
from eventsaga.cli.output import AsJson, note, say, say_json
from eventsaga.cli.target import DatabaseUrl, Schema

if TYPE_CHECKING:
    from eventsaga.client import SagaHandle, SagaState


async def start(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the saga.")],
    *,
    module: ModuleOption,
    context: Annotated[
        str,
        typer.Option(
            "--context",
            "-c",
            metavar="JSON",
            help=f"The input: {FORMS}.",
            show_default=False,
        ),
    ],
    key: Annotated[
        str | None,
        typer.Option(
            "--key",
            metavar="KEY",
            help="The same key starts the same saga only once.",
            show_default=False,
        ),
    ] = None,
    correlation_id: Annotated[
        str | None,
        typer.Option(
            "--correlation-id",
            metavar="ID",
            help="Sent along with every call; otherwise the saga's id.",
            show_default=False,
        ),
    ] = None,
    tenant: Annotated[
        str | None,
        typer.Option(
            "--tenant",
            metavar="NAME",
            help="Whose it is; each tenant has keys of its own.",
            show_default=False,
        ),
    ] = None,
    wait: Annotated[
        float | None,
        typer.Option(
            "--wait",
            metavar="SECONDS",
            min=0,
            help="Wait until it has ended or is parked; exit 1 unless it completed.",
            show_default=False,
        ),
    ] = None,
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> int:
    """Start a saga and print its id; a worker does the rest.

    The module is needed because the input is checked by the saga's definition before
    anything is written.

    Example:
      eventsaga start order --module shop.sagas:orchestrator --context '{"order_id": "4711"}'
      eventsaga start order -m shop.sagas:orchestrator -c @order.json --key order-4711 --wait 30
    """
    target.aim(database_url, schema)
    given = json_object(context, "--context")
    async with load_idle(module) as orchestrator:
        handle = await orchestrator.start(
            name, given, key=key, correlation_id=correlation_id, tenant=tenant
        )
        if wait is None:
            _say(handle, None, as_json=as_json)
            return OK
        try:
            state = await handle.result(timeout=wait)
        except TimeoutError:
            _say(handle, None, as_json=as_json)
            note(f"eventsaga: it has not ended after {wait:g} s; it goes on if a worker runs")
            return NO
        _say(handle, state, as_json=as_json)
        return OK if state.status == "COMPLETED" else NO


def _say(handle: "SagaHandle", state: "SagaState[Any] | None", *, as_json: bool) -> None:
    if as_json:
        answer: dict[str, Any] = {"saga_id": handle.id, "created": handle.created}
        if state is not None:
            error = state.error
            answer["status"] = state.status
            answer["error"] = error and {"step_name": error.step_name, "message": error.message}
        say_json(answer)
        return
    if not handle.created:
        note("eventsaga: its key had started this saga before")
    say(str(handle.id) if state is None else f"{handle.id} {state.status}")
    if state is not None and state.error is not None:
        step = f"{state.error.step_name}: " if state.error.step_name else ""
        note(f"eventsaga: {step}{state.error.message}")

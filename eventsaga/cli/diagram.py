"""What does a saga look like, and where does one stand? Drawn as Mermaid."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eventsaga.cli import ids, target
from eventsaga.cli.fail import NO, OK, CommandError
from eventsaga.cli.module import HELP, sagas_of
from eventsaga.cli.output import AsJson, say, say_json
from eventsaga.cli.target import DatabaseUrl, Schema
from eventsaga.core.graph import SagaDefinition

if TYPE_CHECKING:
    from eventsaga.core.state import State
    from eventsaga.saga import Saga


async def diagram(
    module: Annotated[
        str | None,
        typer.Argument(metavar="MODULE:NAME", help=HELP, show_default=False),
    ] = None,
    *,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            "--saga",
            "-n",
            metavar="NAME",
            help="Only this saga; without a module, as workers have recorded it.",
            show_default=False,
        ),
    ] = None,
    version: Annotated[
        int | None,
        typer.Option("--version", metavar="N", help="Only this version.", show_default=False),
    ] = None,
    live: Annotated[
        str | None,
        typer.Option(
            "--live",
            metavar="ID",
            help="Mark where this saga stands; it is drawn as it was started.",
            show_default=False,
        ),
    ] = None,
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> int:
    """Draw sagas as Mermaid flowcharts.

    The same saga is always the same text. A step that is compensated is marked, a pivot is
    a hexagon, a condition a diamond. With a module no database is needed, unless a saga is
    to be marked.

    Example:
      eventsaga diagram shop.sagas:order_saga > order.mmd
      eventsaga diagram shop.sagas:orchestrator --saga order
      eventsaga diagram --name order --version 1
      eventsaga diagram --live 01a205d7
    """
    from eventsaga.core.draw import draw

    target.aim(database_url, schema)
    known: Sequence[Saga[Any]] = () if module is None else sagas_of(module)
    state: State | None = None
    if live is not None:
        definition, state = await _living(live, known)
        chosen: Sequence[SagaDefinition] = [definition]
    elif module is not None:
        chosen = _chosen([saga.definition for saga in known], name, version)
    elif name is not None:
        chosen = [await _recorded(name, version)]
    else:
        raise CommandError("what is to be drawn? Give MODULE:NAME, --name NAME or --live ID")
    drawings = [draw(definition, state) for definition in chosen]
    if as_json:
        drawn = [
            {"name": saga.name, "version": saga.version, "fingerprint": saga.fingerprint}
            | {"mermaid": drawing}
            for saga, drawing in zip(chosen, drawings, strict=True)
        ]
        say_json({"diagrams": drawn})
    else:
        say("\n".join(drawings).rstrip("\n"))
    return OK


def _chosen(
    known: Sequence[SagaDefinition], name: str | None, version: int | None
) -> list[SagaDefinition]:
    found = [
        saga for saga in known if name in {None, saga.name} and version in {None, saga.version}
    ]
    if not found:
        there = ", ".join(f"{saga.name} v{saga.version}" for saga in known)
        raise CommandError(f"there is no such saga; there is {there}")
    return sorted(found, key=lambda saga: (saga.name, saga.version))


async def _recorded(name: str, version: int | None) -> SagaDefinition:
    from eventsaga.store.postgres.shapes import recorded

    async with target.opened() as orchestrator:
        found = await recorded(orchestrator.store, name, version)
    if found is None:
        which = name if version is None else f"{name} version {version}"
        raise CommandError(f"no worker has ever brought {which}; name its module instead", code=NO)
    return found


async def _living(text: str, known: "Sequence[Saga[Any]]") -> tuple[SagaDefinition, "State"]:
    """Return where a saga stands, and the definition that it was started with."""
    from eventsaga.client.standing import judged
    from eventsaga.errors import UnknownSagaError

    async with target.opened() as orchestrator:
        found = await ids.find(orchestrator.store, text)
        try:
            state, definition = await judged(orchestrator.store, known, found)
        except UnknownSagaError as error:
            raise CommandError(
                f"{found} was started with a definition of {error.saga_name} which no worker has "
                "brought; name the module that has it",
                code=NO,
            ) from error
    return definition, state

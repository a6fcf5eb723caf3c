"""How is one saga shown to somebody who has no database? As a page of HTML that needs nothing."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from eventsaga.cli import ids, target
from eventsaga.cli.fail import OK, CommandError
from eventsaga.cli.ids import SagaId
from eventsaga.cli.output import AsJson, clean, instant, say, say_json
from eventsaga.cli.target import DatabaseUrl, Schema

if TYPE_CHECKING:
    from eventsaga.store.ports import SagaRow, StoredEvent

# A browser shows so many lines without trouble; nobody reads more.
_MOST_ROWS: Final = 2000

_CHAIN: Final = "SELECT seq, problem FROM eventsaga.verify_chain($1)"


async def export(
    saga_id: SagaId,
    *,
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="FILE", help="Where to; - for standard output.", show_default=False
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> int:
    """Write one saga as a page of HTML that needs nothing else.

    Timeline, attempts, changes of the context with their reasons, events and the chain of
    hashes. It opens without a network, and prints. Without --to it is written to ID.html.

    Example:
      eventsaga export 01a205d7
      eventsaga export 01a205d7 --to - | mail -s 'what happened' auditor@example.org
    """
    from eventsaga.store.postgres.sql import qualify

    target.aim(database_url, schema)
    async with target.opened() as orchestrator:
        store = orchestrator.store
        found = await ids.find(store, saga_id)
        path = None if to == "-" else Path(to or f"{found}.html")
        if path is not None and path.exists() and not force:
            raise CommandError(f"{path} is there already; --force replaces it")
        history = await orchestrator.history(found)
        children = await orchestrator.children(found)
        async with store.connection() as connection:
            rows = await connection.fetch(qualify(_CHAIN, store.settings.schema), found)
        problems = [f"event {row['seq']}: {row['problem']}" for row in rows]
    page = _page(history, children, problems)
    if path is None:
        say(page)
        return OK
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error}") from error
    if as_json:
        say_json({"saga_id": found, "file": path, "events": len(history)})
    else:
        say(clean(f"{path}: {len(history):,} events of saga {found}"))
    return OK


def _page(
    history: "Sequence[StoredEvent]", children: "Sequence[SagaRow]", problems: list[str]
) -> str:
    from jinja2 import Environment

    from eventsaga import __version__
    from eventsaga.client import portrait
    from eventsaga.client.travel import changes
    from eventsaga.core.evolve import replay
    from eventsaga.core.state import State
    from eventsaga.observe.summary import summary
    from eventsaga.observe.timeline import timeline

    state = replay((stored.event for stored in history), State(history[0].saga_id))
    lines = summary(timeline(history))
    changed = list(islice(changes(tuple(history)), _MOST_ROWS + 1))
    template = resources.files("eventsaga.cli").joinpath("export.html").read_text("utf-8")
    return (
        Environment(autoescape=True, trim_blocks=False)
        .from_string(template)
        .render(
            state=state,
            kind=portrait.kind,
            facts=list(portrait.facts(state, children)),
            bars=list(portrait.bars(lines[:_MOST_ROWS], state)),
            lines=[portrait.row(line) for line in lines[:_MOST_ROWS]],
            changes=[portrait.changed(change) for change in changed[:_MOST_ROWS]],
            events=[portrait.event(stored) for stored in history[:_MOST_ROWS]],
            problems=problems,
            head=history[-1].hash.hex(),
            left_out=list(_left_out(lines=len(lines), changes=len(changed), events=len(history))),
            written_at=instant(datetime.now(UTC)),
            version=__version__,
        )
    )


def _left_out(**counts: int) -> Iterator[str]:
    for what, count in counts.items():
        if count > _MOST_ROWS:
            yield f"Only the first {_MOST_ROWS:,} {what} are shown."

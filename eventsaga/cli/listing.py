"""Which sagas are there? The projection's rows, and those that wait for a worker in vain."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final

import typer

from eventsaga.cli import ids, target
from eventsaga.cli.fail import OK
from eventsaga.cli.output import (
    STATUS_STYLES,
    AsJson,
    duration,
    note,
    say,
    say_json,
    show,
    show_with_notes,
    some,
    styled,
    width,
)
from eventsaga.cli.selecting import Asked, filtering
from eventsaga.cli.target import DatabaseUrl, Schema

if TYPE_CHECKING:
    from eventsaga.store.ports import SagaRow, Stranded


@filtering
async def list_sagas(
    *,
    asked: Asked,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, max=10_000, help="At most so many.")
    ] = 50,
    before: Annotated[
        str | None,
        typer.Option("--before", metavar="ID", help="The page behind the saga with this id."),
    ] = None,
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> int:
    """List sagas, youngest first, and those that are stranded.

    Stranded are sagas that wait for a definition which no living worker has. What is asked of
    a context is asked of it as of the last change of the saga's status.

    Example:
      eventsaga list --status PARKED --status COMPENSATING
      eventsaga list --name order --older-than 2h --where customer.id=7
      eventsaga list --name order --json | jq -r '.sagas[].saga_id'
    """
    target.aim(database_url, schema)
    wanted = asked.wanted()
    async with target.opened() as orchestrator:
        store = orchestrator.store
        behind = None if before is None else await ids.find(store, before)
        rows = await store.list_sagas(wanted, before=behind, limit=limit)
        stranded = await store.stranded()
    more = rows[-1].saga_id if len(rows) == limit else None
    if as_json:
        say_json(
            {
                "sagas": [asdict(row) for row in rows],
                "before": more,
                "stranded": [asdict(group) for group in stranded],
            }
        )
        return OK
    if rows:
        show_sagas(rows)
    else:
        note("no saga fits" if asked.is_anything or before else "no saga yet")
    if more is not None:
        note(f"There may be more: --before {more}")
    for group in stranded:
        note(_sentence(group))
    return OK


# An id, a status, an age and a name of ten characters, and then something to say.
_ROOM_FOR_ALL: Final = 120
# Without the last: in less, what belongs to an id goes below it.
_ROOM_FOR_A_ROW: Final = 72


def show_sagas(rows: "Sequence[SagaRow]") -> None:
    """Write a table of *rows*: where each stands, and what went wrong."""
    if width() < _ROOM_FOR_A_ROW:
        _show_narrow(rows)
        return
    from rich.table import Table

    beside = width() >= _ROOM_FOR_ALL
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    # The id is what is copied: it is never cut, whatever the width.
    table.add_column("ID", no_wrap=True, min_width=len(str(rows[0].saga_id)))
    table.add_column("STATUS", no_wrap=True)
    table.add_column("AGE", no_wrap=True, justify="right")
    table.add_column("SAGA", no_wrap=True)
    if beside:
        table.add_column("EVENTS", no_wrap=True, justify="right")
        table.add_column("STEPS, OR WHAT WENT WRONG", overflow="fold")
    for row in rows:
        table.add_row(
            str(row.saga_id),
            styled(row.status, STATUS_STYLES[row.status]),
            _age(row),
            styled(_name(row)),
            *((str(row.last_seq), styled(_matter(row))) if beside else ()),
        )
    if beside:
        show(table)
    else:
        show_with_notes(table, [styled(_matter(row)) for row in rows])


def _show_narrow(rows: "Sequence[SagaRow]") -> None:
    from rich.padding import Padding

    for row in rows:
        # It is copied: a terminal that is narrower breaks it, and does not cut it.
        say(str(row.saga_id))
        facts = (row.status, _age(row), _name(row), _matter(row))
        show(Padding(styled("  ".join(filter(None, facts))), (0, 0, 0, 4)))


def _age(row: "SagaRow") -> str:
    return duration(max(datetime.now(UTC), row.created_at) - row.created_at)


def _name(row: "SagaRow") -> str:
    return row.name if row.version == 1 else f"{row.name} v{row.version}"


def _matter(row: "SagaRow") -> str:
    """Return what is going on in a saga, or what went wrong."""
    parts: list[str] = [some(row.current_steps)]
    if row.error is not None:
        step, message = row.error.get("step_name"), str(row.error.get("message", ""))
        parts.append(f"{step}: {message}" if step else message)
    return " · ".join(part for part in parts if part)


def _sentence(group: "Stranded") -> str:
    count = "1 saga waits" if group.sagas == 1 else f"{group.sagas} sagas wait"
    return (
        f"Stranded: {count} for a worker with {group.name} version {group.version} "
        f"(fingerprint {group.fingerprint[:8]}), which no living worker has; "
        f"since {group.since:%Y-%m-%d %H:%M:%S} UTC."
    )

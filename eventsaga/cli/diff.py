"""What changed between two moments of a saga, and why?"""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from eventsaga.cli import ids, moments, target
from eventsaga.cli.fail import OK
from eventsaga.cli.ids import SagaId
from eventsaga.cli.output import AsJson, compact_json, grid, instant, say, say_json, show, styled
from eventsaga.cli.target import DatabaseUrl, Schema

if TYPE_CHECKING:
    from eventsaga.client.travel import Change

_Moment = Annotated[str, typer.Argument(metavar="MOMENT", help=moments.FORMS, show_default=False)]


async def diff(
    saga_id: SagaId,
    first: _Moment,
    last: _Moment,
    *,
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> int:
    """Show what changed in a context between two moments.

    One line a field: its value before and after, and the event that changed it last. A field
    that was changed and changed back is not shown.

    Example:
      eventsaga diff 01a205d7-ba5e 1 7
      eventsaga diff 01a205d7-ba5e 2026-11-22T14:03 2026-11-22T14:04
    """
    from eventsaga.client.travel import difference

    begin, end = moments.moment(first), moments.moment(last)
    target.aim(database_url, schema)
    async with target.opened() as orchestrator:
        found = await ids.find(orchestrator.store, saga_id)
        history = await orchestrator.history(found)
    before, after, changed = difference(history, begin, end)
    if as_json:
        statuses = {"before": before, "after": after}
        say_json({"status": statuses, "changes": [_as_json(change) for change in changed]})
        return OK
    say(f"{before}" if before is after else f"{before} -> {after}")
    table = grid(columns=4)
    for change in changed:
        table.add_row(
            styled(change.path, "bold"),
            styled(_text(change.before), "red"),
            styled(_text(change.after), "green"),
            styled(_why(change), "dim"),
        )
    show(table) if changed else say("the context is the same")
    return OK


def _why(change: "Change") -> str:
    step = getattr(change.because.event, "step", None)
    actor = getattr(change.because.event, "actor", None)
    parts = (
        change.because.type,
        step,
        None if actor is None else f"by {actor}",
        f"event {change.because.seq}",
        instant(change.because.recorded_at),
    )
    return ", ".join(part for part in parts if part)


def _text(value: Any) -> str:
    from eventsaga.client.travel import NOTHING

    return "" if value is NOTHING else compact_json(value)


def _as_json(change: "Change") -> dict[str, Any]:
    from eventsaga.client.travel import NOTHING

    because = change.because
    values = {"before": change.before, "after": change.after}
    return {
        "path": change.path,
        **{name: value for name, value in values.items() if value is not NOTHING},
        "event": because.seq,
        "type": because.type,
        "step": getattr(because.event, "step", None),
        "actor": getattr(because.event, "actor", None),
        "recorded_at": because.recorded_at,
    }

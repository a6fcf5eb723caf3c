"""Why is a saga where it is, and what may be done about it?"""

from dataclasses import asdict
from typing import TYPE_CHECKING

from eventsaga.cli import ids, target
from eventsaga.cli.ask import choices
from eventsaga.cli.fail import OK
from eventsaga.cli.ids import SagaId
from eventsaga.cli.output import STATUS_STYLES, AsJson, clean, grid, say, say_json, show, styled
from eventsaga.cli.target import DatabaseUrl, Schema

if TYPE_CHECKING:
    from eventsaga.client import Explanation


async def explain(
    saga_id: SagaId,
    *,
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> int:
    """Say why a saga is where it is, and what it would take.

    Example:
      eventsaga explain 01a205d7
      eventsaga explain 01a205d7 --json | jq -r '.legal[]'
    """
    target.aim(database_url, schema)
    async with target.opened() as orchestrator:
        found = await ids.find(orchestrator.store, saga_id)
        explanation = await orchestrator.explain(found)
    if as_json:
        say_json(asdict(explanation))
    else:
        _show(explanation)
    return OK


def _show(explanation: "Explanation") -> None:
    table = grid(columns=3)
    style = STATUS_STYLES[explanation.status]
    table.add_row(
        styled(explanation.saga_name, "bold"),
        str(explanation.saga_id),
        styled(explanation.status, f"bold {style}"),
    )
    show(table)
    for sentence in explanation.why:
        say(f"  {clean(sentence)}")
    if explanation.remedy:
        say(f"What to do: {clean(explanation.remedy)}")
    for line in choices(explanation):
        say(line)

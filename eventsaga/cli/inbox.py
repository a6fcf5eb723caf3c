"""Which sagas need somebody? Those that are parked, and those that do not get on."""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final
from uuid import UUID

import typer

from eventsaga.cli import target
from eventsaga.cli.ask import choices
from eventsaga.cli.fail import NO, OK
from eventsaga.cli.listing import show_sagas
from eventsaga.cli.output import AsJson, clean, duration, note, say, say_json, styled
from eventsaga.cli.selecting import Asked, filtering
from eventsaga.cli.target import DatabaseUrl, Schema
from eventsaga.core.state import Status

if TYPE_CHECKING:
    from eventsaga.client import Explanation
    from eventsaga.store.ports import SagaRow

Limit = Annotated[
    int, typer.Option("--limit", metavar="N", min=1, max=1000, help="At most so many.")
]

_STUCK: Final = """
SELECT saga_id, saga_name, version, status, why, step, message, since, current_steps, worker_id,
       correlation_id
  FROM eventsaga.stuck
 ORDER BY since
 LIMIT $1
"""


@dataclass(frozen=True, slots=True)
class _Stuck:
    """A row of the view ``stuck``."""

    saga_id: UUID
    saga_name: str
    version: int
    status: str
    why: str
    step: str | None
    message: str | None
    since: datetime
    current_steps: list[str]
    worker_id: UUID | None
    correlation_id: str


async def stuck(
    *,
    limit: Limit = 50,
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> int:
    """List sagas that need a person or a worker.

    Those that are parked; those that have been due, or belonged to a dead worker, for more
    than a minute; those that a worker has had for five without any event. The longest first.
    Exit 1 if there are any.

    Example:
      eventsaga stuck
      eventsaga stuck --json | jq -r '.stuck[] | [.saga_id, .why] | @tsv'
    """
    from eventsaga.store.postgres.sql import qualify

    target.aim(database_url, schema)
    async with target.opened() as orchestrator:
        sql = qualify(_STUCK, orchestrator.store.settings.schema)
        async with orchestrator.store.connection() as connection:
            rows = [_Stuck(*row) for row in await connection.fetch(sql, limit)]
    if as_json:
        say_json({"stuck": [asdict(row) for row in rows]})
    elif rows:
        _show_stuck(rows)
        if len(rows) == limit:
            note("There may be more: --limit")
    else:
        say("nothing is stuck")
    return NO if rows else OK


_REMEDIES: Final = {
    "parked": "see `eventsaga explain ID`",
    "no worker": "start a worker that has it",
    "no progress": "see what its worker does",
}


def _show_stuck(rows: "list[_Stuck]") -> None:
    now = datetime.now(UTC)
    for row in rows:
        age = duration(max(now, row.since) - row.since)
        name = row.saga_name if row.version == 1 else f"{row.saga_name} v{row.version}"
        say(clean(f"{row.saga_id}  {row.why}  {age}  {name}"))
        where = row.step or ", ".join(row.current_steps)
        what = ": ".join(part for part in (where, row.message or "") if part)
        if what:
            say(clean(f"    {what}"))
    for why in dict.fromkeys(row.why for row in rows):
        note(f"{why}: {_REMEDIES[why]}")


@filtering
async def parked(
    *,
    asked: Asked,
    limit: Limit = 20,
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> int:
    """List sagas that wait for a person, and what they take.

    Example:
      eventsaga parked
      eventsaga parked --name order --older-than 1h
    """
    from dataclasses import replace

    target.aim(database_url, schema)
    wanted = replace(asked.wanted(), statuses=(Status.PARKED,))
    async with target.opened() as orchestrator:
        rows = await orchestrator.store.list_sagas(wanted, limit=limit)
        explained = {row.saga_id: await orchestrator.explain(row.saga_id) for row in rows}
    if as_json:
        say_json({"parked": [{**asdict(row), **asdict(explained[row.saga_id])} for row in rows]})
    elif not rows:
        say("nothing waits for a person" if not asked.is_anything else "no saga fits")
    else:
        _show_parked(rows, explained)
        if len(rows) == limit:
            note("There may be more: --limit")
    return OK


def _show_parked(rows: "list[SagaRow]", explained: "dict[UUID, Explanation]") -> None:
    show_sagas(rows)
    for row in rows:
        explanation = explained[row.saga_id]
        say()
        say(clean(f"{row.saga_id}: {' '.join(explanation.why)}"))
        for line in choices(explanation):
            say(str(styled(line)))

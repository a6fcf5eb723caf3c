"""What happened to this saga? Read from its history, so no module of the user is needed."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from eventsaga.cli import ids, moments, target
from eventsaga.cli.fail import OK
from eventsaga.cli.ids import SagaId
from eventsaga.cli.output import (
    STATUS_STYLES,
    AsJson,
    clock,
    compact_json,
    duration,
    grid,
    instant,
    say,
    say_json,
    show,
    show_with_notes,
    some,
    styled,
    width,
)
from eventsaga.cli.target import DatabaseUrl, Schema

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from eventsaga.core.state import State
    from eventsaga.observe.timeline import Line
    from eventsaga.store.ports import SagaRow


async def show_saga(
    saga_id: SagaId,
    *,
    verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", help="Also show idempotency keys, results and workers."),
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", "-a", help="A line for each of many items, too.")
    ] = False,
    at: Annotated[
        str | None, typer.Option("--at", metavar="MOMENT", help=f"As of then: {moments.FORMS}.")
    ] = None,
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> int:
    """Show where a saga stands and what happened to it.

    One line an attempt; times are UTC. The beginning of the id is enough. Of a group with
    many items, those that went well are one line.

    Example:
      eventsaga show 01a205d7-ba5e -v
      eventsaga show 01a205d7-ba5e --at 2026-11-22T14:03
    """
    from eventsaga.client.travel import until
    from eventsaga.core.evolve import replay
    from eventsaga.core.state import State
    from eventsaga.observe.summary import summary
    from eventsaga.observe.timeline import timeline

    moment = None if at is None else moments.moment(at)
    target.aim(database_url, schema)
    async with target.opened() as orchestrator:
        found = await ids.find(orchestrator.store, saga_id)
        history = await orchestrator.history(found)
        row = await orchestrator.store.get(found)
        children = await orchestrator.children(found)
    if moment is not None:
        # Of others, and of who owned it, its own history knows nothing.
        history, row, children = until(history, moment), None, ()
    state = replay((stored.event for stored in history), State(found))
    lines = timeline(history)
    if as_json:
        say_json(_as_json(state, row, children, lines))
        return OK
    show(_title(state))
    show(_header(state, row, past=moment is not None))
    _show_children(children)
    say()
    show_timeline(lines if everything else summary(lines), verbose=verbose)
    return OK


# -- where it stands ----------------------------------------------------------------------


def _title(state: "State") -> "Table":
    table = grid(columns=3)
    style = STATUS_STYLES[state.status]
    table.add_row(
        styled(state.saga_name, "bold"), str(state.saga_id), styled(state.status, f"bold {style}")
    )
    return table


def _header(state: "State", row: "SagaRow | None", *, past: bool) -> "Table":
    from eventsaga.store.projection import error_of

    error = error_of(state)
    in_doubt = [name for name, step in state.steps.items() if step.is_in_doubt]
    facts = {
        "started": instant(state.created_at),
        _last_label(state): _last(state),
        "version": "" if state.version == 1 else str(state.version),
        "deadline": "" if state.deadline_at is None else instant(state.deadline_at),
        "key": state.key or "",
        "tenant": state.tenant or "",
        "parent": "" if state.parent_id is None else f"{state.parent_id}, step {state.parent_step}",
        "correlation": state.correlation_id if state.correlation_id != str(state.saga_id) else "",
        "context": compact_json(state.context),
        "error": "" if error is None else _error(error),
        "in doubt": some(in_doubt),
        "now": "" if past else _next(state) if state.status.is_settled else _now(state, row),
    }
    table = grid(columns=2)
    for label, text in facts.items():
        if text:
            style = "yellow" if label == "in doubt" else "red" if label == "error" else ""
            table.add_row(styled(f"  {label}", "dim"), styled(text, style))
    return table


def _show_children(children: "Sequence[SagaRow]") -> None:
    if not children:
        return
    table = grid(columns=4)
    for number, row in enumerate(children[:_MOST_CHILDREN]):
        table.add_row(
            styled("" if number else "  children", "dim"),
            str(row.saga_id),
            styled(row.status, STATUS_STYLES[row.status]),
            styled(f"{row.name}, step {row.parent_step}"),
        )
    if len(children) > _MOST_CHILDREN:
        table.add_row("", f"… and {len(children) - _MOST_CHILDREN:,} more", "", "")
    show(table)


def _last_label(state: "State") -> str:
    if state.status == "PARKED":
        return "parked"
    return "ended" if state.status.is_terminal else "last event"


def _last(state: "State") -> str:
    took = duration(state.updated_at - state.created_at)
    return f"{instant(state.updated_at)}, after {took} and {state.seq} events"


def _error(error: dict[str, Any]) -> str:
    step = error["step_name"]
    return f"{step}: {error['message']}" if step else str(error["message"])


def _next(state: "State") -> str:
    """Return what a person may do about a saga that is settled."""
    if state.status != "PARKED":
        return ""
    return f"a person is needed: `eventsaga explain {state.saga_id}` says what may be done"


def _now(state: "State", row: "SagaRow | None") -> str:
    """Return who goes on with the saga, and when, or what it waits for."""
    if row is None:
        return "nobody: it has no row; `eventsaga rebuild` makes one"
    steps = some(state.open_steps)
    at_work = f" on {steps}" if steps else ""
    signals = _signals(state)
    if signals:
        return signals
    if row.owner is not None:
        return f"worker {row.owner}{at_work}"
    if row.wake_at is None:
        return "nobody, and it is never due; `eventsaga rebuild` repairs that"
    return f"waiting {_due(row.wake_at)}{at_work}"


def _due(wake_at: datetime) -> str:
    if wake_at.year == _FOR_EVER:
        return "for somebody (or something)"
    if wake_at > datetime.now(UTC):
        return f"until {instant(wake_at)}"
    return f"for a worker since {instant(wake_at)}"


def _signals(state: "State") -> str:
    """Return which signals the saga waits for, and how long; empty if it does more than that."""
    from eventsaga.client.explain import awaited_signals

    waiting = awaited_signals(state)
    steps = [step for names in waiting.values() for step in names]
    if len(steps) < len(state.open_steps):
        return ""
    until = [at for step in steps if (at := state.steps[step].retry_at) is not None]
    limit = f", until {instant(min(until))}" if until else ""
    return f"waiting for signal {some(waiting)} on {some(steps)}{limit}" if steps else ""


# -- what happened ------------------------------------------------------------------------

_OUTCOME_STYLES: Final = {
    "succeeded": "green",
    "failed": "red",
    "in doubt": "yellow",
    "running": "cyan",
    "taken over": "magenta",
    "cancel requested": "yellow",
    "deadline exceeded": "yellow",
    "goes back": "yellow",
    "parked": "bold red",
    "completed": "bold green",
    "compensated": "bold yellow",
    "sleeping": "cyan",
    "waiting": "cyan",
    "asking": "cyan",
    "skipped": "dim",
    "undo requested": "yellow",
    "given up": "bold red",
    "not told": "red",
}


# What waits for somebody is due in that year.
_FOR_EVER: Final = 9999
# A line with a step of 20 characters and a short message takes so much.
_ROOM_FOR_DETAIL: Final = 120
_ROOM_FOR_CLOCK: Final = 80
_MOST_CHILDREN: Final = 20


def show_timeline(lines: "Sequence[Line]", *, verbose: bool) -> None:
    """Write *lines*, one below the other; the details below each where there is no room."""
    start, room = lines[0].at, width()
    beside = room >= _ROOM_FOR_DETAIL
    instant_of = clock if start.date() == lines[-1].at.date() else instant
    table = grid(columns=6)
    for number in (0, 4):
        table.columns[number].justify = "right"
    below: list[Text] = []
    for line in lines:
        details = [line.detail or "", _more(line) if verbose else ""]
        detail = styled(" · ".join(part for part in details if part))
        table.add_row(
            f"+{(line.at - start).total_seconds():.3f} s",
            instant_of(line.at) if room >= _ROOM_FOR_CLOCK else "",
            styled(line.subject, "bold" if line.step is None else ""),
            styled(line.outcome, _style(line)),
            "" if line.took is None else duration(line.took),
            detail if beside else "",
        )
        below.append(styled("") if beside else detail)
    if beside:
        show(table)
    else:
        show_with_notes(table, below)


def _style(line: "Line") -> str:
    if line.operation == "compensate" and line.outcome == "compensated":
        return "yellow"
    return _OUTCOME_STYLES.get(line.outcome, "")


def _more(line: "Line") -> str:
    facts = {
        "key": line.idempotency_key,
        "result": None if line.result is None else compact_json(line.result),
        "worker": line.worker_id and str(line.worker_id)[:8],
        "event": line.seq,
    }
    return " · ".join(f"{label} {fact}" for label, fact in facts.items() if fact is not None)


# -- for programs -------------------------------------------------------------------------


def _as_json(
    state: "State",
    row: "SagaRow | None",
    children: "Sequence[SagaRow]",
    lines: "Sequence[Line]",
) -> dict[str, Any]:
    from eventsaga.core.state import Phase
    from eventsaga.store.projection import current_steps, error_of

    return {
        "saga_id": state.saga_id,
        "saga_name": state.saga_name,
        "version": state.version,
        "fingerprint": state.fingerprint,
        "status": state.status,
        "context": state.context,
        "completed_steps": list(state.in_phase(Phase.SUCCEEDED)),
        "compensated_steps": list(state.in_phase(Phase.COMPENSATED)),
        "in_doubt_steps": [name for name, step in state.steps.items() if step.is_in_doubt],
        "current_steps": current_steps(state),
        "error": error_of(state),
        "correlation_id": state.correlation_id,
        "key": state.key,
        "tenant": state.tenant,
        "parent": None
        if state.parent_id is None
        else {"saga_id": state.parent_id, "step": state.parent_step},
        "children": [
            {
                "saga_id": child.saga_id,
                "step": child.parent_step,
                "name": child.name,
                "status": child.status,
            }
            for child in children
        ],
        "deadline_at": state.deadline_at,
        "seq": state.seq,
        "created_at": state.created_at,
        "updated_at": state.updated_at,
        "owner": None if row is None else row.owner,
        "wake_at": None if row is None else row.wake_at,
        "timeline": [_line_as_json(line, state.created_at) for line in lines],
    }


def _line_as_json(line: "Line", start: datetime) -> dict[str, Any]:
    took = line.took
    return {
        **asdict(line),
        "seconds": (line.at - start).total_seconds(),
        "took_seconds": None if took is None else took.total_seconds(),
    }

"""What is on each page? The same facts for people, as HTML, and for programs, as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final
from uuid import UUID

from eventsaga.client import Orchestrator, portrait
from eventsaga.client.explain import Explanation
from eventsaga.client.standing import history_of, judged
from eventsaga.client.travel import difference, until
from eventsaga.core.evolve import replay
from eventsaga.core.graph import SagaDefinition
from eventsaga.core.shape import nodes_from
from eventsaga.core.state import State, Status
from eventsaga.dashboard import asking, drawing
from eventsaga.errors import EventSagaError, UnknownSagaError
from eventsaga.observe.summary import summary
from eventsaga.observe.timeline import timeline
from eventsaga.store.ports import SagaFilter, SagaRow, StoredEvent
from eventsaga.store.postgres.overview import InFlight, in_flight
from eventsaga.store.postgres.shapes import all_recorded

_MOST_LINES: Final = 1000
_PARKED: Final = 25

Query = Mapping[str, str]


async def page_of_sagas(
    orchestrator: Orchestrator, query: Query, *, default: int = 50
) -> tuple[Sequence[SagaRow], UUID | None]:
    """Return a page of the sagas that are asked for, and where the next one begins."""
    limit = asking.number(query, "limit", default, asking.MOST)
    rows = await orchestrator.store.list_sagas(
        asking.wanted(query), before=asking.before(query), limit=limit + 1
    )
    return rows[:limit], rows[limit - 1].saga_id if len(rows) > limit else None


async def page_of_parked(
    orchestrator: Orchestrator, query: Query
) -> tuple[list[tuple[SagaRow, Explanation | None]], UUID | None]:
    """Return a page of what waits for a person, with what each would take."""
    limit = asking.number(query, "limit", _PARKED, asking.MOST)
    wanted = SagaFilter(statuses=[Status.PARKED], name=asking.text(query, "name"))
    rows = await orchestrator.store.list_sagas(wanted, before=asking.before(query), limit=limit + 1)
    explained = [(row, await explained_or_none(orchestrator, row.saga_id)) for row in rows[:limit]]
    return explained, rows[limit - 1].saga_id if len(rows) > limit else None


async def explained_or_none(orchestrator: Orchestrator, saga_id: UUID) -> Explanation | None:
    """Return why a saga is where it is; None if its history or definition cannot be read."""
    try:
        return await orchestrator.explain(saga_id)
    except EventSagaError:
        return None


async def saga(orchestrator: Orchestrator, saga_id: UUID, query: Query) -> dict[str, Any]:
    """Return what is on the page of one saga."""
    history = await history_of(orchestrator.store, saga_id)
    last = history[-1].seq
    seq = asking.number(query, "seq", last, last)
    state = _replayed(history)
    lines = summary(timeline(history))
    definition = await _definition(orchestrator, saga_id)
    children = await orchestrator.children(saga_id)
    page = asking.number(query, "page", 1, 1_000_000)
    shown = history[(page - 1) * asking.MOST : page * asking.MOST]
    return {
        "state": state,
        "seq": seq,
        "last": last,
        "facts": list(portrait.facts(state, children)),
        "children": children,
        "graph": None if definition is None else drawing.graph(definition, state),
        "bars": list(portrait.bars(lines[:_MOST_LINES], state)),
        "lines": [portrait.row(line) for line in lines[:_MOST_LINES]],
        "lines_left": max(0, len(lines) - _MOST_LINES),
        "events": [portrait.event(stored) for stored in shown],
        "number": page,
        "pages": -(-last // asking.MOST),
        "explained": await explained_or_none(orchestrator, saga_id),
    } | _at(history, seq)


def _at(history: tuple[StoredEvent, ...], seq: int) -> dict[str, Any]:
    """Return the context as of an event, and what that event has changed."""
    stored = history[seq - 1]
    then = _replayed(until(history, seq))
    changed = difference(history, max(seq - 1, 1), seq).changes
    return {
        "then": then,
        "context": portrait.pretty(dict(then.context)),
        "stored": portrait.event(stored),
        "changes": [portrait.changed(change) for change in changed],
    }


def _replayed(history: Sequence[StoredEvent]) -> State:
    return replay((stored.event for stored in history), State(history[0].saga_id))


async def _definition(orchestrator: Orchestrator, saga_id: UUID) -> SagaDefinition | None:
    try:
        _, definition = await judged(orchestrator.store, orchestrator.sagas, saga_id)
    except UnknownSagaError:
        return None
    return definition


async def state_at(orchestrator: Orchestrator, saga_id: UUID, query: Query) -> dict[str, Any]:
    """Return where a saga stood after an event."""
    history = await history_of(orchestrator.store, saga_id)
    seq = asking.number(query, "seq", history[-1].seq, history[-1].seq)
    then = _replayed(until(history, seq))
    steps = {name: step.phase for name, step in then.steps.items()}
    changed = difference(history, max(seq - 1, 1), seq).changes
    return {
        "saga_id": saga_id,
        "seq": seq,
        "status": then.status,
        "context": dict(then.context),
        "steps": steps,
        "changed": [change.path for change in changed],
    }


async def events(orchestrator: Orchestrator, saga_id: UUID, query: Query) -> dict[str, Any]:
    """Return some events of a saga, and behind which the next ones begin."""
    history = await history_of(orchestrator.store, saga_id)
    limit = asking.number(query, "limit", 100, asking.MOST)
    after = 0 if query.get("after") == "0" else asking.number(query, "after", 0, 999_999_999)
    found = history[after : after + limit]
    listed = [
        {"seq": one.seq, "type": one.type, "occurred_at": one.event.at}
        | {"recorded_at": one.recorded_at, "worker_id": one.worker_id, "data": one.data}
        for one in found
    ]
    more = found[-1].seq if found and found[-1].seq < history[-1].seq else None
    return {"saga_id": saga_id, "events": listed, "after": more}


async def definitions(
    orchestrator: Orchestrator, name: str | None = None
) -> list[tuple[InFlight, SagaDefinition | None]]:
    """Return what was ever brought, with its shape if this version can read it."""
    shapes = await all_recorded(orchestrator.store)
    found: list[tuple[InFlight, SagaDefinition | None]] = []
    for one in await in_flight(orchestrator.store):
        if name in {None, one.name}:
            try:
                nodes = nodes_from(shapes[one.key])
                shape = SagaDefinition(name=one.name, version=one.version, nodes=nodes)
            except (EventSagaError, KeyError):
                shape = None
            found.append((one, shape))
    return found


def plain_row(row: SagaRow) -> dict[str, Any]:
    """Return a saga for programs."""
    return asdict(row)

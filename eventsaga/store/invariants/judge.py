"""Does a saga keep all promises? Its rows, its history and its effects, in this order."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from eventsaga.core.events import SagaEvent, SagaStarted
from eventsaga.core.graph import SagaDefinition
from eventsaga.core.shape import nodes_from
from eventsaga.errors import DefinitionError
from eventsaga.store.examine import (
    CHAIN,
    GAPLESS,
    GRAMMAR,
    EventRecord,
    SagaRecord,
    Violation,
    examine_row,
    read_history,
    shortened,
)
from eventsaga.store.invariants.effects import Ledger, judge_effects
from eventsaga.store.invariants.history import judge_history
from eventsaga.store.invariants.told import Known, Told
from eventsaga.store.ports import DefinitionKey

_TAMPERED: Final = frozenset({GAPLESS, CHAIN})


def judge(
    saga_id: UUID,
    row: SagaRecord | None,
    records: Sequence[EventRecord],
    *,
    known: Mapping[DefinitionKey, Known] | None = None,
    ledger: Ledger | None = None,
) -> list[Violation]:
    """Return what is wrong with a saga, by invariant.

    What a history says is judged only if it was not tampered with; then, if an event cannot
    stand where it stands and breaks another invariant, that one is named.

    Args:
        saga_id: The saga.
        row: Its row; None if there is none.
        records: All its events by number, from the same snapshot as *row*.
        known: What is known of its definition; without that the order of undoing and the
            number of attempts are not judged.
        ledger: What participants did; None if nobody has written it down.
    """
    history = read_history(saga_id, records)
    found = list(history.violations)
    refused = next((v.seq for v in found if v.invariant == GRAMMAR), None)
    is_foldable = refused is not None or history.projection is not None
    whole = len(history.events) == len(records) and is_foldable
    if history.events and whole and not any(v.invariant in _TAMPERED for v in found):
        # Behind an event that the grammar refused nothing says anything.
        told = _told(saga_id, records, history.events[:refused], known or {})
        found += judge_history(told)
        if any(v.seq == refused and v.invariant != GRAMMAR for v in found):
            found = [v for v in found if v.invariant != GRAMMAR or v.seq != refused]
        if refused is None and ledger is not None:
            found += judge_effects(told, ledger)
    found += examine_row(saga_id, row, records, history)
    return shortened(saga_id, found)


def _told(
    saga_id: UUID,
    records: Sequence[EventRecord],
    events: Sequence[SagaEvent],
    known: Mapping[DefinitionKey, Known],
) -> Told:
    first = events[0]
    definition = (
        known.get((first.saga_name, first.version, first.fingerprint))
        if isinstance(first, SagaStarted)
        else None
    )
    return Told(
        saga_id,
        events,
        workers=[record.worker_id for record in records[: len(events)]],
        recorded_at=[record.recorded_at for record in records[: len(events)]],
        known=definition,
    )


def known_definitions(
    shapes: Mapping[DefinitionKey, Mapping[str, Any]],
    definitions: Iterable[SagaDefinition] = (),
    *,
    most_takeovers: int | None = None,
) -> dict[DefinitionKey, Known]:
    """Return what is known of sagas by definition.

    Args:
        shapes: Recorded shapes; what a newer eventsaga recorded is left out.
        definitions: Definitions themselves, with their policies.
        most_takeovers: See `Known`.
    """
    found: dict[DefinitionKey, Known] = {}
    for key, shape in shapes.items():
        name, version, fingerprint = key
        try:
            definition = SagaDefinition(name=name, version=version, nodes=nodes_from(shape))
        except DefinitionError:
            continue
        if definition.fingerprint == fingerprint:
            found[key] = Known(definition=definition, most_takeovers=most_takeovers)
    for definition in definitions:
        key = (definition.name, definition.version, definition.fingerprint)
        found[key] = Known(definition=definition, has_policies=True, most_takeovers=most_takeovers)
    return found

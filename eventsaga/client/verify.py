"""Does the store keep its promises? Every saga is judged by `eventsaga.store.invariants`, online.

Not found, because nothing in the database says so: a tail that was cut off together with its
trace in the row, a whole saga that was deleted together with its start key, and a change of
``recorded_at`` or ``txid`` of an event, which the chain does not cover.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import timedelta
from functools import partial
from typing import Final
from uuid import UUID

from eventsaga.core.graph import SagaDefinition
from eventsaga.store.examine import EventRecord, SagaRecord, Violation
from eventsaga.store.invariants import (
    Keyed,
    Known,
    Ledger,
    judge,
    judge_due,
    judge_keys,
    judge_starts,
    known_definitions,
    start_key_of,
)
from eventsaga.store.ports import DefinitionKey
from eventsaga.store.postgres.across import due, lost_keys, sagas_by_key
from eventsaga.store.postgres.scan import Progress, scan
from eventsaga.store.postgres.shapes import all_recorded
from eventsaga.store.postgres.store import PostgresStore

# Start keys that are looked up at a time: memory is bounded, whatever there is.
_KEYS: Final = 1000


async def verify(
    store: PostgresStore,
    saga_ids: Iterable[UUID] | None = None,
    *,
    definitions: Iterable[SagaDefinition] = (),
    ledger: Ledger | None = None,
    grace: timedelta | None = None,
    most_takeovers: int | None = None,
    progress: Progress | None = None,
) -> AsyncGenerator[Violation]:
    """Yield what is wrong with sagas, by id, and then what only all of them together tell.

    Workers may go on meanwhile: a row and its events are written by one statement and read
    from one snapshot. Sagas that are started after the beginning are left out.

    Args:
        store: An open store; nothing is written.
        saga_ids: Only these; None for all. An id that does not exist is a violation.
        definitions: Definitions with their policies, by which attempts are counted. The
            order of steps is known without: their shapes were recorded.
        ledger: What participants did; None if nobody wrote it down.
        grace: How long a saga may be due, or its worker dead, before that is a violation;
            None if nobody need be there now.
        most_takeovers: How often a saga may be taken over in a row without progress; what
            `Settings.poison_claims` of the workers says. None if that is not known.
        progress: Called now and then with the sagas done and all that there are.

    Raises:
        DatabaseUnavailableError: If the database cannot be reached any more.
    """
    chosen = None if saga_ids is None else tuple(saga_ids)
    shapes = await all_recorded(store)
    known = known_definitions(shapes, definitions, most_takeovers=most_takeovers)
    seen: set[UUID] | None = None if ledger is None else set()
    look = partial(_look, known=known, ledger=ledger, seen=seen)
    found = scan(store, look, saga_ids=chosen, progress=progress)
    async with aclosing(_with_keys_judged(store, found)) as judged:
        async for violation in judged:
            yield violation
    if ledger is not None and seen is not None and chosen is None:
        for violation in ledger.strangers(seen):
            yield violation
    if chosen is None:
        for violation in judge_keys(await lost_keys(store)):
            yield violation
    sagas, now = await due(store, grace, chosen)
    for violation in judge_due(sagas, now, grace):
        yield violation


def _look(
    saga_id: UUID,
    row: SagaRecord | None,
    records: Sequence[EventRecord],
    *,
    known: Mapping[DefinitionKey, Known],
    ledger: Ledger | None,
    seen: set[UUID] | None,
) -> Sequence[Violation | Keyed]:
    """Return what is wrong with a saga, and the start key that it says it has."""
    found: list[Violation | Keyed] = [*judge(saga_id, row, records, known=known, ledger=ledger)]
    if seen is not None:
        seen.add(saga_id)
    start_key = start_key_of(records)
    if start_key is not None:
        found.append(Keyed(saga_id, start_key))
    return found


async def _with_keys_judged(
    store: PostgresStore, found: AsyncGenerator[Violation | Keyed]
) -> AsyncGenerator[Violation]:
    """Yield the violations of *found*, and those of the start keys among it, some at a time."""
    keyed: list[Keyed] = []
    async with aclosing(found):
        async for what in found:
            if isinstance(what, Violation):
                yield what
                continue
            keyed.append(what)
            if len(keyed) == _KEYS:
                async for violation in _judged(store, keyed):
                    yield violation
                keyed.clear()
    async for violation in _judged(store, keyed):
        yield violation


async def _judged(store: PostgresStore, keyed: Sequence[Keyed]) -> AsyncIterator[Violation]:
    kept = await sagas_by_key(store, [saga.start_key for saga in keyed]) if keyed else {}
    for violation in judge_starts(keyed, kept):
        yield violation

"""Does the store keep its promises? Every saga's rows are judged by `examine`, online.

Found are: gaps (1), impossible histories (2), rows that are not the fold of their events
(3), sagas that nobody would ever go on with (16), and broken hash chains (19); also events
without a row, and rows without events.

Not found, because nothing in the database says so: a tail that was cut off together with
its trace in the row, a whole saga that was deleted, and ``recorded_at``, ``worker_id`` and
``txid`` of an event, which the chain does not cover.
"""

from collections.abc import AsyncGenerator, Iterable
from uuid import UUID

from eventsaga.store.examine import Violation, examine
from eventsaga.store.postgres.scan import Progress, scan
from eventsaga.store.postgres.store import PostgresStore


def verify(
    store: PostgresStore,
    saga_ids: Iterable[UUID] | None = None,
    *,
    progress: Progress | None = None,
) -> AsyncGenerator[Violation]:
    """Yield what is wrong with sagas, by id; nothing if all is well.

    Workers may go on meanwhile: a row and its events are written by one statement and
    read from one snapshot. Sagas that are started after the beginning are left out.

    Args:
        store: An open store; nothing is written.
        saga_ids: Only these; None for all. An id that does not exist is a violation.
        progress: Called now and then with the sagas done and all that there are.

    Raises:
        DatabaseUnavailableError: If the database cannot be reached any more.
    """
    return scan(store, examine, saga_ids=saga_ids, progress=progress)

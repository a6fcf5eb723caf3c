"""Is every saga looked at, once, with little memory and no long transaction?"""

from collections.abc import Sequence
from uuid import UUID

import pytest

from eventsaga.store.examine import EventRecord, SagaRecord
from eventsaga.store.postgres import scan as scanning
from eventsaga.store.postgres.scan import scan
from eventsaga.store.postgres.store import PostgresStore
from tests.store.builders import start_saga, start_sagas
from tests.store.vandal import Vandal


@pytest.mark.parametrize("page", [1, 2, 3, 5])
@pytest.mark.parametrize("without", ["eventsaga.sagas", "eventsaga.events"])
async def test_every_saga_is_seen_once_whatever_the_page(
    store: PostgresStore,
    vandal: Vandal,
    monkeypatch: pytest.MonkeyPatch,
    page: int,
    without: str,
) -> None:
    """Half of them have lost their row, or their events: a page may be full of such."""
    monkeypatch.setattr(scanning, "_PAGE", page)
    monkeypatch.setattr(scanning, "_FETCH", 2)
    sagas = sorted(held.saga_id for held in await start_sagas(store, None, 9))
    await vandal.edit(f"DELETE FROM {without} WHERE saga_id = ANY ($1)", sagas[2:7])  # noqa: S608
    progress: list[int] = []

    seen = [
        saga_id
        async for saga_id in scan(
            store, look_at_ids, progress=lambda done, _total: progress.append(done)
        )
    ]

    assert seen == sagas
    assert progress[-1] == len(sagas)
    assert progress == sorted(progress)


def look_at_ids(
    saga_id: UUID, _row: SagaRecord | None, _events: Sequence[EventRecord]
) -> tuple[UUID, ...]:
    return (saga_id,)


async def test_a_scan_ends_although_new_sagas_keep_coming(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanning, "_PAGE", 1)
    at_first = {held.saga_id for held in await start_sagas(store, None, 3)}
    seen: set[UUID] = set()
    async for saga_id in scan(store, look_at_ids):
        seen.add(saga_id)
        await start_saga(store)
    assert seen == at_first


async def test_no_transaction_is_open_while_something_is_yielded(
    store: PostgresStore, vandal: Vandal
) -> None:
    """A slow reader must hold up no vacuum."""
    await start_sagas(store, None, 3)
    open_transactions: list[int] = []
    async for _ in scan(store, look_at_ids):
        async with store.connection() as connection:
            open_transactions.append(
                await connection.fetchval(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                    " AND backend_xmin IS NOT NULL AND pid <> pg_backend_pid()"
                )
            )
    assert open_transactions == [0, 0, 0]

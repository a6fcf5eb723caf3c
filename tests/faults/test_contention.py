"""Does it survive other people's transactions? Deadlocks and serialization failures, whole units.

PostgreSQL ends one transaction of a deadlock: the one whose ``deadlock_timeout`` passes first
after the circle has closed. The foreign sessions of these tests have more of it than ours.
"""

import asyncio
from pathlib import Path
from typing import Final

import asyncpg

from eventsaga import Orchestrator, Status
from eventsaga.client.verify import verify
from eventsaga.core.events import StepCompensationFailed, StepFailed
from eventsaga.store.invariants import Effect, Ledger
from tests.acceptance.crash.crew import crew
from tests.acceptance.crash.participant import Participant
from tests.faults.cluster import Cluster, Ground, cluster
from tests.faults.load import QUICK, dice, loading
from tests.faults.stock import TABLES, Order, stock_saga

SAGAS: Final = range(60)
ROUNDS: Final = 30
ENOUGH: Final = 3
DEADLOCKS: Final = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
IS_WAITED_FOR: Final = "SELECT EXISTS (SELECT FROM pg_locks WHERE $1 = ANY (pg_blocking_pids(pid)))"
ONE_SAGA: Final = """
SELECT saga_id FROM eventsaga.sagas WHERE status IN ('RUNNING', 'COMPENSATING')
 ORDER BY saga_id DESC LIMIT 1 FOR UPDATE
"""
ALL_SAGAS: Final = "SELECT FROM eventsaga.sagas ORDER BY saga_id DESC FOR UPDATE"
# Whoever waits for a lock looks once, after this time, whether it is a deadlock: the foreign
# session must have made it one by then. If not, it sees that itself. An append that waits for
# longer than half a second does not wait on, but asks again saga by saga.
OURS: Final = "300ms"
THEIRS: Final = "SET deadlock_timeout = '6s'"
SERIALIZABLE: Final = "ALTER DATABASE sagas SET default_transaction_isolation = 'serializable'"


async def _cross(server: Cluster, first: str, rest: str) -> None:
    """Lock what *first* says until somebody waits for it, and then all that *rest* says."""
    connection = await asyncpg.connect(server.url)
    try:
        await connection.execute(THEIRS)
        async with connection.transaction(isolation="read_committed"):
            if not await connection.fetch(first):
                return
            await server.until(IS_WAITED_FOR, connection.get_server_pid(), seconds=60)
            await connection.execute(rest)
    finally:
        await connection.close()


async def _cross_often(
    server: Cluster, first: str, rest: str, theirs: list[asyncpg.PostgresError]
) -> None:
    """Cross until workers were victims; *theirs* gets the deadlocks of which they were not."""
    for _ in range(ROUNDS):
        if int(str(await server.fetchval(DEADLOCKS))) >= ENOUGH + len(theirs):
            return
        try:
            await _cross(server, first, rest)
        except asyncpg.DeadlockDetectedError as error:
            theirs.append(error)  # it was too slow, and is the victim itself


async def test_deadlocks_over_the_rows_of_sagas_cost_time_and_nothing_else(
    place: Ground, participant: Participant, tmp_path: Path
) -> None:
    """Others lock one saga, and all when a batch waits for that; SERIALIZABLE for everybody."""
    theirs: list[asyncpg.PostgresError] = []
    async with cluster(place, "server", deadlock_timeout=OURS) as server:
        await server.create()
        await server.execute(SERIALIZABLE)
        async with (
            loading(server.url, participant) as load,
            crew(server.url, participant.url, tmp_path) as workers,
        ):
            await workers.hire()
            await workers.hire()
            load.hold(5)
            await load.start(SAGAS)
            await load.held()
            others = asyncio.create_task(_cross_often(server, ONE_SAGA, ALL_SAGAS, theirs))
            load.release()
            try:
                await load.judged()
            finally:
                others.cancel()
                await asyncio.gather(others, return_exceptions=True)
        deadlocks = int(str(await server.fetchval(DEADLOCKS)))

    assert deadlocks > len(theirs), "no statement of ours was the victim"


async def test_deadlocks_over_rows_of_the_user_run_the_whole_step_again_and_spend_no_attempt(
    place: Ground, tmp_path: Path
) -> None:
    chance = dice()
    declined = [chance.random() < 0.2 for _ in SAGAS]
    async with cluster(place, "server", deadlock_timeout=OURS) as server:
        await server.create()
        await server.execute(*TABLES, SERIALIZABLE)
        async with (
            Orchestrator(server.url, sagas=[stock_saga], worker=False, settings=QUICK) as client,
            crew(server.url, "", tmp_path, program="tests.faults.stock") as workers,
        ):
            others = asyncio.create_task(
                _cross_often(
                    server,
                    "SELECT id FROM stock WHERE id = 2 FOR UPDATE",
                    "SELECT id FROM stock WHERE id = 1 FOR UPDATE",
                    [],
                )
            )
            handles = await client.start_many(
                stock_saga, [Order(declined=is_declined) for is_declined in declined]
            )
            await workers.hire()
            await workers.hire()
            try:
                states = [await handle.result(timeout=60) for handle in handles]
            finally:
                others.cancel()
                await asyncio.gather(others, return_exceptions=True)

            expected = [Status.COMPENSATED if back else Status.COMPLETED for back in declined]
            assert [state.status for state in states] == expected, workers.logs()
            assert await _ledger_is_broken(server, client) == []
            failures = [
                stored.event
                for handle in handles
                for stored in await handle.history()
                if isinstance(stored.event, StepFailed | StepCompensationFailed)
                and stored.event.step == "take"
            ]
        deadlocks = int(str(await server.fetchval(DEADLOCKS)))
        amounts = await server.fetchval("SELECT array_agg(DISTINCT amount) FROM stock")

    assert deadlocks > 0
    assert all(failure.interrupted for failure in failures)
    # Each was in the way once, and nothing was tried more often than that.
    assert 0 < len(failures) <= deadlocks
    assert amounts == [declined.count(False)]


async def _ledger_is_broken(server: Cluster, client: Orchestrator) -> list[str]:
    """Return what the user's own rows and the histories do not agree about."""
    connection = await asyncpg.connect(server.url)
    rows = await connection.fetch("SELECT key, at FROM taken")
    await connection.close()
    ledger = Ledger([Effect.of_key(row["key"]) for row in rows], covers={"take"})
    found = verify(
        client.store, definitions=[stock_saga.definition], ledger=ledger, most_takeovers=1000
    )
    return [str(violation) async for violation in found]

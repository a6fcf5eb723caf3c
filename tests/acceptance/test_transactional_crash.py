"""Are a step's own rows and its result one commit, at whatever moment its process is killed?"""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final
from uuid import UUID

import asyncpg
import pytest

from eventsaga import Orchestrator, SagaHandle, Status
from eventsaga.client.verify import verify
from tests import pooler
from tests.acceptance.crash.crew import Crew, crew
from tests.acceptance.crash.participant import kill
from tests.acceptance.crash.transactional import MOMENTS, STEPS, TABLE, Order, transactional_saga
from tests.proxy import Loss, Proxy
from tests.runtime.sagas import events_of, run_sql

PROGRAM: Final = "tests.acceptance.crash.transactional"
WRITTEN: Final = "SELECT operation || ' ' || step FROM effects WHERE saga_id = $1 ORDER BY id"
RECORDED: Final = """
SELECT CASE type WHEN 'StepSucceeded' THEN 'do ' ELSE 'undo ' END || (data->>'step')
  FROM eventsaga.events
 WHERE saga_id = $1 AND type IN ('StepSucceeded', 'StepCompensated')
   AND data->>'step' = ANY($2)
 ORDER BY seq
"""
INSERT: Final = "INSERT INTO effects"
COMMIT: Final = "COMMIT;"
THERE: Final = ["do session", "do connection"]
BACK: Final = ["undo connection", "undo session"]


@pytest.fixture(autouse=True)
async def effects(database: str) -> None:
    """The user's table."""
    await run_sql(database, TABLE)


@pytest.fixture
async def workers(database: str, tmp_path: Path) -> AsyncIterator[Crew]:
    role = pooler.worker_role()
    async with crew(database, "", tmp_path, program=PROGRAM, **role) as members:
        yield members


@pytest.fixture
async def client(database: str) -> AsyncIterator[Orchestrator]:
    async with Orchestrator(database, sagas=[transactional_saga], worker=False) as orchestrator:
        yield orchestrator


async def _facts(database: str, saga_id: UUID) -> tuple[list[str], list[str]]:
    """Return what the steps have written, and which of them are recorded, as of one moment."""
    connection = await asyncpg.connect(database)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            written = await connection.fetch(WRITTEN, saga_id)
            recorded = await connection.fetch(RECORDED, saga_id, list(STEPS))
    finally:
        await connection.close()
    return [row[0] for row in written], [row[0] for row in recorded]


async def _bury(database: str, process: asyncio.subprocess.Process) -> None:
    """See a worker dead, and end its lease: nobody needs to wait for that."""
    async with asyncio.timeout(30):
        assert await process.wait() == -signal.SIGKILL
    await run_sql(database, "UPDATE eventsaga.workers SET lease_until = now() - interval '1 s'")


async def _nothing_was_in_doubt(client: Orchestrator, handle: SagaHandle) -> None:
    """And all is well; the last step, which has no transaction, may have been in doubt."""
    doubts = events_of(await handle.history(), "StepInDoubt")
    assert {doubt.step for doubt in doubts} <= {"confirm"}
    assert [str(violation) async for violation in verify(client.store)] == []


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("operation", ["do", "undo"])
async def test_a_worker_killed_at_any_moment_of_a_transaction_writes_all_of_it_or_nothing(
    database: str, workers: Crew, client: Orchestrator, operation: str, moment: str
) -> None:
    """One saga, and two processes that die of it: one by the session, one by the connection."""
    goes_back = operation == "undo"
    fatal = [what for what in (BACK if goes_back else THERE) if _is_met(what, moment)]
    before = THERE if goes_back else []
    handle = await client.start(
        transactional_saga,
        Order(
            declined=goes_back,
            dies=tuple(f"{what.replace(' ', '/')}/{moment}" for what in fatal),
        ),
    )

    for what in fatal:
        await _bury(database, await workers.hire())
        written, recorded = await _facts(database, handle.id)
        way = before + (BACK if goes_back else THERE)
        done = way.index(what) + (1 if moment == "committed" else 0)
        assert written == recorded == way[:done]

    await workers.hire()
    state = await handle.result(timeout=30)
    written, recorded = await _facts(database, handle.id)
    assert state.status is (Status.COMPENSATED if goes_back else Status.COMPLETED), workers.logs()
    assert written == recorded == before + (BACK if goes_back else THERE)
    await _nothing_was_in_doubt(client, handle)


def _is_met(what: str, moment: str) -> bool:
    """A connection has nothing to flush."""
    return moment != "flushed" or what.endswith("session")


@pytest.mark.parametrize("operation", ["do", "undo"])
@pytest.mark.parametrize(
    "loss", [Loss.REQUEST, Loss.DELAY, Loss.ANSWER], ids=lambda loss: loss.name
)
async def test_a_worker_killed_with_its_commit_on_the_way_leaves_all_of_it_or_nothing(
    database: str, tmp_path: Path, client: Orchestrator, loss: Loss, operation: str
) -> None:
    """COMMIT is never there, or only after its sender's death, or its answer never is."""
    goes_back = operation == "undo"
    way = THERE + BACK if goes_back else THERE
    before = len(THERE) if goes_back else 0
    handle = await client.start(transactional_saga, Order(declined=goes_back))
    role = pooler.worker_role()
    async with (
        Proxy(database) as proxy,
        crew(proxy.url, "", tmp_path, program=PROGRAM, **role) as workers,
    ):
        for _ in range(before):
            proxy.arm(Loss.DELAY, INSERT)
        insert = proxy.arm(Loss.DELAY, INSERT, held=True)
        victim = await workers.hire()
        async with asyncio.timeout(30):
            await insert.struck.wait()
            commit = proxy.arm(loss, COMMIT, held=True)
            insert.go_on.set()
            await (commit.done if loss is Loss.ANSWER else commit.struck).wait()
            kill(victim.pid)
            await _bury(database, victim)
            commit.go_on.set()
            if loss is Loss.DELAY:
                await commit.done.wait()
        written, recorded = await _facts(database, handle.id)
        assert written == recorded == way[: before + (0 if loss is Loss.REQUEST else 1)]

        await workers.hire()
        state = await handle.result(timeout=30)

    written, recorded = await _facts(database, handle.id)
    assert state.status is (Status.COMPENSATED if goes_back else Status.COMPLETED)
    assert written == recorded == way
    await _nothing_was_in_doubt(client, handle)

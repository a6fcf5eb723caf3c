"""Do the fixtures of the pytest plugin work as users have them?"""

import asyncpg

from eventsaga import Orchestrator, Saga, Status, Step
from eventsaga.testing import Simulator
from tests.testing.sagas import ORDER, Order


async def nothing(_order: Order) -> None:
    """Do nothing, well."""


REAL = Saga("real", context=Order, steps=[Step("one", nothing)])


def test_the_simulator_is_built_by_a_fixture(saga_simulator: type[Simulator]) -> None:
    assert saga_simulator(ORDER, {"reserve": {"reservation_id": "r"}}).run(Order()).status is (
        Status.COMPLETED
    )


async def test_each_test_has_a_migrated_database_of_its_own(saga_database: str) -> None:
    async with Orchestrator(saga_database, [REAL]) as orchestrator:
        handle = await orchestrator.start(REAL, Order())
        assert (await handle.result(timeout=20)).status is Status.COMPLETED
    connection = await asyncpg.connect(saga_database)
    try:
        assert await connection.fetchval("SELECT count(*) FROM eventsaga.sagas") == 1
    finally:
        await connection.close()

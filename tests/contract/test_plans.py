"""Do the auditor's questions stay quick with a million events? No plan reads them all."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventsaga.pytest_plugin import in_database
from tests.conftest import execute
from tests.docs.test_sql_page import QUESTIONS
from tests.store.postgres.test_plans import nodes

_EVENTS: Final = 1_000_000
# Two years of sagas of five events; one in a thousand goes back, in doubt, by a person's hand.
_CROWD: Final = (
    """
    INSERT INTO eventsaga.sagas
           (saga_id, name, version, fingerprint, status, current_steps, context, correlation_id,
            last_seq, last_hash, created_at, updated_at)
    SELECT lpad(to_hex(n), 32, '0')::uuid, 'order', 1, 'f',
           CASE WHEN n % 1000 = 0 THEN 'PARKED' ELSE 'COMPLETED' END, '{}', '{}', n::text, 5,
           '', now() - (200000 - n) * interval '5 min', now() - (200000 - n) * interval '5 min'
      FROM generate_series(1, 200000) n
    """,
    """
    INSERT INTO eventsaga.events
           (saga_id, seq, type, schema_version, data, occurred_at, recorded_at, salt, hash)
    SELECT s.saga_id, e.seq, e.type, 1,
           json_build_object('step', e.step, 'attempt', 1, 'operation', 'execute',
                             'actor', e.actor, 'context', '{}'::json),
           s.created_at, s.created_at, '', ''
      FROM eventsaga.sagas s
     CROSS JOIN LATERAL (VALUES
           (1, 'SagaStarted', NULL, NULL),
           (2, 'StepStarted', 'process_payment', NULL),
           (3, CASE s.status WHEN 'PARKED' THEN 'StepInDoubt' ELSE 'StepSucceeded' END,
            'process_payment', NULL),
           (4, CASE s.status WHEN 'PARKED' THEN 'StepCompensationStarted' ELSE 'StepStarted' END,
            'create_shipment', NULL),
           (5, CASE s.status WHEN 'PARKED' THEN 'SagaCancelRequested' ELSE 'StepSucceeded' END,
            'create_shipment', CASE s.status WHEN 'PARKED' THEN 'ann' END)
           ) e(seq, type, step, actor)
     ORDER BY s.created_at, e.seq
    """,
    "VACUUM ANALYZE",
)


@pytest.fixture(scope="module")
def million(server_url: str, template: str) -> Iterator[str]:
    """URL of a database with a million events."""
    name = f"eventsaga_million_{uuid4().hex[:12]}"
    url = in_database(server_url, name)
    asyncio.run(execute(server_url, f"CREATE DATABASE {name} TEMPLATE {template}"))
    asyncio.run(execute(url, *_CROWD))
    yield url
    asyncio.run(execute(server_url, f"DROP DATABASE {name} WITH (FORCE)"))


async def scanned(url: str, statement: str) -> set[str]:
    """Return the tables that *statement* reads from end to end."""
    connection = await asyncpg.connect(url)
    try:
        assert await connection.fetchval("SELECT count(*) FROM eventsaga.events") == _EVENTS
        arguments: list[Any] = [UUID(int=77)] if "$1" in statement else []
        text = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {statement}", *arguments)
    finally:
        await connection.close()
    return {
        node["Relation Name"]
        for node in nodes(json.loads(text)[0]["Plan"])
        if node["Node Type"] == "Seq Scan"
    }


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda text: text[:40])
async def test_no_question_reads_all_events(million: str, question: str) -> None:
    assert "events" not in await scanned(million, QUESTIONS[question])


async def test_a_question_without_an_index_would_be_noticed(million: str) -> None:
    """The test above is able to fail."""
    statement = "SELECT count(*) FROM eventsaga.history WHERE data->>'reason' = 'gift'"

    assert "events" in await scanned(million, statement)

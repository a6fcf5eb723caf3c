"""Are the metrics right? While sagas run, after a restart, and without a database."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from eventsaga import (
    ForEach,
    Orchestrator,
    PermanentError,
    Retry,
    Saga,
    Sleep,
    Status,
    Step,
    TemporaryError,
)
from eventsaga.metrics import Metrics
from tests.proxy import Proxy
from tests.runtime.sagas import ONCE, QUICK, SOON, Order, nothing, one_step, run_sql, until

Samples = dict[tuple[str, tuple[str, ...]], float]


def samples(text: bytes) -> Samples:
    """Return every sample by its name and the values of its labels, that of the saga first."""
    return {
        (sample.name, _values(sample.labels)): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def _values(labels: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(labels[label] for label in sorted(labels, key=lambda label: label != "saga_name"))


@asynccontextmanager
async def measured(
    database: str, *sagas: Saga[Any]
) -> AsyncGenerator[tuple[Orchestrator, Metrics]]:
    """Open an orchestrator whose metrics have a registry of their own."""
    orchestrator = Orchestrator(database, sagas=sagas, settings=QUICK)
    metrics = Metrics(orchestrator, CollectorRegistry())
    async with orchestrator:
        yield orchestrator, metrics


async def declined(_order: Order) -> None:
    raise PermanentError("no")


async def test_every_end_of_a_saga_is_counted_once(database: str) -> None:
    tries = iter([TemporaryError("busy"), None])

    async def second_time(_order: Order) -> None:
        error = next(tries)
        if error is not None:
            raise error

    good = Saga("good", context=Order, steps=[Step("a", second_time, retry=SOON)])
    bad = Saga(
        "bad", context=Order, steps=[Step("a", nothing, compensate=nothing), Step("b", declined)]
    )
    lost = Saga(
        "lost",
        context=Order,
        steps=[
            Step("a", nothing, compensate=declined, compensate_retry=ONCE),
            Step("b", declined),
        ],
    )
    async with measured(database, good, bad, lost) as (orchestrator, metrics):
        for name in ("good", "bad", "lost"):
            handle = await orchestrator.start(name, Order())
            state = await handle.result(timeout=20)
        assert state.status is Status.PARKED
        parked = samples(await metrics.exposition())
        await orchestrator.abandon(handle.id, reason="r", actor="bob")
        await orchestrator.wait(handle.id, timeout=20)
        found = samples(await metrics.exposition())

    for name in ("good", "bad", "lost"):
        assert found["sagas_started_total", (name,)] == 1
        assert found["sagas_active", (name,)] == 0
    assert found["sagas_completed_total", ("good",)] == 1
    assert found["saga_step_retries_total", ("good",)] == 1
    assert found["sagas_failed_total", ("bad", "b")] == 1
    assert found["sagas_compensated_total", ("bad",)] == 1
    assert found["sagas_completed_total", ("bad",)] == 0
    assert found["sagas_failed_total", ("lost", "b")] == 1, "and not again when it was given up"
    assert found["saga_compensation_failures_total", ("lost",)] == 1
    assert parked["sagas_parked", ("lost",)] == 1
    assert found["sagas_parked", ("lost",)] == 0
    for name, status in (("good", "COMPLETED"), ("bad", "COMPENSATED"), ("lost", "FAILED")):
        assert found["saga_duration_seconds_count", (name, status)] == 1
    assert found["saga_step_duration_seconds_count", ("good", "a")] == 2
    assert found["saga_append_seconds_count", ()] == found["saga_append_batch_size_count", ()] > 5
    assert found["saga_database_up", ()] == 1
    assert [name for name, _ in found].count("saga_lease_remaining_seconds") == 1


async def test_a_saga_given_up_on_its_way_forward_failed_at_the_step_that_was_stuck(
    database: str,
) -> None:
    saga = Saga(
        "one",
        context=Order,
        steps=[Step("pay", nothing, pivot=True), Step("tell", declined, retry=ONCE)],
    )
    async with measured(database, saga) as (orchestrator, metrics):
        handle = await orchestrator.start("one", Order())
        await handle.result(timeout=20)
        await orchestrator.abandon(handle.id, reason="r", actor="bob")
        await orchestrator.wait(handle.id, timeout=20)
        found = samples(await metrics.exposition())

    assert found["sagas_failed_total", ("one", "tell")] == 1


async def test_the_items_of_a_group_are_one_step_to_those_who_count(database: str) -> None:
    saga = Saga(
        "many",
        context=Order,
        steps=[ForEach("each", lambda _order: range(20), Step("item", nothing))],
    )
    async with measured(database, saga) as (orchestrator, metrics):
        await (await orchestrator.start("many", Order())).result(timeout=20)
        found = samples(await metrics.exposition())

    assert found["saga_step_duration_seconds_count", ("many", "each")] == 20
    assert not [labels for _, labels in found if "each[" in "".join(labels)]


async def test_gauges_are_right_after_a_restart_and_events_are_counted_by_who_appended_them(
    database: str,
) -> None:
    began, let_go = asyncio.Event(), asyncio.Event()

    async def hang(_order: Order) -> None:
        began.set()
        await let_go.wait()

    saga = one_step(hang, retry=Retry(max_attempts=3, delay=0.01))
    first = Orchestrator(database, sagas=[saga], settings=QUICK)
    counted_first = Metrics(first, CollectorRegistry())
    async with first:
        handle = await first.start("one", Order())
        await began.wait()
        before = samples(await counted_first.exposition())
        await first.vanish()
    let_go.set()
    async with measured(database, saga) as (second, metrics):
        assert (await second.wait(handle.id, timeout=20)).status is Status.COMPLETED
        after = samples(await metrics.exposition())

    assert before["sagas_active", ("one",)] == 1
    assert before["saga_oldest_unfinished_seconds", ("one",)] >= 0
    assert after["sagas_active", ("one",)] == 0
    assert after["saga_takeovers_total", ("one",)] == 1
    for name in ("sagas_started_total", "sagas_completed_total"):
        assert before[name, ("one",)] + after[name, ("one",)] == 1


async def test_a_saga_that_was_started_elsewhere_is_counted_where_it_begins(database: str) -> None:
    saga = one_step(nothing)
    async with Orchestrator(database, sagas=[saga], worker=False, settings=QUICK) as client:
        handle = await client.start("one", Order())
        await run_sql(database, "SELECT eventsaga.start_saga('one', '{}')")
    async with measured(database, saga) as (orchestrator, metrics):
        await orchestrator.wait(handle.id, timeout=20)
        await until(database, "SELECT count(*) = 2 FROM eventsaga.sagas WHERE status = 'COMPLETED'")
        found = samples(await metrics.exposition())

    assert found["sagas_started_total", ("one",)] == 2


async def test_what_sleeps_is_active_and_not_stuck(database: str) -> None:
    saga = Saga("one", context=Order, steps=[Sleep("night", 3600)], stuck_after=0.001)
    async with measured(database, saga) as (orchestrator, metrics):
        await orchestrator.start("one", Order())
        await until(database, "SELECT count(*) = 1 FROM eventsaga.sagas WHERE owner IS NULL")
        found = samples(await metrics.exposition())

    assert found["sagas_active", ("one",)] == 1
    assert found["sagas_stuck", ("one",)] == 0


async def test_what_hangs_for_longer_than_it_may_is_stuck(database: str) -> None:
    began = asyncio.Event()

    async def hang(_order: Order) -> None:
        began.set()
        await asyncio.Event().wait()

    saga = Saga("one", context=Order, steps=[Step("a", hang)], stuck_after=0.001)
    async with measured(database, saga) as (orchestrator, metrics):
        await orchestrator.start("one", Order())
        await began.wait()
        await until(
            database,
            "SELECT now() - updated_at > interval '10 ms' FROM eventsaga.sagas",
        )
        found = samples(await metrics.exposition())
        assert found["sagas_stuck", ("one",)] == 1
        await orchestrator.vanish()


async def test_a_scrape_answers_when_the_database_does_not(database: str) -> None:
    async with Proxy(database) as way, measured(way.url, one_step(nothing)) as (_, metrics):
        port, end = metrics.serve("127.0.0.1", 0)
        try:
            async with httpx.AsyncClient(timeout=20) as client:
                url = f"http://127.0.0.1:{port}/metrics"
                up = samples((await client.get(url)).content)
                await way.cut()
                down = samples((await client.get(url)).content)
        finally:
            await asyncio.to_thread(end)

    assert up["saga_database_up", ()] == 1
    assert up["sagas_active", ("one",)] == 0
    assert down["saga_database_up", ()] == 0
    assert ("sagas_active", ("one",)) not in down, "what is not known is not said"
    assert down["sagas_started_total", ("one",)] == 0


SEED = {
    "sagas_started": {"saga_name"},
    "sagas_completed": {"saga_name"},
    "sagas_failed": {"saga_name", "failed_step"},
    "sagas_compensated": {"saga_name"},
    "saga_duration_seconds": {"saga_name", "status"},
    "sagas_active": {"saga_name"},
    "saga_step_duration_seconds": {"saga_name", "step_name"},
}


def _labels(text: str) -> Iterator[tuple[str, set[str]]]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield family.name, sample.labels.keys() - {"le"}


async def test_names_and_labels_are_those_that_dashboards_know(database: str) -> None:
    async with measured(database, one_step(declined)) as (orchestrator, metrics):
        await (await orchestrator.start("one", Order())).result(timeout=20)
        text = (await metrics.exposition()).decode()

    found = dict(_labels(text))
    assert {name: found.get(name) for name in SEED} == SEED
    for bound in ("0.1", "0.5", "1.0", "2.0", "5.0", "10.0", "30.0", "60.0", "3600.0"):
        assert f'saga_duration_seconds_bucket{{le="{bound}"' in text


def test_one_registry_does_not_take_the_same_metrics_twice(database: str) -> None:
    registry = CollectorRegistry()
    Metrics(Orchestrator(database, sagas=[one_step(nothing)]), registry)

    with pytest.raises(ValueError, match="Duplicated"):
        Metrics(Orchestrator(database, sagas=[one_step(nothing)]), registry)

"""Is a person told, once, of what no saga can do for itself? And by one worker of many."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest

from eventsaga import Orchestrator, PermanentError, Saga, Sleep, Step, WaitForSignal
from eventsaga.client.monitor import Monitor
from eventsaga.observe.alert import Alert, AlertKind
from eventsaga.observe.observer import Observers
from tests.runtime.sagas import ONCE, QUICK, Order, nothing, one_step, run_sql, until


@dataclass
class Watched:
    """An orchestrator with a monitor that looks when the test says so."""

    orchestrator: Orchestrator
    monitor: Monitor
    raised: list[Alert] = field(default_factory=list[Alert])

    async def kinds(self) -> list[str]:
        """Look, and return what holds."""
        return [alert.kind.value for alert in await self.monitor.look()]


@asynccontextmanager
async def watching(
    database: str, *sagas: Saga[Any], handler: Any = None
) -> AsyncGenerator[Watched]:
    async with Orchestrator(database, sagas=sagas, settings=QUICK) as orchestrator:
        worker = orchestrator._worker
        assert worker is not None
        raised: list[Alert] = []
        monitor = Monitor(
            orchestrator.store,
            sagas,
            lambda: worker.worker_id,
            Observers(),
            handler or raised.append,
        )
        yield Watched(orchestrator, monitor, raised)


async def refuse(_order: Order) -> None:
    raise PermanentError("no")


PARKING = Saga(
    "park",
    context=Order,
    steps=[Step("pay", nothing, pivot=True), Step("tell", refuse, retry=ONCE)],
)


async def test_a_parked_saga_is_told_of_once_until_it_is_over(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with watching(database, PARKING) as watched:
        handle = await watched.orchestrator.start("park", Order())
        await handle.result(timeout=20)
        assert await watched.kinds() == ["parked"]
        assert await watched.kinds() == ["parked"]
        await watched.orchestrator.abandon(handle.id, reason="r", actor="bob")
        await watched.orchestrator.wait(handle.id, timeout=20)
        with caplog.at_level("INFO", "eventsaga.monitor"):
            assert await watched.kinds() == []

    [alert] = watched.raised
    assert (alert.kind, alert.saga_name, alert.saga_id) == (AlertKind.PARKED, "park", handle.id)
    assert (alert.step, alert.since is None) == ("tell", False)
    assert f"alert_over kind=parked saga_name=park saga_id={handle.id}" in caplog.text


async def test_what_makes_no_progress_is_told_of_and_what_waits_is_not(database: str) -> None:
    began = asyncio.Event()

    async def hang(_order: Order) -> None:
        began.set()
        await asyncio.Event().wait()

    hangs = Saga("hangs", context=Order, steps=[Step("a", hang)], stuck_after=0.001)
    patient = Saga("patient", context=Order, steps=[Step("b", hang)], stuck_after=3600)
    sleeps = Saga("sleeps", context=Order, steps=[Sleep("s", 3600)], stuck_after=0.001)
    waits = Saga("waits", context=Order, steps=[WaitForSignal("w")], stuck_after=0.001)
    async with watching(database, hangs, patient, sleeps, waits) as watched:
        for saga in (hangs, patient, sleeps, waits):
            await watched.orchestrator.start(saga, Order())
        await began.wait()
        await until(
            database,
            "SELECT count(*) = 2 FROM eventsaga.sagas WHERE owner IS NULL",
        )
        await until(
            database,
            "SELECT now() - max(updated_at) > interval '10 ms' FROM eventsaga.sagas",
        )
        alerts = await watched.monitor.look()
        await watched.orchestrator.vanish()

    assert [(alert.kind, alert.saga_name, alert.step) for alert in alerts] == [
        (AlertKind.STUCK, "hangs", "a")
    ]


async def test_a_doubt_that_lasts_is_told_of(database: str) -> None:
    async def unsure(_order: Order) -> None:
        raise TimeoutError("who knows")

    saga = Saga(
        "doubt",
        context=Order,
        steps=[Step("pay", unsure, retry=ONCE, on_doubt="park")],
        stuck_after=0.001,
    )
    async with watching(database, saga) as watched:
        await (await watched.orchestrator.start("doubt", Order())).result(timeout=20)
        await until(database, "SELECT now() - since > interval '10 ms' FROM eventsaga.in_doubt")
        assert sorted(await watched.kinds()) == ["in_doubt", "parked"]


async def test_of_many_workers_the_oldest_speaks_and_then_the_next(database: str) -> None:
    async with (
        watching(database, PARKING) as oldest,
        watching(database, PARKING) as younger,
    ):
        await (await younger.orchestrator.start("park", Order())).result(timeout=20)
        assert await younger.kinds() == []
        assert await oldest.kinds() == ["parked"]
        await oldest.orchestrator.drain()
        assert await oldest.kinds() == []
        assert await younger.kinds() == ["parked"]
        assert len(younger.raised) == 1


async def test_a_worker_watches_only_over_what_it_runs(database: str) -> None:
    async with watching(database, one_step(nothing)) as other, watching(database, PARKING) as own:
        await (await own.orchestrator.start("park", Order())).result(timeout=20)
        assert await other.kinds() == []
        assert await own.kinds() == ["parked"]


async def test_sagas_that_nobody_can_run_are_told_of(database: str) -> None:
    newer = Saga("one", context=Order, steps=[Step("only", nothing), Step("b", nothing)], version=2)
    async with Orchestrator(database, sagas=[newer], worker=False, settings=QUICK) as client:
        await client.start("one", Order())
    await run_sql(database, "UPDATE eventsaga.sagas SET wake_at = now() - interval '1 min'")
    async with watching(database, one_step(nothing)) as watched:
        assert await watched.kinds() == ["no_worker"]

    [alert] = watched.raised
    assert alert.saga_name == "one"
    assert "no living worker has version 2" in alert.message


@pytest.mark.mighty
async def test_a_history_that_was_changed_is_told_of_until_it_is_mended(database: str) -> None:
    async with watching(database, one_step(nothing)) as watched:
        handle, other = await watched.orchestrator.start_many("one", [Order(), Order()])
        for saga in (handle, other):
            await saga.result(timeout=20)
        assert await watched.kinds() == []
        edit = "UPDATE eventsaga.events SET type = '{}' WHERE saga_id = '{}' AND seq = 2"
        off = "ALTER TABLE eventsaga.events DISABLE TRIGGER USER"
        on = "ALTER TABLE eventsaga.events ENABLE ALWAYS TRIGGER events_append_only"
        await run_sql(database, off, edit.format("StepSkipped", handle.id))
        assert await watched.kinds() == ["violation"]
        await run_sql(database, edit.format("StepStarted", handle.id), on)
        assert await watched.kinds() == []

    [alert] = watched.raised
    assert alert.saga_id == handle.id


async def test_whoever_cannot_be_told_does_not_stop_who_watches(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(_alert: Alert) -> None:
        raise OSError("the pager is off")

    async with watching(database, PARKING, handler=fails) as watched:
        await (await watched.orchestrator.start("park", Order())).result(timeout=20)
        assert await watched.kinds() == ["parked"]
        await (await watched.orchestrator.start("park", Order())).result(timeout=20)
        assert await watched.kinds() == ["parked", "parked"]

    assert caplog.text.count("alert_not_taken") == 2


async def test_an_orchestrator_with_a_worker_looks_by_itself(database: str) -> None:
    told = asyncio.Queue[Alert]()
    settings = replace(QUICK, watch=timedelta(seconds=0.1))
    async with Orchestrator(
        database, sagas=[PARKING], settings=settings, on_alert=told.put
    ) as orchestrator:
        handle = await orchestrator.start("park", Order())
        async with asyncio.timeout(20):
            alert = await told.get()

    assert alert.saga_id == handle.id


async def test_all_histories_have_their_turn_and_long_ones_are_left_to_verify(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventsaga.client.monitor._AUDITED_SAGAS", 3)
    monkeypatch.setattr("eventsaga.client.monitor._AUDITED_EVENTS", 10)
    five = Saga("five", context=Order, steps=[Step(f"s{n}", nothing) for n in range(5)])
    async with watching(database, one_step(nothing), five) as watched:
        short = await watched.orchestrator.start_many("one", [Order() for _ in range(7)])
        long = await watched.orchestrator.start("five", Order())
        for handle in (*short, long):
            await handle.result(timeout=20)
        turns = [await watched.monitor._next() for _ in range(5)]

    ids = sorted(handle.id for handle in short)
    assert turns[:4] == [ids[:2], ids[2:4], ids[4:6], ids[6:]], "four events each"
    assert turns[4] == turns[0]

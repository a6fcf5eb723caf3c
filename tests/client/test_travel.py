"""Is it told truly where a saga stood, and what changed since?"""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from eventsaga import NoSuchMomentError, Orchestrator, Saga, SagaNotFoundError, Status, Step
from eventsaga.client.travel import NOTHING, Difference, difference
from eventsaga.identity import new_id
from tests.acceptance.cli.console import Console


class Customer(BaseModel):
    email: str
    tags: list[str] = []


class Order(BaseModel):
    customer: Customer
    charge: str | None = None


async def correct(_order: Order) -> dict[str, Any]:
    return {"customer": {"email": "ada@example.org", "tags": ["vip"]}}


async def charge(_order: Order) -> dict[str, Any]:
    return {"charge": "ch-1"}


SAGA = Saga("travel", context=Order, steps=[Step("correct", correct), Step("charge", charge)])
GIVEN = Order(customer=Customer(email="ada@example.com"))


async def _completed(orchestrator: Orchestrator) -> UUID:
    handle = await orchestrator.start(SAGA, GIVEN)
    await handle.result(timeout=30)
    return handle.id


async def test_a_saga_is_shown_as_it_stood_after_an_event_and_at_an_instant(database: str) -> None:
    async with Orchestrator(database, [SAGA]) as orchestrator:
        saga_id = await _completed(orchestrator)
        history = await orchestrator.history(saga_id)
        by_number = [await orchestrator.state_at(saga_id, seq=stored.seq) for stored in history]
        by_time = [await orchestrator.state_at(saga_id, at=each.recorded_at) for each in history]
        now = await orchestrator.get(saga_id)

    assert [stored.type for stored in history] == [
        "SagaStarted",
        "StepStarted",
        "StepSucceeded",
        "StepStarted",
        "StepSucceeded",
        "SagaCompleted",
    ]
    emails = [state.context.customer.email for state in by_number]
    assert emails == ["ada@example.com"] * 2 + ["ada@example.org"] * 4
    assert [state.context.charge for state in by_number] == [None] * 4 + ["ch-1"] * 2
    assert by_number[-1] == now
    # Events of one append are stored at one instant.
    stored_at = [stored.recorded_at for stored in history]
    for state, at in zip(by_time, stored_at, strict=True):
        assert state.seq == sum(other <= at for other in stored_at)


async def test_what_is_no_moment_of_a_saga_is_refused(database: str) -> None:
    async with Orchestrator(database, [SAGA]) as orchestrator:
        saga_id = await _completed(orchestrator)
        for seq in (0, 7, -1):
            with pytest.raises(NoSuchMomentError, match="numbered 1 to 6"):
                await orchestrator.state_at(saga_id, seq=seq)
        with pytest.raises(NoSuchMomentError, match="it began at"):
            await orchestrator.state_at(saga_id, at=datetime(2020, 1, 1, tzinfo=UTC))
        with pytest.raises(ValueError, match="timezone"):
            await orchestrator.state_at(saga_id, at=datetime(2026, 1, 1))  # noqa: DTZ001
        with pytest.raises(ValueError, match="either"):
            await orchestrator.state_at(saga_id)
        with pytest.raises(ValueError, match="either"):
            await orchestrator.state_at(saga_id, seq=1, at=datetime.now(UTC))
        with pytest.raises(SagaNotFoundError):
            await orchestrator.state_at(new_id(), seq=1)


async def test_a_difference_names_each_field_and_the_event_that_changed_it(database: str) -> None:
    async with Orchestrator(database, [SAGA]) as orchestrator:
        history = await orchestrator.history(await _completed(orchestrator))

    found = difference(history, 1, 6)

    assert (found.before, found.after) == (Status.PENDING, Status.COMPLETED)
    assert [(each.path, each.before, each.after, each.because.seq) for each in found.changes] == [
        ("customer.email", "ada@example.com", "ada@example.org", 3),
        ("customer.tags", [], ["vip"], 3),
        ("charge", None, "ch-1", 5),
    ]
    assert difference(history, 3, 4) == Difference(Status.RUNNING, Status.RUNNING, [])
    with pytest.raises(NoSuchMomentError, match="first moment is after"):
        difference(history, 4, 3)
    late = history[-1].recorded_at + timedelta(hours=1)
    assert len(difference(history, 1, late).changes) == 3
    assert NOTHING not in [each.before for each in found.changes]


def test_the_command_line_travels_too(database: str) -> None:
    async def run() -> UUID:
        async with Orchestrator(database, [SAGA]) as orchestrator:
            return await _completed(orchestrator)

    saga_id = str(asyncio.run(run()))
    console = Console(database)

    then = console.json("show", saga_id, "--at", "2")
    assert (then["status"], then["seq"]) == ("RUNNING", 2)
    assert then["context"]["customer"]["email"] == "ada@example.com"
    assert "ada@example.com" in console.answer("show", saga_id, "--at", "2")
    changed = console.json("diff", saga_id, "1", "2999-01-01")
    assert changed["status"] == {"before": "PENDING", "after": "COMPLETED"}
    assert [each["path"] for each in changed["changes"]] == [
        "customer.email",
        "customer.tags",
        "charge",
    ]
    said = console.answer("diff", saga_id, "1", "6")
    assert "PENDING -> COMPLETED" in said
    assert "StepSucceeded, charge, event 5" in said
    assert "the context is the same" in console.answer("diff", saga_id, "3", "4")
    for arguments, told in (
        (("show", saga_id, "--at", "7"), "numbered 1 to 6"),
        (("show", saga_id, "--at", "noon"), "'noon' is no moment"),
        (("diff", saga_id, "1", "2020-01-01"), "it began at"),
    ):
        done = console.run(*arguments)
        assert (done.returncode, done.stdout) == (2, "") or done.returncode == 1
        assert told in done.stderr
        assert "Traceback" not in done.stderr

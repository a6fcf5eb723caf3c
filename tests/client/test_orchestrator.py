"""What does an orchestrator answer about sagas that are there?"""

from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from eventsaga import (
    ChildSaga,
    Orchestrator,
    PermanentError,
    Retry,
    Saga,
    SagaNotFoundError,
    Status,
    Step,
    WaitForSignal,
)
from eventsaga.identity import new_id


class Order(BaseModel):
    order_id: str = "o-1"


async def nothing(_order: Order) -> None:
    pass


async def decline(_order: Order) -> None:
    raise PermanentError("declined")


async def lose(_order: Order) -> None:
    raise TimeoutError("no answer")


def same(order: Order) -> Order:
    return order


def saga(*nodes: Any, name: str = "order") -> Saga[Order]:
    return Saga(name, context=Order, steps=list(nodes))


async def test_children_are_listed_oldest_first(database: str) -> None:
    inner = saga(Step("only", nothing), name="inner")
    parent = saga(ChildSaga("first", inner, same), ChildSaga("second", inner, same))
    async with Orchestrator(database, sagas=[parent]) as orchestrator:
        handle = await orchestrator.start("order", Order())
        await handle.result(timeout=30)

        children = await orchestrator.children(handle.id)
        grandchildren = await orchestrator.children(children[0].saga_id)

    assert [(child.name, child.parent_step) for child in children] == [
        ("inner", "first"),
        ("inner", "second"),
    ]
    assert {child.parent_id for child in children} == {handle.id}
    assert list(grandchildren) == []


async def test_a_saga_that_is_not_there_has_no_children(database: str) -> None:
    async with Orchestrator(database) as orchestrator:
        with pytest.raises(SagaNotFoundError):
            await orchestrator.children(new_id())


async def test_who_waits_is_told_how_long_it_took(database: str) -> None:
    async with Orchestrator(database, [saga(WaitForSignal("signed"))]) as orchestrator:
        handle = await orchestrator.start("order", Order())
        with pytest.raises(TimeoutError, match=r"is not finished after 0.05 s"):
            await handle.result(timeout=0.05)


@pytest.mark.parametrize("seconds", [None, 30])
async def test_a_timeout_that_is_not_the_callers_is_not_renamed(
    database: str, monkeypatch: pytest.MonkeyPatch, seconds: float | None
) -> None:
    async def wait(_saga_id: UUID) -> None:
        raise TimeoutError("the pool is empty")

    async with Orchestrator(database, [saga(WaitForSignal("signed"))]) as orchestrator:
        handle = await orchestrator.start("order", Order())
        monkeypatch.setattr(orchestrator._waiting, "wait", wait)
        with pytest.raises(TimeoutError, match="the pool is empty"):
            await handle.result(timeout=seconds)


# -- explain --------------------------------------------------------------------------------


async def test_a_saga_that_waits_names_its_signals_apart_from_the_verbs(database: str) -> None:
    waits = saga(WaitForSignal("signed"))
    async with Orchestrator(database, [waits]) as orchestrator:
        handle = await orchestrator.start("order", Order())
        while not (explained := await orchestrator.explain(handle.id)).signals:
            pass
        await handle.signal("signed")
        await handle.result(timeout=30)
        ended = await orchestrator.explain(handle.id)

    assert (explained.signals, explained.legal) == (("signed",), ("cancel",))
    assert explained.why == ("signed waits for signal 'signed'",)
    assert (ended.signals, ended.legal) == ((), ("undo",))


async def test_what_is_over_is_told_in_the_past_tense(database: str) -> None:
    async def refuse(_order: Order) -> None:
        raise PermanentError("cannot be undone")

    once = Retry(max_attempts=1)
    declined = saga(Step("a", nothing, compensate=nothing), Step("b", decline), name="declined")
    lost = saga(Step("a", lose, compensate=refuse, retry=once, compensate_retry=once), name="lost")
    async with Orchestrator(database, [declined, lost]) as orchestrator:
        first = await orchestrator.start("declined", Order())
        second = await orchestrator.start("lost", Order())
        await first.result(timeout=30)
        parked = await second.result(timeout=30)
        stands = await orchestrator.explain(second.id)
        await orchestrator.abandon(second.id, reason="enough", actor="ann")
        failed = await second.result(timeout=30)
        went, was = [await orchestrator.explain(each.id) for each in (first, second)]

    assert went.why == ("it went back because of b (step_failed): declined",)
    assert (parked.status, failed.status) == (Status.PARKED, Status.FAILED)
    assert stands.why[0].startswith("it goes back because of a (step_failed): ")
    assert stands.why[-1].startswith("a is in doubt: ")
    assert was.why[0].startswith("it went back because of a (step_failed): ")
    assert "it was given up; left behind: a" in was.why
    assert was.why[-1].startswith("a was left in doubt: ")

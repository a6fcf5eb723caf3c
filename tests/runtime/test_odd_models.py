"""What if the user's own model raises what pydantic does not catch, or changes 1 into True?"""

from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel, field_validator

from eventsaga import Orchestrator, PayloadError, PermanentError, Saga, Status, Step, WaitForSignal
from eventsaga.errors import EventSagaError
from eventsaga.identity import new_id
from eventsaga.store.ports import Message
from tests.runtime.sagas import SOON, orchestrating


class Share(BaseModel):
    """Its validator divides."""

    parts: Any = 1

    @field_validator("parts")
    @classmethod
    def can_be_shared(cls, parts: Any) -> Any:
        _ = 1 // (parts if isinstance(parts, int) else 1)
        return parts


async def test_a_result_that_breaks_the_model_is_compensated_as_what_it_is(
    database: str,
) -> None:
    undone = list[str]()

    async def give_nothing(_share: Share) -> dict[str, int]:
        return {"parts": 0}

    async def take_back(_share: Share, step: Any) -> None:
        undone.append(step.outcome)

    step = Step("give", give_nothing, compensate=take_back, retry=SOON)
    saga = Saga("share", context=Share, steps=[step])
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start(saga, Share())
        state = await handle.result(timeout=20)

    assert (state.status, undone) == (Status.COMPENSATED, ["unknown"])
    assert state.error is not None
    assert "ZeroDivisionError" in state.error.message


async def test_an_input_that_breaks_the_model_is_refused(database: str) -> None:
    async def nothing(_share: Share) -> None:
        """Do nothing."""

    saga = Saga("share", context=Share, steps=[Step("nothing", nothing)])
    async with orchestrating(database, saga) as orchestrator:
        with pytest.raises(PayloadError, match="ZeroDivisionError"):
            await orchestrator.start(saga, {"parts": 0})


async def test_a_signal_that_breaks_its_model_is_answered_and_the_next_one_counts(
    database: str,
) -> None:
    wait = WaitForSignal("shared", Share, into="parts")
    saga = Saga("share", context=Share, steps=[wait])
    async with orchestrating(database, saga, worker=False) as outside:
        handle = await outside.start(saga, Share())
        await outside.store.post(_signal(handle.id, {"parts": 0}))
        await outside.store.post(_signal(handle.id, {"parts": 4}))
        async with orchestrating(database, saga):
            state = await outside.wait(handle.id, timeout=20)

    assert (state.status, state.context.parts) == (Status.COMPLETED, {"parts": 4})


def _signal(saga_id: UUID, payload: dict[str, Any]) -> Message:
    return Message(
        saga_id=saga_id,
        message_id=new_id(),
        kind="signal",
        data={"name": "shared", "payload": payload},
        actor="tests",
    )


async def test_a_change_from_1_to_true_is_a_change(database: str) -> None:
    async def agree(share: Share) -> Share:
        return share.model_copy(update={"parts": True})

    saga = Saga("share", context=Share, steps=[Step("agree", agree)])
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start(saga, Share())
        state = await handle.result(timeout=20)

    assert state.context.parts is True


async def test_a_bad_key_among_many_starts_none(database: str) -> None:
    async def fail(_share: Share) -> None:
        raise PermanentError("never begun")

    saga = Saga("share", context=Share, steps=[Step("fail", fail)])
    async with orchestrating(database, saga) as orchestrator:
        with pytest.raises(EventSagaError, match="key"):
            await orchestrator.start_many(saga, [Share(), Share()], keys=["good", "bad\n"])
        assert await _number(orchestrator) == 0


async def _number(orchestrator: Orchestrator) -> int:
    return len(await orchestrator.list())

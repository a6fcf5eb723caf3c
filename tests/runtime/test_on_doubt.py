"""What follows a timeout or a crash is what the step says, held against the other side's ledger."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import pytest

from eventsaga import Orchestrator, Retry, SagaState, Status, StepContext
from tests.acceptance.crash import participant as ledger
from tests.acceptance.crash.crew import Crew, crew
from tests.acceptance.crash.participant import Call, kill
from tests.participant import Answer, Participant, running
from tests.runtime.doubt_program import ANSWERS, DOUBTS, SAGAS, Work
from tests.runtime.sagas import SOON, Order, events_of, one_step, orchestrating

pytestmark = pytest.mark.usefixtures("sound")


_NO: Any = False


# -- timeouts -------------------------------------------------------------------------------


@pytest.fixture
async def participant() -> AsyncGenerator[Participant]:
    async with running() as started:
        yield started


class _Silent:
    """A step whose first request is never answered, and all that is asked about it."""

    def __init__(self, participant: Participant, *answers: Any) -> None:
        self._participant = participant
        self._never = asyncio.Event()
        self._answers = list(answers)
        self.asked: list[str] = []
        self.undone: list[str] = []
        participant.script["/do"] = [Answer(until=self._never), Answer()]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._never.set()

    async def execute(self, _order: Order, step: StepContext) -> dict[str, str]:
        (await step.http.post(self._participant.url + "/do")).raise_for_status()
        return {"note": "done"}

    async def undo(self, _order: Order, step: StepContext) -> None:
        self.undone.append(step.outcome)

    async def verify(self, _order: Order, step: StepContext) -> Any:
        self.asked.append(step.idempotency_key)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def run(self, database: str, on_doubt: str, **options: Any) -> tuple[Any, Any]:
        """Return where the saga settled, and its history."""
        saga = one_step(
            self.execute,
            compensate=self.undo,
            on_doubt=on_doubt,
            verify=self.verify if on_doubt == "verify" else None,
            timeout=1.0,  # long enough for an answer on a machine that is busy
            **({"retry": SOON} | options),
        )
        async with orchestrating(database, saga) as orchestrator:
            handle = await orchestrator.start("one", Order())
            return await handle.result(timeout=20), await handle.history()


async def test_a_timeout_is_retried_with_the_same_key(
    database: str, participant: Participant
) -> None:
    with _Silent(participant) as step:
        state, history = await step.run(database, "retry")

    assert (state.status, state.context.note) == (Status.COMPLETED, "done")
    assert participant.keys("/do") == [f"{state.saga_id}/only"] * 2
    (doubt,) = events_of(history, "StepInDoubt")
    assert doubt.error_type == "TimeoutError"


async def test_a_timeout_is_compensated_and_never_sent_again(
    database: str, participant: Participant
) -> None:
    with _Silent(participant) as step:
        state, _ = await step.run(database, "compensate")

    assert (state.status, step.undone) == (Status.COMPENSATED, ["unknown"])
    assert len(participant.keys("/do")) == 1


async def test_a_timeout_is_parked_and_never_sent_again(
    database: str, participant: Participant
) -> None:
    with _Silent(participant) as step:
        state, history = await step.run(database, "park")

    assert (state.status, step.undone) == (Status.PARKED, [])
    assert state.in_doubt_steps == ("only",)
    assert len(participant.keys("/do")) == 1
    (parked,) = events_of(history, "SagaParked")
    assert (parked.reason, parked.steps) == ("in_doubt", ("only",))
    assert "ask the other side" in parked.remedy


@pytest.mark.parametrize(
    ("answer", "note"),
    [({"note": "asked"}, "asked"), (Order(note="asked"), "asked"), (True, None)],
    ids=["mapping", "model", "true"],
)
async def test_a_doubt_that_is_verified_is_not_sent_again(
    database: str, participant: Participant, answer: Any, note: str | None
) -> None:
    with _Silent(participant, answer) as step:
        state, history = await step.run(database, "verify")

    assert (state.status, state.context.note) == (Status.COMPLETED, note)
    assert step.asked == [f"{state.saga_id}/only"]
    assert len(participant.keys("/do")) == 1
    assert len(events_of(history, "VerificationStarted")) == 1


async def test_a_doubt_that_is_denied_is_sent_again_with_the_same_key(
    database: str, participant: Participant
) -> None:
    with _Silent(participant, _NO) as step:
        state, history = await step.run(database, "verify")

    assert (state.status, state.context.note) == (Status.COMPLETED, "done")
    assert participant.keys("/do") == [f"{state.saga_id}/only"] * 2
    assert len(step.asked) == 1
    (denied,) = events_of(history, "StepFailed")
    assert "did not happen" in denied.message


@pytest.mark.parametrize("attempts", [1, 2])
async def test_the_last_attempt_is_asked_about_too(
    database: str, participant: Participant, attempts: int
) -> None:
    """And if it is denied, nothing is left in doubt and nothing is undone."""
    with _Silent(participant, _NO) as step:
        participant.script["/do"] = participant.script["/do"][:1]  # silent for ever
        few = Retry(max_attempts=attempts, delay=0.01)
        state, _ = await step.run(database, "verify", retry=few)

    assert (state.status, step.undone) == (Status.COMPENSATED, [])
    assert state.in_doubt_steps == ()
    assert (len(participant.keys("/do")), len(step.asked)) == (attempts, attempts)


@pytest.mark.parametrize(
    "answers", [(None,), (ValueError("no line"),), (7,)], ids=["none", "raises", "nonsense"]
)
async def test_a_doubt_that_stays_one_is_asked_until_given_up_and_parked(
    database: str, participant: Participant, answers: tuple[Any, ...]
) -> None:
    with _Silent(participant, *answers) as step:
        state, history = await step.run(database, "verify")

    assert (state.status, state.in_doubt_steps) == (Status.PARKED, ("only",))
    assert step.undone == []
    assert len(participant.keys("/do")) == 1
    # The policy has three attempts: the one that was sent, and two that asked.
    assert len(step.asked) == 2
    assert events_of(history, "SagaParked")[0].reason == "in_doubt"


@pytest.mark.parametrize("unsure", [None, ValueError("no line")], ids=["none", "raises"])
async def test_a_doubt_is_asked_again_until_the_answer_is_known(
    database: str, participant: Participant, unsure: Any
) -> None:
    with _Silent(participant, unsure, {"note": "asked"}) as step:
        state, _ = await step.run(database, "verify")

    assert (state.status, state.context.note) == (Status.COMPLETED, "asked")
    assert (len(step.asked), len(participant.keys("/do"))) == (2, 1)


# -- crashes --------------------------------------------------------------------------------


@pytest.fixture
async def other_side() -> AsyncIterator[ledger.Participant]:
    async with ledger.running() as started:
        yield started


@pytest.fixture
async def workers(
    database: str, other_side: ledger.Participant, tmp_path: Path
) -> AsyncIterator[Crew]:
    options = {"program": "tests.runtime.doubt_program"}
    async with crew(database, other_side.url, tmp_path, **options) as members:
        yield members


class _Told:
    """What the ledger has of one saga.

    Attributes:
        sent: Keys under which its charge was sent, in order.
        done: Those under which it took effect.
        undone: Those under which it was undone.
        asked: How often its charge was asked about.
    """

    def __init__(self, other_side: ledger.Participant, number: int) -> None:
        calls = [call for call in other_side.calls if call.number == number]
        charges = [call for call in calls if call.step == "charge"]
        self.sent = [call.key for call in charges if call.operation == "do"]
        self.done = other_side.applied.get(("do", "charge", number), [])
        self.undone = other_side.applied.get(("undo", "charge", number), [])
        self.asked = sum(call.operation == "ask" for call in charges)
        self.order = [f"{call.operation} {call.step}" for call in calls]


async def _crash(
    other_side: ledger.Participant, workers: Crew, client: Orchestrator, moment: str
) -> dict[str, tuple[SagaState[Any], _Told]]:
    """Kill the worker once, in the charge of a saga for each answer to the doubt."""
    arrived: set[int] = set()
    killed = asyncio.Event()

    async def strike(call: Call) -> None:
        if (call.operation, call.step) != ("do", "charge") or killed.is_set():
            return
        arrived.add(call.number)
        if len(arrived) == len(ANSWERS):
            killed.set()
            kill(call.worker_pid)
        await asyncio.Event().wait()  # nobody is left to be answered

    setattr(other_side, moment, strike)
    await workers.hire()
    handles = {
        answer: await client.start(DOUBTS[answer], Work(number=number))
        for number, answer in enumerate(ANSWERS)
    }
    async with asyncio.timeout(30):
        await killed.wait()
    await workers.processes[0].wait()
    await workers.hire()
    return {
        answer: (await handle.result(timeout=30), _Told(other_side, number))
        for number, (answer, handle) in enumerate(handles.items())
    }


def _key(saga_id: UUID) -> str:
    return f"{saga_id}/charge"


async def test_a_worker_killed_after_the_effect(
    database: str, other_side: ledger.Participant, workers: Crew
) -> None:
    async with Orchestrator(database, sagas=SAGAS, worker=False) as client:
        found = await _crash(other_side, workers, client, "after")

        state, told = found["retry"]
        key = _key(state.saga_id)
        assert state.status is Status.COMPLETED, workers.logs()
        assert (told.sent, told.done, told.undone) == ([key, key], [key], [])

        state, told = found["verify"]
        key = _key(state.saga_id)
        assert (state.status, state.context.charge) == (Status.COMPLETED, "verified")
        assert (told.sent, told.done, told.undone, told.asked) == ([key], [key], [], 1)

        state, told = found["compensate"]
        key = _key(state.saga_id)
        assert (state.status, told.asked) == (Status.COMPENSATED, 0)
        assert (told.sent, told.done, told.undone) == ([key], [key], [f"{key}/compensate"])
        assert told.order[-2:] == ["undo charge", "undo reserve"]

        state, told = found["park"]
        key = _key(state.saga_id)
        assert (state.status, state.in_doubt_steps) == (Status.PARKED, ("charge",))
        assert (told.sent, told.done, told.undone) == ([key], [key], [])
        assert await client.resolve(
            state.saga_id,
            "charge",
            "succeeded",
            result={"charge": "seen"},
            reason="it is on the account",
            actor="ann",
        )
        after = await client.wait(state.saga_id, timeout=20)
        assert (after.status, after.context.charge) == (Status.COMPLETED, "seen")
        assert _Told(other_side, ANSWERS.index("park")).sent == [key]


async def test_a_worker_killed_before_the_effect(
    database: str, other_side: ledger.Participant, workers: Crew
) -> None:
    async with Orchestrator(database, sagas=SAGAS, worker=False) as client:
        found = await _crash(other_side, workers, client, "before")

        state, told = found["retry"]
        key = _key(state.saga_id)
        assert state.status is Status.COMPLETED, workers.logs()
        assert (told.sent, told.done) == ([key, key], [key])

        state, told = found["verify"]
        key = _key(state.saga_id)
        assert (state.status, state.context.charge) == (Status.COMPLETED, key)
        assert (told.sent, told.done, told.asked) == ([key, key], [key], 1)
        # It was asked before it was sent again.
        assert told.order == ["do reserve", "do charge", "ask charge", "do charge", "do ship"]

        state, told = found["compensate"]
        key = _key(state.saga_id)
        # Nobody knows that nothing happened, so it is undone all the same.
        assert (state.status, told.sent, told.done) == (Status.COMPENSATED, [key], [])
        assert told.undone == [f"{key}/compensate"]

        state, told = found["park"]
        key = _key(state.saga_id)
        assert (state.status, told.sent, told.done) == (Status.PARKED, [key], [])
        assert await client.retry(state.saga_id, reason="it is not there", actor="ann")
        after = await client.wait(state.saga_id, timeout=20)
        told = _Told(other_side, ANSWERS.index("park"))
        assert (after.status, told.sent, told.done) == (Status.COMPLETED, [key, key], [key])


@pytest.mark.parametrize("on_doubt", ["compensate", "park"])
async def test_a_worker_that_is_killed_while_it_goes_back_loses_no_compensation(
    database: str, other_side: ledger.Participant, workers: Crew, on_doubt: str
) -> None:
    """The doubt is about the effect: its compensation is sent again with its own key."""
    struck = asyncio.Event()
    other_side.declined = {("ship", 0)}

    async def strike(call: Call) -> None:
        if (call.operation, call.step) == ("undo", "charge") and not struck.is_set():
            struck.set()
            kill(call.worker_pid)
            await asyncio.Event().wait()

    other_side.after = strike
    async with Orchestrator(database, sagas=SAGAS, worker=False) as client:
        await workers.hire()
        handle = await client.start(DOUBTS[on_doubt], Work(number=0))
        async with asyncio.timeout(30):
            await struck.wait()
        await workers.hire()
        state = await handle.result(timeout=30)

    told = _Told(other_side, 0)
    assert state.status is Status.COMPENSATED, workers.logs()
    assert told.undone == [f"{handle.id}/charge/compensate"]
    assert told.order.count("undo charge") == 2

"""May a person do what a parked saga allows, nothing else, and is it written down who did?"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from eventsaga import (
    ForEach,
    IllegalCommandError,
    Orchestrator,
    PermanentError,
    Saga,
    SagaHandle,
    SagaNotFoundError,
    Status,
    Step,
    StepContext,
    WaitForSignal,
)
from eventsaga.identity import new_id
from tests.runtime.sagas import (
    ONCE,
    Order,
    events_of,
    orchestrating,
    run_sql,
    types,
    until,
)

pytestmark = pytest.mark.usefixtures("sound")

WHO: dict[str, Any] = {"actor": "ann", "reason": "called the shop"}


class _Approval(BaseModel):
    note: str


class _World:
    """Steps that do as they are told, and what they did.

    Attributes:
        done: Calls in order.
        mended: Whether what fails has been mended.
    """

    def __init__(self) -> None:
        self.done: list[str] = []
        self.mended = False

    def act(self, name: str, *, error: Exception | None = None) -> Callable[..., Any]:
        async def act(_order: Order) -> None:
            self.done.append(name)
            if error is not None and not self.mended:
                raise error

        return act

    def by_compensation(self) -> Saga[Order]:
        """Return a saga that is parked on its way back: the undo of b gives up."""
        stuck = self.act("undo b", error=PermanentError("cannot be undone"))
        steps = [
            Step("a", self.act("a"), compensate=self.act("undo a")),
            Step("b", self.act("b"), compensate=stuck, compensate_retry=ONCE),
            Step("c", self.act("c", error=PermanentError("declined"))),
        ]
        return Saga("verbs", context=Order, steps=steps)

    def by_doubt(self) -> Saga[Order]:
        """Return a saga that is parked because nobody knows what became of b."""
        unsure = self.act("b", error=TimeoutError("no answer"))
        steps = [
            Step("a", self.act("a"), compensate=self.act("undo a")),
            Step("b", unsure, compensate=self.act("undo b"), on_doubt="park"),
            Step("c", self.act("c")),
        ]
        return Saga("verbs", context=Order, steps=steps)

    def by_signal(self) -> Saga[Order]:
        """Return a saga that is parked because nobody signed in time."""
        steps: list[Any] = [
            Step("a", self.act("a"), compensate=self.act("undo a")),
            WaitForSignal("signed", _Approval, timeout=0.05, on_timeout="park"),
            Step("c", self.act("c")),
        ]
        return Saga("verbs", context=Order, steps=steps)

    def plain(self) -> Saga[Order]:
        """Return a saga that is parked by nothing but its claims."""
        steps = [
            Step("a", self.act("a"), compensate=self.act("undo a")),
            Step("c", self.act("c")),
        ]
        return Saga("verbs", context=Order, steps=steps)


@asynccontextmanager
async def _parked(
    database: str, saga: Saga[Any]
) -> AsyncGenerator[tuple[Orchestrator, SagaHandle]]:
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("verbs", Order())
        state = await handle.result(timeout=10)
        assert state.status is Status.PARKED
        yield orchestrator, handle


@asynccontextmanager
async def _poisoned(
    database: str, saga: Saga[Any]
) -> AsyncGenerator[tuple[Orchestrator, SagaHandle]]:
    async with orchestrating(database, saga, worker=False) as client:
        handle = await client.start("verbs", Order())
        await run_sql(database, "UPDATE eventsaga.sagas SET claims = 5")
        async with orchestrating(database, saga) as orchestrator:
            state = await orchestrator.wait(handle.id, timeout=10)
            assert state.status is Status.PARKED
            yield orchestrator, handle


async def _one(handle: SagaHandle, kind: str) -> Any:
    """Return the one event of *kind*, which says who asked and why."""
    (event,) = events_of(await handle.history(), kind)
    assert (event.actor, event.reason) == (WHO["actor"], WHO["reason"])
    return event


# -- a compensation that gave up ------------------------------------------------------------


async def test_retry_of_a_failed_compensation(database: str) -> None:
    world = _World()
    async with _parked(database, world.by_compensation()) as (orchestrator, handle):
        world.mended = True
        assert await orchestrator.retry(handle.id, **WHO)
        state = await handle.result(timeout=10)
        retried = await _one(handle, "SagaRetried")

    assert (state.status, retried.steps) == (Status.COMPENSATED, ("b",))
    # The rest was undone already, and is not undone again.
    assert world.done == ["a", "b", "c", "undo b", "undo a", "undo b"]


async def test_a_retry_that_fails_again_parks_again(database: str) -> None:
    world = _World()
    async with _parked(database, world.by_compensation()) as (orchestrator, handle):
        assert await orchestrator.retry(handle.id, step="b", **WHO)
        await until(database, "SELECT count(*) = 2 FROM eventsaga.events WHERE type = 'SagaParked'")
        state = await handle.result(timeout=10)

    assert (state.status, world.done.count("undo b")) == (Status.PARKED, 2)


async def test_skip_of_a_failed_compensation_ends_as_failed_and_lists_it(database: str) -> None:
    world = _World()
    async with _parked(database, world.by_compensation()) as (orchestrator, handle):
        assert await orchestrator.skip(handle.id, "b", **WHO)
        state = await handle.result(timeout=10)
        skipped = await _one(handle, "StepSkipped")
        (failed,) = events_of(await handle.history(), "SagaFailed")
        explained = await orchestrator.explain(handle.id)

    assert (state.status, skipped.step) == (Status.FAILED, "b")
    assert failed.uncompensated == ("b",)
    assert "it was given up; left behind: b" in explained.why
    assert explained.legal == ()


async def test_a_compensation_done_by_hand(database: str) -> None:
    world = _World()
    async with _parked(database, world.by_compensation()) as (orchestrator, handle):
        assert await orchestrator.resolve(handle.id, "b", "compensated", **WHO)
        state = await handle.result(timeout=10)
        resolved = await _one(handle, "StepResolved")

    assert (resolved.step, resolved.resolution) == ("b", "compensated")
    assert (state.status, state.compensated_steps) == (Status.COMPENSATED, ("a", "b"))


async def test_abandon_lists_what_is_left_behind(database: str) -> None:
    world = _World()
    async with _parked(database, world.by_compensation()) as (orchestrator, handle):
        assert await orchestrator.abandon(handle.id, **WHO)
        state = await handle.result(timeout=10)
        failed = await _one(handle, "SagaFailed")

    assert (state.status, failed.uncompensated) == (Status.FAILED, ("b",))
    assert world.done.count("undo b") == 1


# -- a doubt --------------------------------------------------------------------------------


async def test_retry_of_a_doubt_sends_it_again(database: str) -> None:
    world = _World()
    async with _parked(database, world.by_doubt()) as (orchestrator, handle):
        world.mended = True
        assert await orchestrator.retry(handle.id, step="b", **WHO)
        state = await handle.result(timeout=10)
        await _one(handle, "SagaRetried")

    assert (state.status, world.done) == (Status.COMPLETED, ["a", "b", "b", "c"])


async def test_skip_of_a_doubt_goes_on_without_it(database: str) -> None:
    world = _World()
    async with _parked(database, world.by_doubt()) as (orchestrator, handle):
        assert await orchestrator.skip(handle.id, "b", **WHO)
        state = await handle.result(timeout=10)

    assert (state.status, world.done) == (Status.COMPLETED, ["a", "b", "c"])
    assert state.completed_steps == ("a", "c")


@pytest.mark.parametrize("result", [{"note": "seen"}, None], ids=["result", "none"])
async def test_a_doubt_that_happened_goes_on_with_its_result(
    database: str, result: dict[str, str] | None
) -> None:
    world = _World()
    async with _parked(database, world.by_doubt()) as (orchestrator, handle):
        assert await orchestrator.resolve(handle.id, "b", "succeeded", result=result, **WHO)
        state = await handle.result(timeout=10)
        resolved = await _one(handle, "StepResolved")

    assert (state.status, world.done) == (Status.COMPLETED, ["a", "b", "c"])
    assert (state.context.note, resolved.result) == ("seen" if result else None, result)
    assert state.in_doubt_steps == ()


async def test_a_doubt_that_did_not_happen_goes_back_without_it(database: str) -> None:
    world = _World()
    async with _parked(database, world.by_doubt()) as (orchestrator, handle):
        assert await orchestrator.resolve(handle.id, "b", "failed", **WHO)
        state = await handle.result(timeout=10)
        explained = await orchestrator.explain(handle.id)

    assert (state.status, world.done) == (Status.COMPENSATED, ["a", "b", "undo a"])
    assert explained.why[0] == "it went back because of b (step_failed): called the shop"


async def test_a_parked_doubt_that_is_cancelled_is_undone(database: str) -> None:
    world = _World()
    async with _parked(database, world.by_doubt()) as (orchestrator, handle):
        assert await orchestrator.cancel(handle.id, WHO["reason"], actor=WHO["actor"])
        state = await handle.result(timeout=10)
        await _one(handle, "SagaCancelRequested")

    assert (state.status, world.done) == (Status.COMPENSATED, ["a", "b", "undo b", "undo a"])


async def test_an_abandoned_doubt_is_listed_with_what_was_done(database: str) -> None:
    world = _World()
    async with _parked(database, world.by_doubt()) as (orchestrator, handle):
        assert await orchestrator.abandon(handle.id, **WHO)
        failed = await _one(handle, "SagaFailed")

    assert failed.uncompensated == ("a", "b")


@pytest.mark.parametrize(
    ("result", "told"),
    [({"nope": 1}, "Order has no field nope"), ({"order_id": 5}, "valid string")],
)
async def test_a_result_that_does_not_fit_is_refused(
    database: str, result: dict[str, Any], told: str
) -> None:
    async with _parked(database, _World().by_doubt()) as (orchestrator, handle):
        with pytest.raises(IllegalCommandError, match=told):
            await orchestrator.resolve(handle.id, "b", "succeeded", result=result, **WHO)
        assert (await handle.state()).status is Status.PARKED


# -- a signal that did not come -------------------------------------------------------------


async def test_retry_of_a_signal_waits_again(database: str) -> None:
    world = _World()
    async with _parked(database, world.by_signal()) as (orchestrator, handle):
        await handle.signal("signed", _Approval(note="late"))
        assert await orchestrator.retry(handle.id, **WHO)
        state = await handle.result(timeout=10)

    assert (state.status, state.context.note) == (Status.COMPLETED, "late")


async def test_a_signal_is_resolved_by_its_payload(database: str) -> None:
    world = _World()
    async with _parked(database, world.by_signal()) as (orchestrator, handle):
        with pytest.raises(IllegalCommandError, match="note"):
            await orchestrator.resolve(handle.id, "signed", "succeeded", result={"x": 1}, **WHO)
        assert await orchestrator.resolve(
            handle.id, "signed", "succeeded", result={"note": "by phone"}, **WHO
        )
        state = await handle.result(timeout=10)

    assert (state.status, state.context.note) == (Status.COMPLETED, "by phone")


async def test_a_signal_that_nobody_will_send_is_skipped_or_turns_back(database: str) -> None:
    world = _World()
    async with _parked(database, world.by_signal()) as (orchestrator, handle):
        other = await orchestrator.start("verbs", Order())
        await other.result(timeout=10)
        assert await orchestrator.skip(handle.id, "signed", **WHO)
        assert await orchestrator.resolve(other.id, "signed", "failed", **WHO)
        states = [await each.result(timeout=10) for each in (handle, other)]

    assert [state.status for state in states] == [Status.COMPLETED, Status.COMPENSATED]


# -- poison ---------------------------------------------------------------------------------


async def test_a_poison_saga_is_retried(database: str) -> None:
    world = _World()
    async with _poisoned(database, world.plain()) as (orchestrator, handle):
        explained = await orchestrator.explain(handle.id)
        assert await orchestrator.retry(handle.id, **WHO)
        state = await orchestrator.wait(handle.id, timeout=10)
        await _one(handle, "SagaRetried")

    assert explained.legal == ("retry", "cancel", "abandon")
    assert "find out why its worker dies" in explained.remedy
    assert (state.status, world.done) == (Status.COMPLETED, ["a", "c"])


@pytest.mark.parametrize(
    ("verb", "status"), [("cancel", Status.COMPENSATED), ("abandon", Status.FAILED)]
)
async def test_a_poison_saga_is_ended(database: str, verb: str, status: Status) -> None:
    world = _World()
    async with _poisoned(database, world.plain()) as (orchestrator, handle):
        if verb == "cancel":
            assert await orchestrator.cancel(handle.id, "enough")
        else:
            assert await orchestrator.abandon(handle.id, **WHO)
        state = await orchestrator.wait(handle.id, timeout=10)

    assert (state.status, world.done) == (status, [])


class _Deadly:
    """A step during which its workers die, and what it was told."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.undone: list[str] = []
        self.begun = asyncio.Event()
        self.cured = False

    async def execute(self, _order: Order, step: StepContext) -> None:
        self.keys.append(step.idempotency_key)
        self.begun.set()
        if not self.cured:
            await asyncio.Event().wait()

    async def undo(self, _order: Order, step: StepContext) -> None:
        self.undone.append(step.outcome)

    def saga(self) -> Saga[Order]:
        """Return a saga of this step."""
        return Saga("verbs", context=Order, steps=[Step("a", self.execute, compensate=self.undo)])


@pytest.mark.parametrize(
    ("verb", "status"),
    [
        ("retry", Status.COMPLETED),
        ("cancel", Status.COMPENSATED),
        ("abandon", Status.FAILED),
    ],
)
async def test_a_saga_that_is_poison_in_an_attempt_is_in_doubt_about_it(
    database: str, verb: str, status: Status
) -> None:
    step = _Deadly()
    async with orchestrating(database, step.saga()) as orchestrator:
        handle = await orchestrator.start("verbs", Order())
        await step.begun.wait()
        await run_sql(
            database,
            "UPDATE eventsaga.sagas SET claims = 5",
            "UPDATE eventsaga.workers SET lease_until = now() - interval '1 s'",
        )
        await until(database, "SELECT status = 'PARKED' FROM eventsaga.sagas")
        step.cured = True
        if verb == "cancel":
            assert await orchestrator.cancel(handle.id, "enough")
        else:
            assert await getattr(orchestrator, verb)(handle.id, **WHO)
        state = await handle.result(timeout=10)
        history = await handle.history()

    key = f"{handle.id}/a"
    assert state.status is status
    if verb == "retry":
        assert (step.keys, step.undone) == ([key, key], [])
        assert events_of(history, "StepInDoubt")[0].interrupted
    elif verb == "cancel":
        assert (step.keys, step.undone) == ([key], ["unknown"])
    else:
        assert (step.keys, step.undone) == ([key], [])
        assert events_of(history, "SagaFailed")[0].uncompensated == ("a",)


# -- what is refused ------------------------------------------------------------------------


async def test_what_is_illegal_is_refused_with_what_is_legal(database: str) -> None:
    async with _parked(database, _World().by_doubt()) as (orchestrator, handle):
        saga_id = handle.id
        attempts: dict[str, Callable[[], Any]] = {
            "undo": lambda: orchestrator.undo(saga_id, **WHO),
            "skip a": lambda: orchestrator.skip(saga_id, "a", **WHO),
            "retry a": lambda: orchestrator.retry(saga_id, step="a", **WHO),
            "skip c": lambda: orchestrator.skip(saga_id, "c", **WHO),
            "resolve a succeeded": lambda: orchestrator.resolve(saga_id, "a", "succeeded", **WHO),
            "resolve b compensated": lambda: orchestrator.resolve(
                saga_id, "b", "compensated", **WHO
            ),
        }
        for asked, ask in attempts.items():
            with pytest.raises(IllegalCommandError) as refused:
                await ask()
            assert refused.value.command == asked
            assert refused.value.legal == (
                "retry",
                "retry b",
                "resolve b succeeded",
                "resolve b failed",
                "skip b",
                "cancel",
                "abandon",
            )
            assert "legal now: retry, retry b" in str(refused.value)
        names = await types(handle)
        assert await until(
            database, "SELECT count(*) = 0 FROM eventsaga.inbox WHERE answered_at IS NULL"
        )
        with pytest.raises(ValueError, match="maybe"):
            await orchestrator.resolve(saga_id, "b", "maybe", **WHO)  # type: ignore[arg-type]
        with pytest.raises(SagaNotFoundError):
            await orchestrator.retry(new_id(), **WHO)

    assert names[-1] == "SagaParked"


async def test_a_saga_that_runs_or_has_ended_takes_no_verb_of_a_parked_one(database: str) -> None:
    begun, let_go = asyncio.Event(), asyncio.Event()

    async def hold(_order: Order) -> None:
        begun.set()
        await let_go.wait()

    saga = Saga("verbs", context=Order, steps=[Step("a", hold)])
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("verbs", Order())
        await begun.wait()
        with pytest.raises(IllegalCommandError, match="the saga is RUNNING") as running:
            await orchestrator.abandon(handle.id, **WHO)
        with pytest.raises(IllegalCommandError, match="RUNNING"):
            await orchestrator.undo(handle.id, **WHO)
        let_go.set()
        await handle.result(timeout=10)
        with pytest.raises(IllegalCommandError, match="the saga is COMPLETED") as ended:
            await orchestrator.retry(handle.id, **WHO)

    assert (running.value.legal, ended.value.legal) == (("cancel",), ("undo",))


async def test_of_two_operators_who_resolve_at_once_one_is_refused(database: str) -> None:
    """Both find it legal; the owner takes the first, and tells the second what is legal."""
    world = _World()
    saga = world.by_doubt()
    async with _parked(database, saga) as (_, handle):
        pass
    async with orchestrating(database, saga, worker=False) as client:

        async def resolve(actor: str) -> bool | IllegalCommandError:
            try:
                return await client.resolve(
                    handle.id, "b", "succeeded", actor=actor, reason="seen", timeout=20
                )
            except IllegalCommandError as error:
                return error

        asked = [asyncio.create_task(resolve(actor)) for actor in ("ann", "bob")]
        await until(database, "SELECT count(*) = 2 FROM eventsaga.inbox WHERE answered_at IS NULL")
        async with orchestrating(database, saga):
            answers = await asyncio.gather(*asked)
            state = await client.wait(handle.id, timeout=10)
        (resolved,) = events_of(await client.history(handle.id), "StepResolved")

    (refused,) = [answer for answer in answers if isinstance(answer, IllegalCommandError)]
    assert answers.count(True) == 1
    assert refused.command == "resolve b succeeded"
    assert str(refused).count("cannot resolve") == 1
    assert "cancel" in refused.legal
    assert resolved.actor == ("ann" if answers[0] is True else "bob")
    assert (state.status, world.done) == (Status.COMPLETED, ["a", "b", "c"])


async def test_a_verb_without_any_worker_is_taken_later(database: str) -> None:
    world = _World()
    saga = world.by_doubt()
    async with _parked(database, saga) as (_, handle):
        pass
    async with orchestrating(database, worker=False) as stranger:
        # Who has no code judges by the shape that was stored with the saga.
        with pytest.raises(IllegalCommandError, match="legal now: retry, retry b"):
            await stranger.undo(handle.id, **WHO)
        assert await stranger.skip(handle.id, "b", timeout=0.1, **WHO) is False
        assert (await stranger.get(handle.id)).status is Status.PARKED
        async with orchestrating(database, saga) as worker:
            await until(database, "SELECT status = 'COMPLETED' FROM eventsaga.sagas")
            state = await worker.get(handle.id)
            (skipped,) = events_of(await worker.history(handle.id), "StepSkipped")

    assert (state.status, skipped.actor) == (Status.COMPLETED, "ann")
    assert await until(
        database, "SELECT count(*) = 0 FROM eventsaga.inbox WHERE answered_at IS NULL"
    )


# -- explain --------------------------------------------------------------------------------


async def _explained(orchestrator: Orchestrator, saga_id: UUID) -> tuple[str, str]:
    explanation = await orchestrator.explain(saga_id)
    return "\n".join(explanation.why), explanation.remedy


async def test_a_parked_saga_is_explained(database: str) -> None:
    async with _parked(database, _World().by_compensation()) as (orchestrator, handle):
        explanation = await orchestrator.explain(handle.id)

    assert (explanation.saga_id, explanation.saga_name) == (handle.id, "verbs")
    assert explanation.status is Status.PARKED
    assert explanation.why == (
        "it goes back because of c (step_failed): declined",
        "it is parked (compensation_failed): compensation gave up on b: cannot be undone",
    )
    assert "undo by hand what the step left behind" in explanation.remedy
    assert explanation.legal == (
        "retry",
        "retry b",
        "resolve b compensated",
        "skip b",
        "abandon",
    )


async def test_a_doubt_and_a_signal_are_explained(database: str) -> None:
    async with _parked(database, _World().by_doubt()) as (orchestrator, handle):
        why, remedy = await _explained(orchestrator, handle.id)
        assert "it is parked (in_doubt): b: no answer" in why
        assert "b is in doubt: its effect may have happened (no answer)" in why
        assert "ask the other side" in remedy


async def test_a_saga_that_waits_or_runs_is_explained(database: str) -> None:
    let_go, begun = asyncio.Event(), asyncio.Event()

    async def hold(_order: Order) -> None:
        begun.set()
        await let_go.wait()

    saga = Saga("verbs", context=Order, steps=[WaitForSignal("signed"), Step("a", hold)])
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("verbs", Order())
        await until(database, "SELECT count(*) FROM eventsaga.events WHERE type='SignalAwaited'")
        waits = await orchestrator.explain(handle.id)
        await handle.signal("signed")
        await begun.wait()
        runs = await orchestrator.explain(handle.id)
        let_go.set()
        await handle.result(timeout=10)
        ended = await orchestrator.explain(handle.id)

    assert waits.why == ("signed waits for signal 'signed'",)
    assert runs.why == ("a is being run (attempt 1)",)
    assert (waits.legal, runs.legal, ended.legal) == (("cancel",), ("cancel",), ("undo",))
    assert (ended.why, ended.remedy) == ((), "")


async def test_an_undo_is_written_down_with_who_asked(database: str) -> None:
    world = _World()
    async with orchestrating(database, world.plain()) as orchestrator:
        handle = await orchestrator.start("verbs", Order())
        await handle.result(timeout=10)
        assert await orchestrator.undo(handle.id, **WHO)
        state = await handle.result(timeout=10)
        await _one(handle, "UndoRequested")
        with pytest.raises(IllegalCommandError, match="COMPENSATED"):
            await orchestrator.undo(handle.id, **WHO)

    assert (state.status, world.done) == (Status.COMPENSATED, ["a", "c", "undo a"])


def test_a_refusal_can_be_read_back() -> None:
    for error in (
        IllegalCommandError("skip a", "step 'a' is succeeded", ("retry", "skip b")),
        IllegalCommandError("undo", "the saga is FAILED"),
    ):
        read = IllegalCommandError.read("x", str(error))
        assert (read.command, read.reason, read.legal) == (
            error.command,
            error.reason,
            error.legal,
        )
    assert IllegalCommandError.read("skip", "no").command == "skip"


# -- what a person says of items, and of what was in doubt -----------------------------------


async def test_an_item_whose_results_are_collected_is_resolved_with_its_own(database: str) -> None:
    async def item(_order: Order, step: StepContext) -> dict[str, int]:
        if step.index == 1:
            raise TimeoutError("no answer")
        assert step.index is not None
        return {"receipt": step.index}

    each = ForEach("each", lambda _: [0, 1, 2], Step("one", item, on_doubt="park"), into="data")
    saga = Saga("verbs", context=Order, steps=[each])
    async with _parked(database, saga) as (orchestrator, handle):
        await orchestrator.resolve(handle.id, "each[1]", "succeeded", result={"receipt": 7}, **WHO)
        state = await handle.result(timeout=10)

    assert state.status is Status.COMPLETED
    assert state.context.data == [{"receipt": 0}, {"receipt": 7}, {"receipt": 2}]


async def test_what_was_in_doubt_and_skipped_is_compensated_if_the_saga_goes_back(
    database: str,
) -> None:
    told: list[str] = []

    async def refund(_order: Order, step: StepContext) -> None:
        told.append(f"{step.step}: {step.outcome}")

    world = _World()
    unsure = world.act("b", error=TimeoutError("no answer"))
    declined = world.act("c", error=PermanentError("declined"))
    steps = [Step("b", unsure, compensate=refund, on_doubt="park"), Step("c", declined)]
    async with _parked(database, Saga("verbs", context=Order, steps=steps)) as (shop, handle):
        await shop.skip(handle.id, "b", **WHO)
        await until(
            database,
            "SELECT status = 'COMPENSATED' FROM eventsaga.sagas WHERE saga_id = $1",
            handle.id,
        )

    assert told == ["b: unknown"]

"""Does a saga end on the definition it started with, and is a changed one told apart?"""

import asyncio
import json
from typing import Any

import asyncpg
import pytest
from pydantic import BaseModel

from eventsaga import (
    DefinitionChangedError,
    ForEach,
    Parallel,
    PayloadError,
    PermanentError,
    Saga,
    Sleep,
    Status,
    Step,
    StepContext,
    WaitForSignal,
)
from tests.runtime.sagas import ONCE, Order, events_of, nothing, orchestrating, until

pytestmark = pytest.mark.usefixtures("sound")


class _Held:
    """Steps that note who ran, and one that can be held."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.begun = asyncio.Event()
        self.let_go = asyncio.Event()

    def act(self, name: str) -> Any:
        async def act(_order: Order) -> None:
            self.ran.append(name)

        return act

    async def hold(self, _order: Order) -> None:
        self.ran.append("hold")
        self.begun.set()
        await self.let_go.wait()

    def first(self) -> Saga[Order]:
        steps = [Step("hold", self.hold), Step("old", self.act("old"))]
        return Saga("grows", context=Order, steps=steps)

    def second(self) -> Saga[Order]:
        steps = [Step("new", self.act("new")), Step("newer", self.act("newer"))]
        return Saga("grows", context=Order, steps=steps, version=2)


async def test_what_runs_ends_on_the_version_it_began_with(database: str) -> None:
    held = _Held()
    async with orchestrating(database, held.first()) as before:
        old = await before.start("grows", Order())
        await held.begun.wait()
        async with orchestrating(database, held.first(), held.second()) as after:
            new = await after.start("grows", Order())
            pinned = await after.start(held.first(), Order())
            new_state = await new.result(timeout=10)
            held.let_go.set()
            old_state = await after.wait(old.id, timeout=10)
            pinned_state = await pinned.result(timeout=10)

    assert (old_state.version, old_state.completed_steps) == (1, ("hold", "old"))
    assert (new_state.version, new_state.completed_steps) == (2, ("new", "newer"))
    assert pinned_state.version == 1


async def test_an_old_saga_is_recovered_on_its_own_version(database: str) -> None:
    held = _Held()
    signed = Saga("grows", context=Order, steps=[WaitForSignal("ok"), Step("old", held.act("old"))])
    async with orchestrating(database, signed) as before:
        handle = await before.start("grows", Order())
        await until(database, "SELECT count(*) FROM eventsaga.events WHERE type='SignalAwaited'")
    async with orchestrating(database, signed, held.second()) as after:
        await after.signal(handle.id, "ok")
        state = await after.wait(handle.id, timeout=10)

    assert (state.version, held.ran) == (1, ["old"])


async def test_who_has_only_the_new_version_leaves_the_old_ones_alone(database: str) -> None:
    held = _Held()
    async with orchestrating(database, held.first(), worker=False) as client:
        old = await client.start("grows", Order())
    async with orchestrating(database, held.second()) as after:
        new = await after.start("grows", Order())
        assert (await new.result(timeout=10)).status is Status.COMPLETED
        waiting = await after.get(old.id)
        with pytest.raises(TimeoutError):
            await after.wait(old.id, timeout=0.5)

    assert (waiting.status, waiting.context["order_id"]) == (Status.PENDING, "o-1")
    assert held.ran == ["new", "newer"]


# -- changed under the same version ---------------------------------------------------------


def _before() -> list[Any]:
    return [Step("a", nothing, compensate=nothing), WaitForSignal("ok"), Step("b", nothing)]


def _always(_order: Order) -> bool:
    return True


_CHANGES: dict[str, tuple[list[Any], str]] = {
    "gone": (_before()[:2], "'b' is gone"),
    "new": ([*_before(), Step("c", nothing)], "'c' is new"),
    "order": ([*_before()[1:], _before()[0]], "the order is another"),
    "compensation": ([Step("a", nothing), *_before()[1:]], "'a' is of another kind"),
    "kind": ([*_before()[:2], Sleep("b", 1)], "'b' is of another kind"),
    "condition": (
        [*_before()[:2], Step("b", nothing, when=_always)],
        "'b' is of another kind",
    ),
    "pivot": ([*_before()[:2], Step("b", nothing, pivot=True)], "'b' is of another kind"),
    "nesting": (
        [_before()[0], Parallel("both", _before()[1:])],
        "its nodes are nested in another way",
    ),
}


def _changing(steps: list[Any], **options: Any) -> Saga[Order]:
    return Saga("changes", context=Order, steps=steps, **options)


@pytest.mark.parametrize("change", _CHANGES)
async def test_a_changed_shape_under_the_same_version_is_refused_while_one_is_unfinished(
    database: str, change: str
) -> None:
    steps, told = _CHANGES[change]
    async with orchestrating(database, _changing(_before()), worker=False) as client:
        await client.start("changes", Order())

    with pytest.raises(DefinitionChangedError) as refused:
        async with orchestrating(database, _changing(steps)):
            pass

    message = str(refused.value)
    assert "saga 'changes' version 1 has changed" in message
    assert told in message
    assert "1 of its sagas are unfinished" in message


async def test_a_changed_shape_is_accepted_once_the_old_ones_have_ended(database: str) -> None:
    changed = _changing([*_before(), Step("c", nothing)])
    async with orchestrating(database, _changing(_before())) as worker:
        handle = await worker.start("changes", Order())
        await handle.signal("ok")
        assert (await handle.result(timeout=10)).status is Status.COMPLETED
    async with orchestrating(database, changed) as worker:
        new = await worker.start("changes", Order())
        await new.signal("ok")
        state = await new.result(timeout=10)

    assert state.completed_steps == ("a", "ok", "b", "c")


async def test_a_parked_saga_is_unfinished(database: str) -> None:
    async def decline(_order: Order) -> None:
        raise PermanentError("no")

    def saga(*more: Step) -> Saga[Order]:
        steps = [Step("go", nothing, pivot=True), Step("tail", decline, retry=ONCE), *more]
        return _changing(steps)

    async with orchestrating(database, saga()) as worker:
        handle = await worker.start("changes", Order())
        assert (await handle.result(timeout=10)).status is Status.PARKED
    with pytest.raises(DefinitionChangedError, match="'more' is new"):
        async with orchestrating(database, saga(Step("more", nothing))):
            pass
    async with orchestrating(database, saga()) as worker:
        assert await worker.abandon(handle.id, reason="enough", actor="ann")
    async with orchestrating(database, saga(Step("more", nothing))) as worker:
        assert worker.runs_sagas


async def test_policies_are_no_part_of_the_shape(database: str) -> None:
    async with orchestrating(database, _changing(_before()), worker=False) as client:
        handle = await client.start("changes", Order())
    calm = [
        Step("a", nothing, compensate=nothing, retry=ONCE, timeout=1, key_ttl=60),
        WaitForSignal("ok", timeout=60, on_timeout="park"),
        Step("b", nothing, retry=ONCE, on_doubt="park"),
    ]
    async with orchestrating(database, _changing(calm, deadline=3600)) as worker:
        await worker.signal(handle.id, "ok")
        assert (await worker.wait(handle.id, timeout=10)).status is Status.COMPLETED


async def test_a_changed_shape_under_a_new_version_is_welcome(database: str) -> None:
    async with orchestrating(database, _changing(_before()), worker=False) as client:
        old = await client.start("changes", Order())
    new = _changing([Step("z", nothing)], version=2)
    async with orchestrating(database, _changing(_before()), new) as worker:
        started = await worker.start("changes", Order())
        await worker.signal(old.id, "ok")
        states = [await worker.wait(each.id, timeout=10) for each in (old, started)]

    assert [state.version for state in states] == [1, 2]


async def test_definitions_are_recorded_with_their_graphs(database: str) -> None:
    held = _Held()
    grown = Saga(
        "grown",
        context=Order,
        steps=[
            Step("a", nothing, compensate=nothing),
            Parallel("both", [[Sleep("nap", 1), Step("b", nothing)], WaitForSignal("ok")]),
            ForEach("each", lambda _: [], Step("x", nothing)),
        ],
    )
    async with orchestrating(database, held.first(), held.second(), grown, worker=False):
        pass
    connection = await asyncpg.connect(database)
    rows = await connection.fetch(
        "SELECT name, version, fingerprint, graph FROM eventsaga.definitions ORDER BY 1, 2"
    )
    await connection.close()

    assert [(row["name"], row["version"]) for row in rows] == [
        ("grown", 1),
        ("grows", 1),
        ("grows", 2),
    ]
    assert rows[0]["fingerprint"] == grown.definition.fingerprint
    assert json.loads(rows[0]["graph"]) == {
        "name": "grown",
        "nodes": [
            {"step": "a", "compensable": True},
            {
                "parallel": "both",
                "branches": [
                    {"sequence": [{"sleep": "nap"}, {"step": "b", "compensable": False}]},
                    {"wait": "ok", "signal": "ok"},
                ],
            },
            {"for_each": "each", "of": {"step": "x", "compensable": False}},
        ],
    }


# -- the context changes --------------------------------------------------------------------


class _Old(BaseModel):
    name: str


class _New(BaseModel):
    first: str
    last: str
    greeting: str | None = None


def _split(recorded: dict[str, Any]) -> dict[str, Any]:
    """Return what fits; what steps have changed since stands beside what was old."""
    first, _, last = recorded.pop("name", "").partition(" ")
    return {"first": first, "last": last, **recorded}


def _greets(model: type[BaseModel], execute: Any, **options: Any) -> Saga[Any]:
    steps: list[Any] = [
        WaitForSignal("ok"),
        Step("greet", execute, compensate=options.pop("undo", None)),
    ]
    return Saga("greets", context=model, steps=steps, **options)


async def _greet(context: _New, step: StepContext) -> dict[str, str]:
    greeting = f"{context.last}, {context.first} ({step.attempt})"
    return {"greeting": greeting, "last": context.last.upper()}


async def test_what_was_recorded_is_migrated_to_what_the_model_takes_now(database: str) -> None:
    told: list[str | None] = []
    undone: list[str] = []

    async def tell(context: _New) -> None:
        told.append(context.greeting)

    async def undo(context: _New) -> None:
        undone.append(context.first)

    async with orchestrating(database, _greets(_Old, nothing, undo=undo)) as before:
        handle = await before.start("greets", _Old(name="Ada Lovelace"))
        await until(database, "SELECT count(*) FROM eventsaga.events WHERE type='SignalAwaited'")
    saga = _greets(_New, _greet, undo=undo, migrate_context=_split, on_completed=tell)
    async with orchestrating(database, saga) as after:
        waiting = await after.get(handle.id)
        await after.signal(handle.id, "ok")
        state = await after.wait(handle.id, timeout=10)
        await until(database, "SELECT count(*) FROM eventsaga.events WHERE type='HookDelivered'")
        assert await after.undo(handle.id, reason="no", actor="ann")
        undone_state = await after.wait(handle.id, timeout=10)
        fresh = await after.start("greets", _New(first="Alan", last="Turing"))
        await fresh.signal("ok")
        fresh_state = await fresh.result(timeout=10)

    assert waiting.context == _New(first="Ada", last="Lovelace")
    assert (state.status, state.context.greeting) == (Status.COMPLETED, "Lovelace, Ada (1)")
    assert state.context.last == "LOVELACE"
    assert told[0] == "Lovelace, Ada (1)"
    assert (undone_state.status, undone) == (Status.COMPENSATED, ["Ada"])
    assert fresh_state.context.greeting == "Turing, Alan (1)"


async def test_a_migration_that_fails_fails_the_step_and_names_itself(database: str) -> None:
    def broken(_recorded: dict[str, Any]) -> dict[str, Any]:
        raise KeyError("surname")

    async with orchestrating(database, _greets(_Old, nothing)) as before:
        handle = await before.start("greets", _Old(name="Ada Lovelace"))
        await until(database, "SELECT count(*) FROM eventsaga.events WHERE type='SignalAwaited'")
    saga = _greets(_New, _greet, migrate_context=broken)
    async with orchestrating(database, saga) as after:
        await after.signal(handle.id, "ok")
        await until(database, "SELECT status = 'COMPENSATED' FROM eventsaga.sagas")
        (failed,) = events_of(await after.history(handle.id), "StepFailed")
        with pytest.raises(PayloadError, match="migrate_context failed"):
            await after.get(handle.id)

    assert "migrate_context failed" in failed.message

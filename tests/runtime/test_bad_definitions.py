"""Is what cannot work refused when it is written, by the name of what is wrong?"""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from eventsaga import (
    ChildSaga,
    DefinitionError,
    ForEach,
    Orchestrator,
    Parallel,
    Rate,
    Retry,
    Saga,
    Sleep,
    Step,
    WaitForSignal,
)
from tests.runtime.sagas import Order, nothing


class _Approval(BaseModel):
    by: str


class _Other(BaseModel):
    by: str


class _Socket:
    """Nothing that JSON knows."""


class _Unwritable(BaseModel, arbitrary_types_allowed=True):
    socket: _Socket


def _saga(*steps: Any, **options: Any) -> Saga[Order]:
    return Saga("bad", context=Order, steps=list(steps), **options)


def _step(name: Any = "pay", **options: Any) -> Step:
    return Step(name, nothing, **options)


def _always(_order: Order) -> bool:
    return True


async def _asked(_order: Order) -> bool:
    return True


def _three(_order: Order, _step: object, _more: object) -> None:
    return None


def _two(_order: Order, _item: object) -> bool:
    return True


_PIVOTAL = Saga("pivotal", context=Order, steps=[Step("go", nothing, pivot=True)])

_BAD: dict[str, tuple[Callable[[], object], str]] = {
    # names
    "two-steps": (lambda: _saga(_step("a"), _step("a")), "two nodes named 'a'"),
    "two-nested": (
        lambda: _saga(_step("a"), Parallel("both", [_step("b"), [_step("c"), _step("a")]])),
        "two nodes named 'a'",
    ),
    "group-and-step": (lambda: _saga(_step("a"), Parallel("a", [_step("b")])), "named 'a'"),
    "name-with-space": (lambda: _saga(_step("pay now")), "step name 'pay now'"),
    "name-of-an-item": (lambda: _saga(_step("pay[0]")), r"step name 'pay\[0\]'"),
    "name-empty": (lambda: _saga(_step("")), "step name ''"),
    "name-too-long": (lambda: _saga(_step("x" * 101)), "step name 'xxx"),
    "name-number": (lambda: _saga(_step(7)), "step 7: a name must be a string"),
    "group-name": (lambda: _saga(Parallel("a b", [_step()])), "parallel group name 'a b'"),
    "sleep-name": (lambda: _saga(Sleep("a/b", 1)), "name 'a/b'"),
    "item-step-name": (
        lambda: _saga(ForEach("each", lambda _: [], _step("a b"))),
        "group 'each': step name 'a b'",
    ),
    "saga-name": (lambda: Saga("a saga", context=Order, steps=[_step()]), "saga name 'a saga'"),
    # the tree
    "nothing": (_saga, "saga 'bad' has an empty list of steps"),
    "no-branches": (lambda: _saga(Parallel("both", [])), "parallel group 'both' has no branches"),
    "empty-branch": (
        lambda: _saga(Parallel("both", [_step(), []])),
        "parallel group 'both': .*empty list of steps",
    ),
    "not-a-node": (lambda: _saga(nothing), "not of function"),
    "not-a-node-inside": (
        lambda: _saga(Parallel("both", [_step(), nothing])),  # type: ignore[list-item]
        "parallel group 'both': .*not of function",
    ),
    "branches-no-list": (
        lambda: _saga(Parallel("both", _step())),  # type: ignore[arg-type]
        "parallel group 'both': .*not of Step",
    ),
    "group-limit": (
        lambda: _saga(Parallel("both", [_step()], max_concurrency=0)),
        "parallel group 'both': max_concurrency",
    ),
    "items-limit": (
        lambda: _saga(ForEach("each", lambda _: [], _step(), max_concurrency=0)),
        "group 'each': max_concurrency",
    ),
    "items-no-step": (
        lambda: _saga(ForEach("each", lambda _: [], Sleep("s", 1))),  # type: ignore[arg-type]
        "group 'each': step must be a Step, not Sleep",
    ),
    # functions
    "execute-no-function": (lambda: _saga(Step("pay", "x")), "step 'pay': execute must be"),  # type: ignore[arg-type]
    "execute-signature": (
        lambda: _saga(Step("pay", _three)),
        r"step 'pay': execute must take \(context, step\) or \(context\)",
    ),
    "compensate-signature": (
        lambda: _saga(_step(compensate=_three)),
        r"step 'pay': compensate must take \(context, step\) or \(context\)",
    ),
    "compensate-no-function": (lambda: _saga(_step(compensate=5)), "step 'pay': compensate must"),
    "item-compensate": (
        lambda: _saga(ForEach("each", lambda _: [], _step(compensate=_three))),
        "group 'each': compensate must take",
    ),
    "verify-signature": (
        lambda: _saga(_step(on_doubt="verify", verify=_three)),
        "step 'pay': verify must take",
    ),
    "when-async": (lambda: _saga(_step(when=_asked)), "step 'pay': when must be a plain function"),
    "when-signature": (lambda: _saga(_step(when=_two)), "step 'pay': when must take"),
    "items-async": (
        lambda: _saga(ForEach("each", _asked, _step())),  # type: ignore[arg-type]
        "group 'each': items must be a plain",
    ),
    "duration-async": (lambda: _saga(Sleep("nap", _asked)), "sleep 'nap': duration must be"),  # type: ignore[arg-type]
    "child-context": (
        lambda: _saga(ChildSaga("kid", _saga(_step()), _two)),  # type: ignore[arg-type]
        "child saga 'kid': context must take",
    ),
    "hook": (lambda: _saga(_step(), on_completed=_three), "saga 'bad': on_completed must take"),
    "migration": (
        lambda: _saga(_step(), migrate_context=_two),
        "saga 'bad': migrate_context must take",
    ),
    # what a step promises
    "timeout": (lambda: _saga(_step(timeout=0)), "step 'pay': timeout must be positive"),
    "timeout-text": (lambda: _saga(_step(timeout="x")), "step 'pay': timeout must be seconds"),
    "key-ttl": (lambda: _saga(_step(key_ttl=0)), "step 'pay': key_ttl must be positive"),
    "attempts": (
        lambda: _saga(_step(retry=Retry(max_attempts=0))),
        "step 'pay': max_attempts must be at least 1",
    ),
    "multiplier": (
        lambda: _saga(_step(compensate_retry=Retry(multiplier=0.5))),
        "step 'pay': multiplier must be",
    ),
    "delay": (lambda: _saga(_step(retry=Retry(delay=-1))), "step 'pay': delay must not be"),
    "on-doubt": (
        lambda: _saga(_step(on_doubt="guess")),
        "step 'pay': on_doubt must be one of .*'park', not 'guess'",
    ),
    "verify-missing": (lambda: _saga(_step(on_doubt="verify")), "step 'pay': .*go together"),
    "verify-unused": (lambda: _saga(_step(verify=nothing)), "step 'pay': .*go together"),
    "doubt-uncompensable": (
        lambda: _saga(_step(on_doubt="compensate")),
        "step 'pay': on_doubt='compensate' needs a compensation",
    ),
    "transactional-doubt": (
        lambda: _saga(_step(transactional=True, on_doubt="park")),
        "step 'pay': a transactional step is never in doubt",
    ),
    "concurrency": (lambda: _saga(_step(concurrency=0)), "step 'pay': concurrency must be"),
    "rate": (lambda: _saga(_step(rate=Rate(0))), "step 'pay': rate 0 per"),
    "burst": (lambda: _saga(_step(rate=Rate(1, burst=0))), "step 'pay': rate 1 per"),
    "quota": (lambda: _saga(_step(quota="bank")), "step 'pay': a quota needs"),
    "quota-name": (
        lambda: _saga(_step(concurrency=1, quota="the bank")),
        "step 'pay': quota name 'the bank'",
    ),
    # waits
    "sleep-negative": (lambda: _saga(Sleep("nap", -1)), "sleep 'nap': duration must not be"),
    "sleep-text": (lambda: _saga(Sleep("nap", "long")), "sleep 'nap': duration must be seconds"),  # type: ignore[arg-type]
    "signal-name": (
        lambda: _saga(WaitForSignal("ok", signal="o k")),
        "signal 'ok': signal name 'o k'",
    ),
    "signal-model": (
        lambda: _saga(WaitForSignal("ok", dict)),  # type: ignore[arg-type]
        "signal 'ok': model must be a pydantic model class",
    ),
    "signal-two-models": (
        lambda: _saga(
            WaitForSignal("one", _Approval, signal="ok"), WaitForSignal("two", _Other, signal="ok")
        ),
        "signal 'two': signal 'ok' has two models",
    ),
    "signal-on-timeout": (
        lambda: _saga(WaitForSignal("ok", on_timeout="wait")),  # type: ignore[arg-type]
        "signal 'ok': on_timeout must be one of",
    ),
    "signal-default": (
        lambda: _saga(WaitForSignal("ok", _Approval, timeout=1, default={"by": "me"})),
        "signal 'ok': a default is for on_timeout='continue'",
    ),
    "signal-no-default": (
        lambda: _saga(WaitForSignal("ok", _Approval, timeout=1, on_timeout="continue")),
        "signal 'ok': .*needs a default that fits _Approval",
    ),
    "signal-default-unwritable": (
        lambda: _saga(
            WaitForSignal("ok", timeout=1, on_timeout="continue", default={"x": object()})
        ),
        "signal 'ok': default must be a JSON object",
    ),
    "signal-default-no-object": (
        lambda: _saga(
            WaitForSignal("ok", timeout=1, on_timeout="continue", default=[1])  # type: ignore[arg-type]
        ),
        "signal 'ok': default must be a JSON object",
    ),
    "signal-into": (
        lambda: _saga(WaitForSignal("ok", into="approval")),
        "signal 'ok': Order has no field 'approval'",
    ),
    "items-into": (
        lambda: _saga(ForEach("each", lambda _: [], _step(), into="results")),
        "group 'each': Order has no field 'results'",
    ),
    "child-into": (
        lambda: _saga(ChildSaga("kid", _saga(_step()), lambda order: order, into="kid")),
        "child saga 'kid': Order has no field 'kid'",
    ),
    "child-no-saga": (
        lambda: _saga(ChildSaga("kid", "other", lambda order: order)),  # type: ignore[arg-type]
        "child saga 'kid': saga must be a Saga, not str",
    ),
    # the pivot
    "two-pivots": (
        lambda: _saga(_step("a", pivot=True), _step("b", pivot=True)),
        "saga 'bad' has two pivots, a and b",
    ),
    "pivot-conditional": (
        lambda: _saga(_step(pivot=True, when=_always)),
        "step 'pay': a pivot cannot be conditional",
    ),
    "pivot-in-branch": (
        lambda: _saga(Parallel("both", [_step(pivot=True), _step("ship")])),
        "step 'pay': a pivot in a parallel branch cannot hold, because 'ship'",
    ),
    "pivot-in-items": (
        lambda: _saga(ForEach("each", lambda _: [], _step(pivot=True))),
        "group 'each': a pivot cannot be done for each item",
    ),
    "tail-compensates": (
        lambda: _saga(
            _step("a", pivot=True), _step("b", compensate=nothing, on_doubt="compensate")
        ),
        "step 'b' comes after the pivot 'a'",
    ),
    "tail-items-compensate": (
        lambda: _saga(
            _step("a", pivot=True),
            ForEach("b", lambda _: [], _step("x", compensate=nothing, on_doubt="compensate")),
        ),
        "'b' comes after the pivot 'a'",
    ),
    "tail-signal": (
        lambda: _saga(_step("a", pivot=True), WaitForSignal("ok", timeout=1)),
        "signal 'ok' comes after the pivot 'a'",
    ),
    "child-with-pivot": (
        lambda: _saga(ChildSaga("kid", _PIVOTAL, lambda order: order), _step()),
        "child saga 'kid': saga 'pivotal' has a pivot",
    ),
    # the saga
    "context-no-model": (
        lambda: Saga("bad", context=dict, steps=[_step()]),  # type: ignore[type-var]
        "saga 'bad': context must be a pydantic model class",
    ),
    "context-unwritable": (
        lambda: Saga("bad", context=_Unwritable, steps=[_step()]),
        "saga 'bad': _Unwritable cannot be written as JSON",
    ),
    "version": (lambda: _saga(_step(), version=0), "saga 'bad': version must be at least 1"),
    "deadline": (lambda: _saga(_step(), deadline=0), "saga 'bad': deadline must be positive"),
    "deadline-text": (lambda: _saga(_step(), deadline="x"), "saga 'bad': deadline must be"),
    "deadline-negative": (lambda: _saga(_step(), deadline=-1), "saga 'bad': deadline must"),
    "max-running": (lambda: _saga(_step(), max_running=0), "saga 'bad': max_running must be"),
}


@pytest.mark.parametrize("bad", _BAD)
def test_what_cannot_work_is_refused_by_the_name_of_the_node(bad: str) -> None:
    build, told = _BAD[bad]

    with pytest.raises(DefinitionError, match=told):
        build()


def test_what_can_work_is_accepted() -> None:
    """Close relatives of what is refused."""
    _saga(_step("a-1.x_"), Parallel("both", [_step("b"), [_step("c"), Sleep("nap", 0)]]))
    _saga(Parallel("alone", [[_step("a"), _step("b", pivot=True)]]), _step("c"))
    _saga(_step("a", pivot=True), WaitForSignal("ok"), WaitForSignal("on", on_timeout="park"))
    _saga(_step("a", pivot=True), ChildSaga("kid", _PIVOTAL, lambda order: order))
    _saga(
        WaitForSignal("one", _Approval, signal="ok"), WaitForSignal("two", _Approval, signal="ok")
    )
    _saga(ForEach("each", lambda _: [], _step("each")))


def test_two_sagas_of_one_name_and_version_are_refused_together() -> None:
    with pytest.raises(DefinitionError, match="saga 'bad' version 1 is registered twice"):
        Orchestrator("postgresql://nowhere/x", sagas=[_saga(_step("a")), _saga(_step("b"))])

"""How does an attempt run? One function, called once, and one command that says how it ended.

Nothing here touches the database: what an attempt did becomes known only by the command
that it returns. Every attempt gets a context of its own, built from the recorded one, so a
function that changes it in place changes nothing but its own copy. (The steps of a
`ForEach` share one: building it ten thousand times would cost more than they do.)
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any, Final

import httpx
from pydantic import BaseModel
from structlog.contextvars import bind_contextvars

from eventsaga import failpoints
from eventsaga.contexts import to_context
from eventsaga.core.commands import RecordDoubt, RecordFailure, RecordHook, RecordSuccess
from eventsaga.core.definition import group_of, item_index
from eventsaga.core.draft import idempotency_key
from eventsaga.core.events import JsonObject, Operation
from eventsaga.core.react import RunHook, RunStep
from eventsaga.core.state import State
from eventsaga.errors import PayloadError, PermanentError
from eventsaga.observe import trace
from eventsaga.runtime.answers import SagaAnswers, item_of
from eventsaga.runtime.clock import Clock
from eventsaga.runtime.context import Results, StepContext
from eventsaga.runtime.outcome import Verdict, describe, judge
from eventsaga.runtime.patch import ResultRefusedError, collected, patch_of
from eventsaga.runtime.threads import Thread, Threads
from eventsaga.saga import BoundFunction, Retry, Saga
from eventsaga.store.ports import Transaction
from eventsaga.wire import sealing

Ended = RecordSuccess | RecordFailure | RecordDoubt

_HOOK_TIMEOUT: Final = timedelta(seconds=60)
_DATABASE_PAUSE: Final = timedelta(milliseconds=200)


@dataclass(frozen=True, slots=True)
class Tools:
    """What attempts share: clock, HTTP pool and threads, and whether they have spans."""

    clock: Clock
    transport: httpx.AsyncBaseTransport
    threads: Threads
    is_traced: bool = False

    @asynccontextmanager
    async def thread_for(self, function: BoundFunction) -> AsyncGenerator[Thread | None]:
        """Wait for a thread if *function* is a plain one; None if it needs none."""
        if function.is_async:
            yield None
            return
        async with self.threads.free() as thread:
            yield thread


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt, with what it needs of its saga; its intent is committed.

    Attributes:
        saga: The saga's functions and model.
        answers: Holds the model that the items of a group share.
        state: Where the saga stands. It moves on while the attempt runs.
        before: The context that the attempt is given.
        effect: Which attempt of which function.
        transaction: Where a transactional step writes; None for any other.
        thread: Where a plain function runs; None for a coroutine function.
    """

    saga: Saga[Any]
    answers: SagaAnswers
    state: State
    before: Mapping[str, Any]
    effect: RunStep
    transaction: Transaction | None = None
    thread: Thread | None = None


async def run_attempt(attempt: Attempt, tools: Tools) -> Ended:
    """Run one attempt, in a span of its own, and return how it ended.

    Args:
        attempt: What to run.
        tools: Shared by all attempts.

    Raises:
        asyncio.CancelledError: If the worker gives the attempt up.
    """
    state, effect = attempt.state, attempt.effect
    # The task is the attempt's own, and so is its context.
    bind_contextvars(
        saga_id=str(state.saga_id),
        saga_name=state.saga_name,
        step=effect.step,
        attempt=effect.attempt,
        correlation_id=state.correlation_id,
    )
    if not tools.is_traced:
        return await _ended_attempt(attempt, tools)
    with trace.attempting(state, effect) as span:
        ended = await _ended_attempt(attempt, tools)
        trace.conclude(span, ended, secret=sealing.is_installed())
        return ended


async def _ended_attempt(  # noqa: PLR0911 - a line for each end
    attempt: Attempt, tools: Tools
) -> Ended:
    effect, transaction = attempt.effect, attempt.transaction
    function, retry = function_of(attempt.saga, effect)
    try:
        result = await _call(attempt, tools, function)
        if effect.operation is Operation.VERIFY and (result is None or result is False):
            return _denied_or_unknown(effect, tools, result)
        patch = _patch(attempt, None if result is True else result)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise  # the worker gives the attempt up
        # A transactional step that cancels itself is rolled back: nothing is in doubt.
        verdict = Verdict(in_doubt=transaction is None)
        return _ended(effect, tools, error, verdict, retryable=True)
    except ResultRefusedError as error:
        return _refused(effect, tools, error, happened=transaction is None)
    except Exception as error:  # noqa: BLE001 - whatever a step raises is its outcome
        if effect.operation is Operation.VERIFY:
            return _ended(effect, tools, error, Verdict(in_doubt=True), retryable=True)
        if transaction is not None:
            return _rolled_back(effect, tools, error, transaction, retry)
        verdict = judge(error)
        return _ended(effect, tools, error, verdict, retryable=_retryable(retry, error, verdict))
    return RecordSuccess(
        at=tools.clock.now(),
        step=effect.step,
        attempt=effect.attempt,
        operation=effect.operation,
        result=patch,
    )


def interrupted(effect: RunStep, tools: Tools, error: Exception) -> RecordFailure:
    """Return how a transactional attempt ended that the database, and nobody else, ended."""
    return _not_spent(effect, tools, error, _DATABASE_PAUSE)


def withdrawn(effect: RunStep, tools: Tools, reason: str) -> RecordFailure:
    """Return how an attempt ended that never began: it stood in a queue."""
    return _not_spent(effect, tools, InterruptedError(reason), timedelta(0))


def _not_spent(
    effect: RunStep, tools: Tools, error: Exception, retry_after: timedelta
) -> RecordFailure:
    ended = _ended(effect, tools, error, Verdict(retry_after=retry_after), retryable=True)
    assert isinstance(ended, RecordFailure), "nothing is in doubt"
    return replace(ended, interrupted=True)


def failed_commit(effect: RunStep, tools: Tools, error: Exception, retry: Retry) -> Ended:
    """Return how a transactional attempt ended whose commit the database refused."""
    verdict = Verdict()
    return _ended(effect, tools, error, verdict, retryable=_retryable(retry, error, verdict))


def function_of(saga: Saga[Any], effect: RunStep) -> tuple[BoundFunction, Retry]:
    """Return what *effect* calls, and how often it may."""
    bound = saga.bound.steps[group_of(effect.step) or effect.step]
    match effect.operation:
        case Operation.EXECUTE:
            return bound.execute, bound.retry
        case Operation.COMPENSATE:
            assert bound.compensate is not None, "only what has a compensation is compensated"
            return bound.compensate, bound.compensate_retry
        case Operation.VERIFY:
            assert bound.verify is not None, "only what can be verified is verified"
            return bound.verify, bound.retry


def _patch(attempt: Attempt, result: object) -> JsonObject | None:
    group = group_of(attempt.effect.step)
    if group is not None and attempt.state.items[group].into is not None:
        return collected(result)
    return patch_of(attempt.saga, attempt.before, result)


async def _call(attempt: Attempt, tools: Tools, function: BoundFunction) -> object:
    allowed = attempt.saga.definition.task(attempt.effect.step).timeout
    context = _context_model(attempt)
    arguments: tuple[Any, ...] = (context,)
    if function.takes_step:
        arguments = (context, _step_context(attempt, tools, allowed))
    if not failpoints.armed:
        return await _called(function, arguments, allowed, attempt.thread)
    text = f"{attempt.effect.operation}/{attempt.effect.step}"
    await failpoints.reach("before_effect", text=text)
    result = await _called(function, arguments, allowed, attempt.thread)
    await failpoints.reach("after_effect", text=text)
    return result


async def _called(
    function: BoundFunction,
    arguments: tuple[Any, ...],
    allowed: timedelta,
    thread: Thread | None,
) -> object:
    seconds = allowed.total_seconds()
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            try:
                if thread is None:
                    return await function.function(*arguments)
                return await thread.run(partial(function.function, *arguments))
            except Exception as error:
                trace.record(error, secret=sealing.is_installed())
                raise
    except TimeoutError as error:
        if limit.expired():
            message = f"no result after {seconds:g} s; it may yet take effect"
            raise TimeoutError(message) from error
        raise


def _context_model(attempt: Attempt) -> BaseModel:
    try:
        if group_of(attempt.effect.step) is not None:
            return attempt.answers.context(attempt.state)
        return to_context(attempt.saga, attempt.before)
    except PayloadError as error:
        # It fitted the model once, so the model must have changed since.
        raise PermanentError(f"the recorded context does not fit the model: {error}") from error


def _step_context(attempt: Attempt, tools: Tools, timeout: timedelta) -> StepContext:
    state, effect, transaction = attempt.state, attempt.effect, attempt.transaction
    group = group_of(effect.step)
    return StepContext(
        saga_id=state.saga_id,
        saga_name=state.saga_name,
        step=effect.step,
        attempt=effect.attempt,
        idempotency_key=idempotency_key(state, effect.step, effect.operation),
        correlation_id=state.correlation_id,
        deadline=state.deadline_at,
        timeout=timeout,
        outcome=effect.outcome.value,
        result=state.steps[effect.step].result,
        results=Results(state.steps),
        item=None if group is None else item_of(state, group, effect.step),
        index=None if group is None else item_index(effect.step),
        transaction=transaction,
        transport=tools.transport,
        trace=state.trace,
    )


def _retryable(retry: Retry, error: Exception, verdict: Verdict) -> bool:
    if verdict.permanent or isinstance(error, retry.never_on):
        return False
    return verdict.in_doubt or retry.allows(error)


# -- how it ended ---------------------------------------------------------------------------


def _denied_or_unknown(effect: RunStep, tools: Tools, result: object) -> Ended:
    if result is None:
        unknown = LookupError("the other side does not know yet whether it happened")
        return _ended(effect, tools, unknown, Verdict(in_doubt=True), retryable=True)
    denied = LookupError("the other side says that it did not happen")
    return _ended(effect, tools, denied, Verdict(), retryable=True)


def _refused(effect: RunStep, tools: Tools, error: ResultRefusedError, *, happened: bool) -> Ended:
    if effect.operation is Operation.VERIFY:
        # It did happen, and what it did cannot be told: a person has to look.
        return _ended(effect, tools, error, Verdict(in_doubt=True), retryable=True)
    return _ended(effect, tools, error, Verdict(permanent=True), happened=happened)


def _rolled_back(
    effect: RunStep, tools: Tools, error: Exception, transaction: Transaction, retry: Retry
) -> Ended:
    if transaction.may_succeed(error):
        return interrupted(effect, tools, error)
    verdict = judge(error)
    if isinstance(error, TimeoutError):
        # Its transaction is undone, so nothing is in doubt.
        verdict = Verdict()
    return _ended(effect, tools, error, verdict, retryable=_retryable(retry, error, verdict))


def _ended(
    effect: RunStep,
    tools: Tools,
    error: BaseException,
    verdict: Verdict,
    *,
    retryable: bool = False,
    happened: bool = False,
) -> RecordFailure | RecordDoubt:
    common: dict[str, Any] = {
        "at": tools.clock.now(),
        "step": effect.step,
        "attempt": effect.attempt,
        "operation": effect.operation,
        "error_type": type(error).__name__,
        "message": describe(error),
        "jitter": random.random(),  # noqa: S311 - spreads load, hides nothing
        "retryable": retryable,
        "retry_after": verdict.retry_after,
    }
    if verdict.in_doubt:
        return RecordDoubt(**common)
    return RecordFailure(**common, effect_happened=happened)


# -- hooks ----------------------------------------------------------------------------------


async def run_hook(saga: Saga[Any], state: State, effect: RunHook, tools: Tools) -> RecordHook:
    """Tell a hook how the saga ended, and return how that went.

    Raises:
        asyncio.CancelledError: If the worker gives the attempt up.
    """
    function = saga.hooks[effect.hook]
    try:
        context = to_context(saga, state.context)
        arguments: tuple[Any, ...] = (context,)
        if function.takes_step:
            arguments = (context, _hook_context(state, effect, tools))
        if failpoints.armed:
            await failpoints.reach("before_hook", text=effect.hook)
        async with tools.thread_for(function) as thread:
            await _called(function, arguments, _HOOK_TIMEOUT, thread)
        if failpoints.armed:
            await failpoints.reach("after_hook", text=effect.hook)
    except Exception as error:  # noqa: BLE001 - whatever a hook raises is its outcome
        return RecordHook(
            at=tools.clock.now(),
            hook=effect.hook,
            settled_seq=effect.settled_seq,
            jitter=random.random(),  # noqa: S311 - spreads load, hides nothing
            error_type=type(error).__name__,
            message=describe(error),
            retryable=not judge(error).permanent,
        )
    return RecordHook(at=tools.clock.now(), hook=effect.hook, settled_seq=effect.settled_seq)


def _hook_context(state: State, effect: RunHook, tools: Tools) -> StepContext:
    return StepContext(
        saga_id=state.saga_id,
        saga_name=state.saga_name,
        step=effect.hook.value,
        attempt=effect.attempt,
        # A saga can settle more than once: parked twice, or undone after it completed.
        idempotency_key=f"{state.saga_id}/{effect.hook.value}/{effect.settled_seq}",
        correlation_id=state.correlation_id,
        deadline=None,
        timeout=_HOOK_TIMEOUT,
        outcome="succeeded",
        result=None,
        results=Results(state.steps),
        transport=tools.transport,
        trace=state.trace,
    )

"""How does an attempt run? One function, called once, and one command that says how it ended.

Nothing here touches the database: what an attempt did becomes known only by the command
that it returns. Every attempt gets a context of its own, built from the recorded one, so a
function that changes it in place changes nothing but its own copy.
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from inspect import isawaitable
from typing import Any, Final

import httpx
from pydantic import BaseModel

from eventsaga.core.advance import idempotency_key
from eventsaga.core.commands import RecordDoubt, RecordFailure, RecordSuccess
from eventsaga.core.events import JsonObject, Operation
from eventsaga.core.react import RunStep
from eventsaga.core.state import State
from eventsaga.errors import PayloadError, PermanentError
from eventsaga.runtime.clock import Clock
from eventsaga.runtime.context import StepContext
from eventsaga.runtime.outcome import Verdict, judge
from eventsaga.saga import BoundFunction, Retry, Saga
from eventsaga.wire.payload import check_size, dump, to_json_object, to_model

Ended = RecordSuccess | RecordFailure | RecordDoubt

_MAX_MESSAGE: Final = 2_000


class ResultRefusedError(PermanentError):
    """The function returned, but what it returned cannot be recorded."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What attempts share: the clock, the HTTP pool and the threads."""

    clock: Clock
    transport: httpx.AsyncBaseTransport
    threads: ThreadPoolExecutor


async def run_attempt(saga: Saga[Any], state: State, effect: RunStep, tools: Tools) -> Ended:
    """Run one attempt and return how it ended.

    Args:
        saga: The saga's functions and model.
        state: Where the saga stands; the intent of the attempt is committed.
        effect: Which attempt of which function.
        tools: Shared by all attempts.

    Raises:
        asyncio.CancelledError: If the worker gives the attempt up.
    """
    bound = saga.bound[effect.step]
    forward = effect.operation is Operation.EXECUTE
    function = bound.execute if forward else bound.compensate
    assert function is not None, "only what has a compensation is compensated"
    retry = bound.retry if forward else bound.compensate_retry
    try:
        result = await _call(saga, state, effect, tools, function)
        patch = _patch(saga.context, state.context, result)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise  # the worker gives the attempt up
        return _ended(effect, tools, error, Verdict(in_doubt=True), retryable=True)
    except ResultRefusedError as error:
        return _ended(effect, tools, error, Verdict(permanent=True), happened=True)
    except Exception as error:  # noqa: BLE001 - whatever a step raises is its outcome
        verdict = judge(error)
        return _ended(effect, tools, error, verdict, retryable=_retryable(retry, error, verdict))
    return RecordSuccess(
        at=tools.clock.now(),
        step=effect.step,
        attempt=effect.attempt,
        operation=effect.operation,
        result=patch,
    )


async def _call(
    saga: Saga[Any], state: State, effect: RunStep, tools: Tools, function: BoundFunction
) -> object:
    context = _context_model(saga, state)
    allowed = saga.definition.steps[effect.step].timeout
    arguments: tuple[Any, ...] = (context,)
    if function.takes_step:
        arguments = (context, _step_context(state, effect, tools, allowed))
    seconds = allowed.total_seconds()
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            if function.is_async:
                return await function.function(*arguments)
            return await _in_thread(tools.threads, partial(function.function, *arguments))
    except TimeoutError as error:
        if limit.expired():
            message = f"no result after {seconds:g} s; it may yet take effect"
            raise TimeoutError(message) from error
        raise


def _context_model(saga: Saga[Any], state: State) -> BaseModel:
    try:
        model: BaseModel = to_model(saga.context, dump(state.context))
    except PayloadError as error:
        # It fitted the model once, so the model must have changed since.
        raise PermanentError(f"the recorded context does not fit the model: {error}") from error
    return model


def _step_context(state: State, effect: RunStep, tools: Tools, timeout: timedelta) -> StepContext:
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
        transport=tools.transport,
    )


async def _in_thread(threads: ThreadPoolExecutor, call: Callable[[], Any]) -> object:
    loop = asyncio.get_running_loop()
    result = await loop.run_in_executor(threads, copy_context().run, call)
    # A lambda or a partial around a coroutine function is plain, but returns an awaitable.
    return await result if isawaitable(result) else result


def _retryable(retry: Retry, error: Exception, verdict: Verdict) -> bool:
    if verdict.permanent or isinstance(error, retry.never_on):
        return False
    return verdict.in_doubt or retry.allows(error)


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


def describe(error: BaseException) -> str:
    """Return what *error* says, short enough and clean enough to be stored.

    The query of a URL may hold a token: the text of httpx's status errors, which repeats
    the URL, is replaced by method, host, path and status.
    """
    if isinstance(error, httpx.HTTPStatusError):
        request, response = error.request, error.response
        url = request.url.copy_with(query=None, fragment=None, userinfo=b"")
        text = f"{request.method} {url} answered {response.status_code} {response.reason_phrase}"
    else:
        text = _told(error) or type(error).__name__
    # NUL and lone surrogates cannot be stored, and must not turn a failure into a crash.
    clean = text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()
    return clean if len(clean) <= _MAX_MESSAGE else clean[: _MAX_MESSAGE - 1] + "…"


def _told(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a message that cannot be had must not hide the failure
        return ""


def _patch(model: type[BaseModel], before: Mapping[str, Any], result: object) -> JsonObject | None:
    """Return what *result* changes in the context *before*, as JSON data.

    Raises:
        ResultRefusedError: If it cannot be stored, or does not fit *model*.
    """
    if result is None:
        return None
    try:
        patch = _changes(model, before, result)
        if not patch:
            return None
        merged = dump({**before, **patch})
        check_size(merged, "$")
        to_model(model, merged)
    except PayloadError as error:
        raise ResultRefusedError(f"the result cannot be recorded: {error}") from error
    return patch


def _changes(model: type[BaseModel], before: Mapping[str, Any], result: object) -> JsonObject:
    if isinstance(result, model):
        after = to_json_object(result)
        return {name: value for name, value in after.items() if _differs(before, name, value)}
    if not isinstance(result, Mapping):
        kind = type(result).__name__
        raise ResultRefusedError(f"a step returns a mapping, {model.__name__} or None, not {kind}")
    patch = to_json_object(result)  # pyright: ignore[reportUnknownArgumentType]
    if model.model_config.get("extra") != "allow":
        unknown = [name for name in patch if name not in model.model_fields]
        if unknown:
            # Pydantic would drop them without a word.
            names = ", ".join(unknown)
            raise ResultRefusedError(f"{model.__name__} has no field {names}")
    return patch


def _differs(before: Mapping[str, Any], name: str, value: object) -> bool:
    return name not in before or before[name] != value

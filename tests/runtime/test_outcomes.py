import asyncio
import email.utils
import socket
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from eventsaga import (
    InDoubtError,
    PermanentError,
    Retry,
    Status,
    StepContext,
    TemporaryError,
)
from eventsaga.runtime.outcome import judge
from tests.participant import Answer, Participant, running
from tests.runtime.sagas import SOON, Order, events_of, one_step, orchestrating


@pytest.fixture
async def participant() -> AsyncGenerator[Participant]:
    async with running() as started:
        yield started


def _status(code: int, **headers: str) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "http://shop.test/x?token=secret")
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = httpx.Response(code, headers=named, request=request)
    return httpx.HTTPStatusError("status", request=request, response=response)


_NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("error", "in_doubt", "permanent", "retry_after"),
    [
        (ValueError("x"), False, False, None),
        (PermanentError("x"), False, True, None),
        (TemporaryError("x", retry_after=3), False, False, 3),
        (InDoubtError("x"), True, False, None),
        (httpx.ConnectError("x"), False, False, None),
        (httpx.ConnectTimeout("x"), False, False, None),
        (httpx.PoolTimeout("x"), False, False, None),
        (httpx.ReadTimeout("x"), True, False, None),
        (httpx.WriteError("x"), True, False, None),
        (httpx.RemoteProtocolError("x"), True, False, None),
        (httpx.UnsupportedProtocol("x"), False, True, None),
        (TimeoutError("x"), True, False, None),
        (ConnectionResetError("x"), True, False, None),
        (ConnectionRefusedError("x"), False, False, None),
        (_status(500), True, False, None),
        (_status(503), True, False, None),
        (_status(503, retry_after="7"), False, False, 7),
        (_status(429), False, False, None),
        (_status(429, retry_after="2"), False, False, 2),
        (_status(429, retry_after="soon"), False, False, None),
        (_status(409), True, False, None),
        (_status(402), False, True, None),
        (_status(302, location="/"), False, True, None),
    ],
)
def test_an_error_says_what_became_of_the_effect(
    error: Exception, retry_after: float | None, *, in_doubt: bool, permanent: bool
) -> None:
    verdict = judge(error)

    assert (verdict.in_doubt, verdict.permanent) == (in_doubt, permanent)
    wait = None if retry_after is None else timedelta(seconds=retry_after)
    assert verdict.retry_after == wait


def test_a_date_to_retry_after_is_read_by_the_clock_of_who_sent_it() -> None:
    error = _status(
        503,
        date=email.utils.format_datetime(_NOW, usegmt=True),
        retry_after=email.utils.format_datetime(_NOW + timedelta(seconds=90), usegmt=True),
    )

    assert judge(error).retry_after == timedelta(seconds=90)


def _posting(participant: Participant, path: str = "/do") -> Any:
    async def execute(_order: Order, step: StepContext) -> None:
        (await step.http.post(participant.url + path)).raise_for_status()

    return execute


async def _run(database: str, execute: Any, **options: Any) -> tuple[Any, Any, tuple[Any, ...]]:
    saga = one_step(execute, **({"retry": SOON} | options))
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("one", Order())
        return handle.id, await handle.result(timeout=20), await handle.history()


async def test_the_key_is_the_same_for_every_attempt_and_another_for_the_compensation(
    database: str, participant: Participant
) -> None:
    participant.script["/do"] = [Answer(cut=True), Answer(500), Answer(503)]

    saga_id, state, history = await _run(
        database, _posting(participant), compensate=_posting(participant, "/undo")
    )

    assert participant.keys("/do") == [f"{saga_id}/only"] * 3
    assert participant.keys("/undo") == [f"{saga_id}/only/compensate"]
    assert state.status is Status.COMPENSATED
    assert len(events_of(history, "StepInDoubt")) == 3
    assert {seen.headers["x-correlation-id"] for seen in participant.seen} == {str(saga_id)}


async def test_further_requests_of_an_attempt_have_keys_of_their_own_that_repeat(
    database: str, participant: Participant
) -> None:
    async def execute(_order: Order, step: StepContext) -> None:
        await step.http.get(participant.url + "/look")
        await step.http.post(participant.url + "/a")
        (await step.http.post(participant.url + "/b")).raise_for_status()

    participant.script["/b"] = [Answer(500), Answer()]

    saga_id, state, _ = await _run(database, execute)

    assert state.status is Status.COMPLETED
    assert participant.keys("/a") == [f"{saga_id}/only"] * 2
    assert participant.keys("/b") == [f"{saga_id}/only#2"] * 2
    assert "idempotency-key" not in participant.seen[0].headers


async def test_an_attempt_that_takes_too_long_is_in_doubt_and_asked_again_with_its_key(
    database: str, participant: Participant
) -> None:
    never = asyncio.Event()
    participant.script["/do"] = [Answer(until=never), Answer()]

    saga_id, state, history = await _run(database, _posting(participant), timeout=0.3)

    never.set()
    assert state.status is Status.COMPLETED
    assert participant.keys("/do") == [f"{saga_id}/only"] * 2
    (doubt,) = events_of(history, "StepInDoubt")
    assert "may yet take effect" in doubt.message


async def test_a_refused_connection_is_a_failure_and_not_a_doubt(database: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    undone: list[str] = []

    async def execute(_order: Order, step: StepContext) -> None:
        await step.http.post(f"http://127.0.0.1:{port}/")

    async def undo(_order: Order) -> None:
        undone.append("undone")

    _, state, history = await _run(database, execute, compensate=undo)

    assert state.status is Status.COMPENSATED
    assert undone == []
    assert len(events_of(history, "StepFailed")) == 3


async def test_a_declined_request_is_not_repeated_and_its_message_holds_no_query(
    database: str, participant: Participant
) -> None:
    participant.script["/pay?token=secret"] = [Answer(402)]

    _, state, _ = await _run(database, _posting(participant, "/pay?token=secret"))

    assert len(participant.seen) == 1
    assert state.error.message.endswith("/pay answered 402 Scripted")
    assert "secret" not in state.error.message


async def test_the_other_side_may_say_how_long_to_wait(
    database: str, participant: Participant
) -> None:
    participant.script["/do"] = [Answer(429, {"Retry-After": "0"}), Answer()]
    slow = Retry(max_attempts=2, delay=3600, max_delay=3600)

    _, state, history = await _run(database, _posting(participant), retry=slow)

    assert state.status is Status.COMPLETED
    (failed,) = events_of(history, "StepFailed")
    assert failed.retry_at == failed.at


@pytest.mark.parametrize(
    ("policy", "attempts"),
    [
        (Retry(max_attempts=3, delay=0), 3),
        (Retry(max_attempts=3, delay=0, never_on=(ValueError,)), 1),
        (Retry(max_attempts=3, delay=0, retry_on=(KeyError,)), 1),
        (Retry(max_attempts=3, delay=0, retry_on=(ValueError,)), 3),
    ],
)
async def test_a_policy_says_which_errors_are_tried_again(
    database: str, policy: Retry, attempts: int
) -> None:
    async def execute(_order: Order) -> None:
        raise ValueError("no")

    _, _, history = await _run(database, execute, retry=policy)

    assert len(events_of(history, "StepFailed")) == attempts


async def test_a_message_that_cannot_be_stored_does_not_hide_the_failure(database: str) -> None:
    class WeirdError(Exception):
        def __str__(self) -> str:
            return "\x00\ud800" + "x" * 5000

    async def execute(_order: Order) -> None:
        raise WeirdError

    _, state, _ = await _run(database, execute)

    assert state.error.message.startswith("\\x00\\ud800xxx")
    assert len(state.error.message) == 2000


async def test_an_error_that_cannot_say_what_it_is_goes_by_its_name(database: str) -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    async def execute(_order: Order) -> None:
        raise MuteError

    _, state, _ = await _run(database, execute)

    assert state.error.message == "MuteError"

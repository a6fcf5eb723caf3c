"""Is a saga one trace? Across attempts, the way back, children, processes; and without an SDK."""

import asyncio
from collections.abc import Iterator, Sequence
from uuid import uuid4

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from eventsaga import ChildSaga, PermanentError, Retry, Saga, Step, StepContext, TemporaryError
from eventsaga.crypto import AesGcmCodec
from eventsaga.observe.trace import of_saga
from eventsaga.wire import sealing
from tests.runtime.sagas import ONCE, SOON, Order, nothing, one_step, orchestrating, run_sql, until


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What an SDK exports, which is set up for one test."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    # Tracers that were made before remember that there was no SDK.
    monkeypatch.setattr("eventsaga.observe.trace._tracer", provider.get_tracer("eventsaga"))
    yield exporter
    provider.shutdown()


def trace_id(span: ReadableSpan) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.trace_id


def named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.name == name]


def outcomes(spans: Sequence[ReadableSpan]) -> list[object]:
    return [(span.attributes or {})["saga.outcome"] for span in spans]


async def refuse(_order: Order) -> None:
    raise PermanentError("declined")


async def test_a_saga_its_attempts_and_its_way_back_are_one_trace(
    database: str, spans: InMemorySpanExporter
) -> None:
    tries = iter([TemporaryError("busy"), None])

    def second_time(_order: Order) -> None:
        error = next(tries)
        if error is not None:
            raise error

    saga = Saga(
        "order",
        context=Order,
        steps=[
            Step("reserve", second_time, compensate=nothing, retry=SOON),
            Step("charge", refuse, retry=ONCE),
        ],
    )
    async with orchestrating(database, saga) as orchestrator:
        handle = await orchestrator.start("order", Order())
        await handle.result(timeout=20)

    found = spans.get_finished_spans()
    assert [span.name for span in found] == [
        "order/reserve",
        "order/reserve",
        "order/charge",
        "order/reserve compensate",
        "order",
    ]
    assert {trace_id(span) for span in found} == {handle.id.int}, "the id of the saga"
    assert outcomes(found[:4]) == ["failed", "succeeded", "failed", "succeeded"]
    assert (found[1].attributes or {})["saga.attempt"] == 2
    [exception] = found[2].events
    assert (exception.attributes or {})["exception.message"] == "declined"
    assert found[2].status.status_code is StatusCode.ERROR
    assert found[2].status.description == "PermanentError: declined"
    whole = found[-1]
    assert (whole.attributes or {})["saga.status"] == "COMPENSATED"
    assert whole.start_time is not None
    assert whole.end_time is not None
    for span in found[:-1]:
        assert span.start_time is not None
        assert whole.start_time <= span.start_time + 50_000_000, "by another clock, within 50 ms"


async def test_a_saga_that_is_started_in_a_span_goes_on_in_its_trace(
    database: str, spans: InMemorySpanExporter
) -> None:
    kid = Saga("kid", context=Order, steps=[Step("play", nothing)])
    saga = Saga(
        "order",
        context=Order,
        steps=[Step("a", nothing), ChildSaga("child", kid, context=lambda order: order)],
    )
    tracer = trace.get_tracer_provider().get_tracer("shop")
    async with orchestrating(database, saga, kid) as orchestrator:
        with tracer.start_as_current_span("POST /orders") as request:
            handle = await orchestrator.start("order", Order())
        await handle.result(timeout=20)

    context = request.get_span_context()
    found = [span for span in spans.get_finished_spans() if span.name != "POST /orders"]
    assert {span.name for span in found} == {"order", "order/a", "kid", "kid/play"}
    assert {trace_id(span) for span in found} == {context.trace_id}
    for span in named(spans, "order/a"):
        assert span.parent is not None
        assert span.parent.span_id == context.span_id


async def test_what_a_step_sends_is_a_child_of_its_attempt(
    database: str, spans: InMemorySpanExporter
) -> None:
    asked: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode().lower())
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"

    async def call(_order: Order, step: StepContext) -> None:
        await step.http.post(url)

    instrumentor = HTTPXClientInstrumentor()
    instrumentor.instrument(tracer_provider=trace.get_tracer_provider())
    try:
        async with server, orchestrating(database, one_step(call)) as orchestrator:
            handle = await orchestrator.start("one", Order())
            await handle.result(timeout=20)
    finally:
        instrumentor.uninstrument()

    [attempt], [request] = named(spans, "one/only"), named(spans, "POST")
    assert attempt.context is not None
    assert request.context is not None
    assert request.parent is not None
    assert request.parent.span_id == attempt.context.span_id
    assert f"traceparent: 00-{handle.id.hex}-{request.context.span_id:016x}-01" in asked[0]


async def test_without_an_sdk_the_trace_goes_out_all_the_same(database: str) -> None:
    sent: list[httpx.Headers] = []

    def call(_order: Order, step: StepContext) -> None:
        sent.append(httpx.Headers(step.headers))
        sent.append(step.http.headers)

    async with orchestrating(database, one_step(call)) as orchestrator:
        handle = await orchestrator.start("one", Order())
        await handle.result(timeout=20)
        await run_sql(database, "SELECT eventsaga.start_saga('one', '{}')")
        await until(database, "SELECT count(*) = 2 FROM eventsaga.sagas WHERE status = 'COMPLETED'")

    version, trace_of, _parent, flags = sent[0]["traceparent"].split("-")
    assert (version, trace_of, flags) == ("00", handle.id.hex, "01")
    assert sent[1]["traceparent"] == sent[0]["traceparent"]
    assert len({headers["traceparent"] for headers in sent}) == 2


async def test_an_attempt_that_is_given_up_is_told_as_interrupted(
    database: str, spans: InMemorySpanExporter
) -> None:
    began = asyncio.Event()

    async def hang(_order: Order) -> None:
        began.set()
        await asyncio.Event().wait()

    saga = one_step(hang, retry=Retry(max_attempts=2))
    async with orchestrating(database, saga) as orchestrator:
        await orchestrator.start("one", Order())
        await began.wait()
        await orchestrator.vanish()

    assert outcomes(named(spans, "one/only")) == ["interrupted"]
    assert named(spans, "one") == []


async def test_what_is_sealed_is_in_no_span(database: str, spans: InMemorySpanExporter) -> None:
    sealing.install(AesGcmCodec({"k": bytes(32)}, "k"))
    try:
        async with orchestrating(database, one_step(refuse)) as orchestrator:
            await (await orchestrator.start("one", Order())).result(timeout=20)
    finally:
        sealing.uninstall()

    [attempt] = named(spans, "one/only")
    assert attempt.status.description == "PermanentError"
    assert "declined" not in attempt.to_json()


@pytest.mark.parametrize("stored", ["rubbish", "00-zz-yy-01", "", "-", "00-1-2-3-4"])
def test_a_trace_that_cannot_be_read_is_no_reason_to_stop(stored: str) -> None:
    saga_id = uuid4()
    assert of_saga(saga_id, stored) == of_saga(saga_id, None)

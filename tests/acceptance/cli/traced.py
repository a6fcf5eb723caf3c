"""What do workers run whose spans are looked at? The sagas of `shop`; spans go to a file."""

import json
import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult


class _ToFile(SpanExporter):
    """Writes a line for each span, at once: a process that is killed loses none that ended."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with Path(os.environ["SPANS"]).open("a", encoding="utf-8") as file:
            for span in spans:
                context = span.get_span_context()
                assert context is not None
                fields = {"trace": f"{context.trace_id:032x}", "shop": os.environ.get("SHOP")}
                file.write(json.dumps({"name": span.name, **fields}) + "\n")
        return SpanExportResult.SUCCESS


_provider = TracerProvider()
_provider.add_span_processor(SimpleSpanProcessor(_ToFile()))
trace.set_tracer_provider(_provider)

sagas: list[Any] = import_module("shop").sagas

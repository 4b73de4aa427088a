"""OpenTelemetry, where its environment variables ask for it: spans of requests and of the parts of a search.

Spans carry route, status, release and counts; no text of a query, no address with one.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

log = logging.getLogger("ragops.service")
ASKS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER")


class Span(Protocol):
    def note(self, name: str, value: str | int | float) -> None: ...


class Tracer(Protocol):
    def request(self, method: str, headers: Mapping[str, str]) -> contextlib.AbstractContextManager[Span]:
        """A request, as a part of the caller's trace where its headers name one."""
        ...

    def part(self, name: str) -> contextlib.AbstractContextManager[Span]: ...

    def close(self) -> None: ...


def tracer() -> Tracer:
    """By the standard environment variables; without them, or without the extra, nothing is traced."""
    wanted = any(os.environ.get(name) for name in ASKS) and os.environ.get("OTEL_TRACES_EXPORTER") != "none"
    if not wanted or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return Nothing()
    try:
        return OpenTelemetry()
    except ImportError:
        log.warning("OTEL_ variables ask for traces, but OpenTelemetry is missing: pip install 'ragops[otel]'")
        return Nothing()


class _Nothing:
    def note(self, name: str, value: str | int | float) -> None:
        pass


class Nothing:
    """No traces."""

    def request(self, method: str, headers: Mapping[str, str]) -> contextlib.AbstractContextManager[Span]:
        return contextlib.nullcontext(_Nothing())

    def part(self, name: str) -> contextlib.AbstractContextManager[Span]:
        return contextlib.nullcontext(_Nothing())

    def close(self) -> None:
        pass


class _Span:
    def __init__(self, span: Any) -> None:
        self._span = span

    def note(self, name: str, value: str | int | float) -> None:
        if name == "http.route":
            self._span.update_name(f"{self._span.attributes['http.request.method']} {value}")
        self._span.set_attribute(name, value)


class OpenTelemetry:
    """The SDK with the exporter of OTEL_TRACES_EXPORTER: otlp (the default) or console."""

    def __init__(self) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        exporter: SpanExporter
        if os.environ.get("OTEL_TRACES_EXPORTER") == "console":
            exporter = ConsoleSpanExporter()
        else:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            exporter = OTLPSpanExporter()
        name = {} if "OTEL_SERVICE_NAME" in os.environ else {"service.name": "ragops"}
        self._provider = TracerProvider(resource=Resource.create(name))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("ragops.service")
        self._caller = TraceContextTextMapPropagator()

    @contextlib.contextmanager
    def request(self, method: str, headers: Mapping[str, str]) -> Iterator[Span]:
        from opentelemetry.trace import SpanKind

        context = self._caller.extract(headers)
        attributes = {"http.request.method": method}
        with self._tracer.start_as_current_span(
            method, context=context, kind=SpanKind.SERVER, attributes=attributes, record_exception=False
        ) as span:
            yield _Span(span)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[Span]:
        with self._tracer.start_as_current_span(name, record_exception=False) as span:
            yield _Span(span)

    def close(self) -> None:
        self._provider.shutdown()

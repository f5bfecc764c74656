"""Traces (OpenTelemetry), an extra: off unless OTEL_EXPORTER_OTLP_ENDPOINT names a collector and the extra is installed.

A span holds what a log line may hold and nothing else: no path as it was sent, no message of an exception. A job's trace
has the job's id, so that all its attempts are one trace, whichever worker made them. The collector's other settings are
OpenTelemetry's own variables (OTEL_EXPORTER_OTLP_HEADERS, OTEL_TRACES_SAMPLER, …).
"""

from __future__ import annotations

import contextvars
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
MISSING = "traces are off: install the extra with `pip install 'amun-service[tracing]'`, or unset the endpoint"

log = structlog.get_logger(__name__)
_provider: TracerProvider | None = None
_trace_id: contextvars.ContextVar[int | None] = contextvars.ContextVar("trace_id", default=None)


class Span:
    """A part of a trace; does nothing where traces are off."""

    def __init__(self, told: Any = None) -> None:
        self._told = told

    def set(self, **attributes: str | int | float | None) -> None:
        """Add attributes; a double underscore in a name stands for a dot."""
        if self._told is not None:
            for name, value in attributes.items():
                if value is not None:
                    self._told.set_attribute(name.replace("__", "."), value)

    def rename(self, name: str) -> None:
        if self._told is not None:
            self._told.update_name(name)

    def fail(self, error: str) -> None:
        """Mark it as failed, by a type or code and never a message."""
        if self._told is not None:
            from opentelemetry.trace import Status, StatusCode

            self._told.set_attribute("error.type", error)
            self._told.set_status(Status(StatusCode.ERROR))


def start(service: str) -> bool:
    """Send this process's spans, if a collector is named; whether they are sent. Says so where the extra is missing."""
    if _provider is not None or not any(os.environ.get(name) for name in ENDPOINTS):
        return _provider is not None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        log.warning("tracing.not_installed", detail=MISSING)
        return False
    install(service, BatchSpanProcessor(OTLPSpanExporter()))
    return True


def install(service: str, processor: SpanProcessor) -> None:
    """Hand spans to a processor."""
    global _provider
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class Ids(RandomIdGenerator):
        def generate_trace_id(self) -> int:
            return _trace_id.get() or super().generate_trace_id()

    _provider = TracerProvider(resource=Resource.create({"service.name": service}), id_generator=Ids())
    _provider.add_span_processor(processor)


def stop() -> None:
    """Send what is still to be sent."""
    global _provider
    if _provider is not None:
        _provider.shutdown()
        _provider = None


@contextmanager
def span(
    name: str, *, trace: uuid.UUID | None = None, headers: Mapping[str, str] | None = None, kind: str = "internal"
) -> Iterator[Span]:
    """A span around a block, below the one that is open.

    With ``trace`` it begins the trace of that id; with ``headers`` it goes on with the caller's (W3C traceparent). An
    exception that passes marks it as failed. ``kind`` is internal, server or consumer.
    """
    if _provider is None:
        yield Span()
        return
    from opentelemetry import propagate
    from opentelemetry.context import Context
    from opentelemetry.trace import SpanKind, use_span

    context = propagate.extract(dict(headers)) if headers is not None else Context() if trace is not None else None
    tracer = _provider.get_tracer("amun")
    chosen = _trace_id.set(trace.int if trace is not None else None)
    told = tracer.start_span(name, context, kind=SpanKind[kind.upper()])
    _trace_id.reset(chosen)
    with use_span(told, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        opened = Span(told)
        try:
            yield opened
        except Exception as error:
            opened.fail(type(error).__name__)
            raise


def current_trace_id() -> str | None:
    """32 hex digits of the trace that is open; None where traces are off."""
    if _provider is None:
        return None
    from opentelemetry.trace import format_trace_id, get_current_span

    found = get_current_span().get_span_context().trace_id
    return format_trace_id(found) if found else None

"""Traces: off unless asked for, the caller's trace goes on, a job's trace has its id, and nothing in a span names anybody."""

from __future__ import annotations

import builtins
import json
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy import select
from starlette.testclient import TestClient

from models import tracing
from models.log import configure_logging
from models.records import Job, JobKind, TrainingSet
from models.session import Database
from models.settings import Settings
from service.app import create_app
from worker import tasks

CALLERS = "0af7651916cd43dd8448eb211c80319c"
REPLAY = Path(__file__).parent.parent / "replay.py"


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    made = InMemorySpanExporter()
    tracing.install("test", SimpleSpanProcessor(made))
    yield made
    tracing.stop()


def trace_of(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.trace_id:032x}"


def test_without_a_collector_nothing_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in tracing.ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    assert not tracing.start("x")
    with tracing.span("y", trace=uuid.uuid4()) as span:
        span.set(a=1)
        assert tracing.current_trace_id() is None


def test_a_collector_without_the_extra_is_said_and_nothing_breaks(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    real = builtins.__import__

    def without(name: str, *more: Any) -> Any:
        if name.startswith("opentelemetry.exporter"):
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(builtins, "__import__", without)
    configure_logging()
    assert not tracing.start("x")
    (line,) = (json.loads(line) for line in capfd.readouterr().err.splitlines())
    assert "amun-service[tracing]" in line["detail"]


def test_a_request_goes_on_with_the_callers_trace_and_is_told_by_its_template(
    sqlite_settings: Settings, exporter: InMemorySpanExporter
) -> None:
    parent = f"00-{CALLERS}-b7ad6b7169203331-01"
    with TestClient(create_app(sqlite_settings, dispatch=False)) as client:
        answer = client.get("/v1/jobs/canary?name=canary", headers={"traceparent": parent})
        alone = client.get("/healthz")
        (theirs, own) = exporter.get_finished_spans()
    assert (answer.status_code, answer.headers["X-Trace-Id"]) == (401, CALLERS)
    assert trace_of(theirs) == CALLERS
    assert trace_of(own) == alone.headers["X-Trace-Id"] != CALLERS
    assert theirs.name == "GET /v1/jobs/{job_id}"
    assert dict(theirs.attributes or {})["http.response.status_code"] == 401
    assert "canary" not in theirs.to_json()


def test_a_jobs_trace_has_the_jobs_id_and_its_parts(sqlite_settings: Settings, exporter: InMemorySpanExporter) -> None:
    database = Database(sqlite_settings.database)
    with database.write() as session:
        made = TrainingSet(name="set", source={"kind": "builtin", "path": "digits"}, controls={"share": 0.5})
        session.add(made)
        session.flush()
        session.add(Job(kind=JobKind.REGISTER, training_set_id=made.id, seed=1))
    with database.read() as session:
        job = session.scalars(select(Job.id)).one()
    replay = {"pipeline": f"{sys.executable} {REPLAY} succeed"}
    tasks.run_job(database, sqlite_settings.model_copy(update=replay), job, "worker")
    database.dispose()
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert set(spans) == {"job register", "pipeline", "conclude"}
    assert {trace_of(span) for span in spans.values()} == {job.hex}
    assert dict(spans["job register"].attributes or {})["amun.job"] == str(job)


def test_an_exception_marks_a_span_without_its_message(exporter: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="canary"), tracing.span("x"):
        raise ValueError("canary")
    (span,) = exporter.get_finished_spans()
    assert dict(span.attributes or {}) == {"error.type": "ValueError"}
    assert not span.status.is_ok
    assert "canary" not in span.to_json()

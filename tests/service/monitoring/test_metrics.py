"""What /metrics tells, to whom, and that what it costs does not grow with what is stored."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import event, update
from starlette.testclient import TestClient

from models.base import now
from models.records import (
    DeletionRequest,
    Erasure,
    Job,
    JobKind,
    JobStatus,
    Lease,
    Role,
    VersionStatus,
    Webhook,
    record_event,
)
from models.session import Database
from models.settings import Settings
from service.app import create_app
from service.dispatcher import Dispatcher
from service.duties import sealing
from service.monitoring import rows
from tests.service.conftest import Headers, World
from tests.service.stored import store_events, store_jobs, store_requests
from tests.settled import settle_all

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(autouse=True)
def _always_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.monitoring.rows.CACHE_SECONDS", 0.0)
    monkeypatch.setattr("service.monitoring.ended.CACHE_SECONDS", 0.0)


def scraped(client: TestClient, operator: Headers) -> Samples:
    answer = client.get("/metrics", headers=operator)
    assert answer.status_code == 200, answer.text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def posted(client: TestClient, shop: Headers, index: int) -> uuid.UUID:
    body = {"training_set": "digits", "samples": [{"index": index}]}
    answer = client.post("/v1/deletion-requests", json=body, headers=shop)
    assert answer.status_code == 202, answer.text
    return uuid.UUID(answer.json()["id"])


@pytest.mark.usefixtures("digits")
def test_requests_are_counted_by_status_and_by_how_near_they_are_due(
    client: TestClient, database: Database, operator: Headers, shop: Headers
) -> None:
    overdue, soon, later = (posted(client, shop, index) for index in (1, 7, 8))
    at = now()
    with database.write() as session:
        for request, days in ((overdue, -1), (soon, 3), (later, 20)):
            due = at + timedelta(days=days)
            session.execute(update(DeletionRequest).where(DeletionRequest.id == request).values(due_at=due))
    found = scraped(client, operator)
    assert value(found, "amun_deletion_requests", status="queued") == 3
    assert value(found, "amun_deletion_requests", status="failed") == 0
    assert value(found, "amun_deletion_requests_overdue") == 1
    assert value(found, "amun_deletion_requests_due_soon") == 1
    assert value(found, "amun_deletion_requests_due_soon_without_job") == 2
    first = value(found, "amun_deletion_requests_oldest_due_timestamp_seconds")
    assert first == pytest.approx((at - timedelta(days=1)).timestamp(), abs=0.01)


@pytest.mark.usefixtures("digits")
def test_a_request_that_a_job_serves_is_not_without_one(
    client: TestClient, database: Database, world: World, operator: Headers, shop: Headers
) -> None:
    request = posted(client, shop, 1)
    job = world.job("digits-cnn", status=JobStatus.QUEUED)
    with database.write() as session:
        session.execute(update(DeletionRequest).values(due_at=now() + timedelta(days=1)))
        session.execute(update(Erasure).where(Erasure.request_id == request).values(job_id=job))
        settle_all(session)
    found = scraped(client, operator)
    assert value(found, "amun_deletion_requests_due_soon_without_job") == 0
    assert value(found, "amun_jobs", kind="unlearn", status="queued") == 1
    made = value(found, "amun_jobs_queue_oldest_timestamp_seconds", kind="unlearn")
    assert made == pytest.approx(now().timestamp(), abs=60)


@pytest.mark.usefixtures("digits")
def test_jobs_that_ended_are_counted_with_their_codes_and_what_never_happened_is_zero(
    client: TestClient, database: Database, world: World, operator: Headers
) -> None:
    failed = world.job("digits-cnn", status=JobStatus.FAILED)
    with database.write() as session:
        session.execute(update(Job).where(Job.id == failed).values(error={"code": "oom", "detail": "x"}))
    found = scraped(client, operator)
    assert value(found, "amun_jobs_ended_total", kind="unlearn", status="failed") == 1
    assert value(found, "amun_jobs_failed_total", kind="unlearn", code="oom") == 1
    assert value(found, "amun_jobs_ended_total", kind="audit", status="failed") == 0
    assert value(found, "amun_jobs_requeued_total", reason="no_gpu") == 0


@pytest.mark.usefixtures("digits")
def test_phases_memory_and_returns_are_those_since_the_process_began(
    client: TestClient, database: Database, world: World, operator: Headers
) -> None:
    def ended(seconds: float) -> None:
        job = world.job("digits-cnn")
        with database.write() as session:
            values = {"seconds": {"attack": seconds}, "measured": {"peak_gpu_bytes": 5, "peak_process_bytes": 7}}
            session.execute(update(Job).where(Job.id == job).values(**values))
            record_event(session, "job.succeeded", "job", job, "worker:x", token=1)
            record_event(session, "job.requeued", "job", job, "worker:x", reason="no_gpu")
            record_event(session, "job.requeued", "job", job, "key:x", reason="somebody@example.org asked")

    ended(1.0)
    before = scraped(client, operator)
    assert ("amun_job_phase_seconds_count", frozenset({("kind", "unlearn"), ("phase", "attack")})) not in before
    ended(2.0)
    ended(3.0)
    scraped(client, operator)
    found = scraped(client, operator)  # looking again counts nothing twice
    assert value(found, "amun_job_phase_seconds_count", kind="unlearn", phase="attack") == 2
    assert value(found, "amun_job_phase_seconds_sum", kind="unlearn", phase="attack") == 5.0
    assert value(found, "amun_job_peak_memory_bytes", kind="unlearn", model="digits-cnn", of="gpu") == 5
    assert value(found, "amun_job_peak_memory_bytes", kind="unlearn", model="digits-cnn", of="process") == 7
    assert value(found, "amun_jobs_requeued_total", reason="no_gpu") == 2
    assert value(found, "amun_jobs_requeued_total", reason="other") == 2
    assert "example.org" not in client.get("/metrics", headers=operator).text


@pytest.mark.usefixtures("digits")
def test_versions_verdicts_and_webhooks_are_counted(
    client: TestClient, database: Database, world: World, operator: Headers, shop: Headers
) -> None:
    world.version("digits-cnn", 2, VersionStatus.QUARANTINED, parent=1)
    world.report("digits-cnn", 2, "inconclusive")
    hook = client.post("/v1/webhooks", headers=shop, json={"url": "https://93.184.215.14/in"}).json()["id"]
    assert client.post(f"/v1/webhooks/{hook}/test", headers=shop).status_code == 202
    with database.write() as session:
        session.execute(update(Webhook).values(failing_since=now()))
    found = scraped(client, operator)
    assert value(found, "amun_model_versions", status="quarantined") == 1
    assert value(found, "amun_models", status="ready") == 1
    assert value(found, "amun_verdicts_total", verdict="inconclusive") == 1
    assert value(found, "amun_verdicts_total", verdict="pass") == 0
    assert value(found, "amun_webhooks", state="failing") == 1
    assert value(found, "amun_webhooks", state="working") == 0
    assert value(found, "amun_webhook_deliveries_pending") == 1
    assert value(found, "amun_webhook_deliveries_failed_last_day") == 0


def test_the_dispatcher_and_the_log_are_watched(
    client: TestClient, database: Database, settings: Settings, operator: Headers
) -> None:
    found = scraped(client, operator)
    assert value(found, "amun_dispatcher_lease_held") == 0
    with database.write() as session:
        record_event(session, "x", "model", "m", "test")
    unsealed = scraped(client, operator)
    assert value(unsealed, "amun_events_unsealed") == 1
    assert value(unsealed, "amun_events_oldest_unsealed_timestamp_seconds") == pytest.approx(now().timestamp(), abs=60)
    Dispatcher(database, settings).round()
    found = scraped(client, operator)
    assert value(found, "amun_dispatcher_lease_held") == 1
    assert value(found, "amun_dispatcher_last_round_timestamp_seconds") == pytest.approx(now().timestamp(), abs=60)
    sealing.seal_events(database)
    assert value(scraped(client, operator), "amun_events_unsealed") == 0
    with database.write() as session:
        session.execute(update(Lease).values(expires_at=now() - timedelta(seconds=1)))
    assert value(scraped(client, operator), "amun_dispatcher_lease_held") == 0


def test_answers_are_counted_by_template_and_never_by_path(client: TestClient, operator: Headers) -> None:
    secret = uuid.uuid4()
    client.get(f"/v1/jobs/{secret}", headers=operator)
    client.get(f"/{secret}/x")
    client.request("BREW", "/healthz")
    found = scraped(client, operator)
    assert value(found, "amun_http_requests_total", method="GET", route="/v1/jobs/{job_id}", status="404") >= 1
    assert value(found, "amun_http_requests_total", method="GET", route="unmatched", status="404") >= 1
    assert value(found, "amun_http_requests_total", method="OTHER", route="/healthz", status="405") >= 1
    assert value(found, "amun_http_request_seconds_count", method="GET", route="/v1/jobs/{job_id}") >= 1
    assert value(found, "process_resident_memory_bytes") > 0
    assert value(found, "amun_data_free_bytes") > 0
    assert str(secret) not in client.get("/metrics", headers=operator).text


def test_a_database_that_does_not_answer_is_told_and_the_rest_is_still_there(
    sqlite_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with local(sqlite_settings) as client:
        (sqlite_settings.data_dir / "amun.sqlite3").unlink()
        sqlite_settings.data_dir.joinpath("amun.sqlite3").mkdir()
        client.app.state.database.dispose()  # type: ignore[attr-defined]
        found = scraped(client, {})
    assert value(found, "amun_up") == 0
    assert value(found, "process_resident_memory_bytes") > 0


class TestAccess:
    def test_an_operator_scrapes_from_anywhere_and_nobody_else(self, client: TestClient, world: World) -> None:
        assert client.get("/metrics").status_code == 401
        assert client.get("/metrics", headers=world.key(Role.OPERATOR)).status_code == 200
        for key in (world.key(Role.COMPLIANCE), world.key(Role.APPLICATION, "shop")):
            assert client.get("/metrics", headers=key).status_code == 403

    def test_this_host_needs_no_key(self, here: TestClient) -> None:
        answer = here.get("/metrics")
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/plain")

    def test_openmetrics_is_sent_where_it_is_asked_for(self, here: TestClient) -> None:
        answer = here.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
        assert answer.text.endswith("# EOF\n")

    @pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"])
    def test_what_a_proxy_on_this_host_passes_on_does_not_come_from_it(self, header: str, here: TestClient) -> None:
        assert here.get("/metrics", headers={header: "127.0.0.1"}).status_code == 401

    def test_a_page_that_has_its_name_lead_to_this_host_reads_nothing(self, here: TestClient) -> None:
        assert here.get("/metrics", headers={"Host": "rebound.example.org"}).status_code == 401


def local(settings: Settings) -> TestClient:
    app = create_app(settings, dispatch=False)
    return TestClient(app, base_url="http://127.0.0.1:8000", client=("127.0.0.1", 50000))


@pytest.fixture
def here(sqlite_settings: Settings) -> Iterator[TestClient]:
    with local(sqlite_settings) as client:
        yield client


def test_two_scrapes_at_once_are_one_look_at_the_database(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.monitoring.rows.CACHE_SECONDS", 60.0)
    asked: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *call: asked.append(call[2]))
    collector = rows.Rows(database)
    collector._seen_at = -60.0
    list(collector.collect())
    once = len(asked)
    list(collector.collect())
    assert 0 < once == len(asked)


@pytest.mark.usefixtures("digits")
def test_a_scrape_asks_as_much_of_a_full_database_as_of_an_empty_one(
    database: Database, world: World, operator: Headers, client: TestClient
) -> None:
    """A few grouped queries, and none for each row."""
    asked: list[Any] = []
    event.listen(database.engine, "before_cursor_execute", lambda *call: asked.append(call[2]))
    with database.read() as session:
        rows.families(session)
    empty = len(asked)
    job = world.job("digits-cnn", kind=JobKind.AUDIT)
    with database.write() as session:
        store_requests(session, 300, "digits", ["digits-cnn"], ["shop"])
        store_jobs(session, 30, "digits-cnn")
        store_events(session, 30, job)
    asked.clear()
    with database.read() as session:
        rows.families(session)
    assert len(asked) == empty <= 25

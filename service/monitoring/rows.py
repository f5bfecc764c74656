"""The rows as gauges: how many requests, jobs, versions and messages are in which state, and since when something waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import ColumnElement, Select, and_, exists, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from models.deletion_request import IS_LIVE
from models.lease import DISPATCHER, DISPATCHER_SECONDS
from models.records import (
    AuditReport,
    DeletionRequest,
    DeliveryStatus,
    Erasure,
    Event,
    EventSeal,
    Job,
    JobKind,
    JobStatus,
    Lease,
    Model,
    ModelStatus,
    ModelVersion,
    RequestStatus,
    VersionStatus,
    Webhook,
    WebhookDelivery,
)
from models.session import Database, current_time
from service.due import DUE_SOON

CACHE_SECONDS = 5.0  # scrapes of several servers at once are one look at the database
ENDED = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)
LOOK_BACK = timedelta(minutes=1)  # from the last sealed event: what is not sealed lies behind it, or was committed late
LIVE_JOB = (JobStatus.QUEUED, JobStatus.RUNNING)
VERDICTS = ("pass", "exact", "over_unlearned", "under_unlearned", "inconclusive", "not_audited")
A_DAY = timedelta(days=1)

log = structlog.get_logger(__name__)


class Rows(Collector):
    """The metrics of `families`, looked up at most every CACHE_SECONDS. While the database does not answer, amun_up is 0."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._seen: list[Metric] = []
        self._seen_at = -CACHE_SECONDS

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            if time.monotonic() - self._seen_at >= CACHE_SECONDS:
                self._seen = self._look()
                self._seen_at = time.monotonic()
            yield from self._seen

    def _look(self) -> list[Metric]:
        started = time.monotonic()
        try:
            with self._database.read() as session:
                found = families(session)
        except SQLAlchemyError as error:
            log.error("metrics.database_unavailable", error=type(error).__name__)
            return [_gauge("amun_up", "Whether the database answered this scrape.", 0)]
        took = time.monotonic() - started
        return [
            _gauge("amun_up", "Whether the database answered this scrape.", 1),
            _gauge("amun_scrape_seconds", "How long the queries of this scrape took.", took),
            *found,
        ]


def families(session: Session) -> list[Metric]:
    """Everything that is read from rows, in one transaction of a few grouped queries."""
    at = current_time(session)
    return [*_requests(session, at), *_jobs(session), *_evidence(session), *_webhooks(session, at), *_log(session, at)]


def _requests(session: Session, at: datetime) -> Iterator[Metric]:
    counted = select(DeletionRequest.status, func.count()).group_by(DeletionRequest.status)
    yield _by("amun_deletion_requests", "Deletion requests by status.", "status", RequestStatus, session, counted)

    def due(*conditions: ColumnElement[bool]) -> int:
        return session.scalar(select(func.count()).select_from(DeletionRequest).where(IS_LIVE, *conditions)) or 0

    soon = DeletionRequest.due_at.between(at, at + DUE_SOON)
    idle = ~exists().where(Erasure.request_id == DeletionRequest.id, Job.id == Erasure.job_id, Job.status.in_(LIVE_JOB))
    yield _gauge(
        "amun_deletion_requests_overdue", "Live requests past their due date.", due(DeletionRequest.due_at < at)
    )
    yield _gauge("amun_deletion_requests_due_soon", "Live requests due within a week.", due(soon))
    yield _gauge(
        "amun_deletion_requests_due_soon_without_job",
        "Live requests overdue or due within a week that no queued or running job serves.",
        due(DeletionRequest.due_at < at + DUE_SOON, idle),
    )
    oldest = session.scalar(select(func.min(DeletionRequest.due_at)).where(IS_LIVE))
    yield _since("amun_deletion_requests_oldest_due_timestamp_seconds", "First due date of a live request.", oldest)


def _jobs(session: Session) -> Iterator[Metric]:
    counts = {
        (kind, status): number
        for kind, status, number in session.execute(
            select(Job.kind, Job.status, func.count()).group_by(Job.kind, Job.status)
        )
    }
    now = GaugeMetricFamily("amun_jobs", "Queued and running jobs.", labels=["kind", "status"])
    ended = CounterMetricFamily("amun_jobs_ended", "Jobs that have ended.", labels=["kind", "status"])
    for kind in JobKind:
        for status in LIVE_JOB:
            now.add_metric([kind.value, status.value], counts.get((kind, status), 0))
        for status in ENDED:
            ended.add_metric([kind.value, status.value], counts.get((kind, status), 0))
    yield now
    yield ended

    failed = CounterMetricFamily("amun_jobs_failed", "Failed jobs by the code of their error.", labels=["kind", "code"])
    code = Job.error["code"].as_string()
    by_code = select(Job.kind, code, func.count()).where(Job.status == JobStatus.FAILED).group_by(Job.kind, code)
    for kind, name, number in session.execute(by_code):
        failed.add_metric([kind.value, name or "unknown"], number)
    yield failed

    waits = GaugeMetricFamily(
        "amun_jobs_queue_oldest_timestamp_seconds", "When the oldest queued job was made.", labels=["kind"]
    )
    oldest = select(Job.kind, func.min(Job.created_at)).where(Job.status == JobStatus.QUEUED).group_by(Job.kind)
    for kind, made in session.execute(oldest):
        waits.add_metric([kind.value], made.timestamp())
    yield waits

    lease = select(func.min(Job.lease_expires_at)).where(Job.status == JobStatus.RUNNING)
    yield _since(
        "amun_jobs_running_oldest_lease_timestamp_seconds",
        "When the first lease of a running job runs out; long past: its worker is gone and nobody sweeps.",
        session.scalar(lease),
    )


def _evidence(session: Session) -> Iterator[Metric]:
    verdicts = CounterMetricFamily("amun_verdicts", "Audit reports by verdict, first editions.", labels=["verdict"])
    counted = select(AuditReport.verdict, func.count()).where(AuditReport.edition == 1).group_by(AuditReport.verdict)
    found = {verdict: number for verdict, number in session.execute(counted)}  # noqa: C416 - rows, not pairs, to mypy
    for verdict in dict.fromkeys((*VERDICTS, *found)):
        verdicts.add_metric([verdict], found.get(verdict, 0))
    yield verdicts
    versions = select(ModelVersion.status, func.count()).group_by(ModelVersion.status)
    yield _by("amun_model_versions", "Versions by status.", "status", VersionStatus, session, versions)
    models = select(Model.status, func.count()).group_by(Model.status)
    yield _by("amun_models", "Models by status.", "status", ModelStatus, session, models)


def _webhooks(session: Session, at: datetime) -> Iterator[Metric]:
    def hooks(*conditions: ColumnElement[bool]) -> int:
        live = select(func.count()).select_from(Webhook).where(Webhook.deleted_at.is_(None), *conditions)
        return session.scalar(live) or 0

    enabled, failing = Webhook.disabled_at.is_(None), Webhook.failing_since.is_not(None)
    states = {"working": hooks(enabled, ~failing), "failing": hooks(enabled, failing), "disabled": hooks(~enabled)}
    told = GaugeMetricFamily("amun_webhooks", "Webhooks by what came of the last attempts.", labels=["state"])
    for state, number in states.items():
        told.add_metric([state], number)
    yield told
    pending = select(func.count(), func.min(WebhookDelivery.created_at)).where(
        WebhookDelivery.status == DeliveryStatus.PENDING
    )
    number, oldest = session.execute(pending).one()
    yield _gauge("amun_webhook_deliveries_pending", "Messages that wait for their first or next attempt.", number)
    yield _since("amun_webhook_deliveries_oldest_pending_timestamp_seconds", "When the first of them was made.", oldest)
    given_up = and_(WebhookDelivery.finished_at > at - A_DAY, WebhookDelivery.status == DeliveryStatus.FAILED)
    yield _gauge(
        "amun_webhook_deliveries_failed_last_day",
        "Messages given up within a day.",
        session.scalar(select(func.count()).select_from(WebhookDelivery).where(given_up)) or 0,
    )


def _log(session: Session, at: datetime) -> Iterator[Metric]:
    # The recent end alone, for the whole log has millions of rows.
    sealed = (
        select(Event.at).join(EventSeal, EventSeal.event_id == Event.id).order_by(EventSeal.position.desc()).limit(1)
    )
    last = session.scalar(sealed)
    open_ones = select(func.count(), func.min(Event.at)).where(~exists().where(EventSeal.event_id == Event.id))
    if last is not None:
        open_ones = open_ones.where(Event.at >= last - LOOK_BACK)
    number, oldest = session.execute(open_ones).one()
    yield _gauge("amun_events_unsealed", "Events of the log that are not sealed yet.", number)
    yield _since("amun_events_oldest_unsealed_timestamp_seconds", "When the first of them happened.", oldest)
    until = session.scalar(select(Lease.expires_at).where(Lease.name == DISPATCHER))
    held = until is not None and until > at
    yield _gauge("amun_dispatcher_lease_held", "Whether an API process holds the dispatcher's lease.", held)
    yield _since(
        "amun_dispatcher_last_round_timestamp_seconds",
        "When a round of the dispatcher began, to within a few seconds: rounds renew the lease.",
        until - timedelta(seconds=DISPATCHER_SECONDS) if until is not None else None,
    )


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))


def _since(name: str, text: str, moment: datetime | None) -> Metric:
    """A time, in seconds since 1970; without a sample where there is none."""
    family = GaugeMetricFamily(name, text)
    if moment is not None:
        family.add_metric([], moment.timestamp())
    return family


def _by(name: str, text: str, label: str, states: Iterable[Any], session: Session, counted: Select[Any, int]) -> Metric:
    found = {state: number for state, number in session.execute(counted)}  # noqa: C416 - rows, not pairs, to mypy
    family = GaugeMetricFamily(name, text, labels=[label])
    for state in states:
        family.add_metric([str(state)], found.get(state, 0))
    return family

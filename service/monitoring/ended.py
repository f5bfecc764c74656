"""What jobs have done since this process began to look: seconds by phase, peaks of memory, and why some were given back.

Read from the log's events, which have an index by time; so a look costs what has happened since the last one, however many
jobs are stored. Each API process looks for itself, and Prometheus takes a counter that starts anew as one.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

import structlog
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from models.records import Event, Job, Model
from models.session import Database, current_time
from service.monitoring.rows import CACHE_SECONDS

LOOK_BACK = timedelta(minutes=1)  # events commit a little out of order, and hosts' clocks differ
BUCKETS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 1800, 3600, 7200, 14400, 43200)  # seconds of a phase
JOBS_AT_ONCE = 500
# As events have it, and as a label has it; whatever else is a person's decision.
REASONS = {
    "lease expired": "lease_expired",
    "worker_lost": "worker_lost",
    "internal": "internal",
    "no_gpu": "no_gpu",
    "the worker is shutting down": "shutdown",
}
OTHER = "other"
NAMES = ("job.succeeded", "job.failed", "job.cancelled", "job.requeued")

log = structlog.get_logger(__name__)


class Ended(Collector):
    """Counters and a histogram that a scrape brings up to date first."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._from: datetime | None = None  # of the next look
        self._known: dict[uuid.UUID, datetime] = {}  # events since then that were counted
        self._looked_at = -CACHE_SECONDS
        of_phase = ["kind", "phase"]
        self.phases = Histogram(
            "amun_job_phase_seconds", "Seconds of finished phases.", of_phase, buckets=BUCKETS, registry=None
        )
        self.requeued = Counter("amun_jobs_requeued", "Jobs that were given back.", ["reason"], registry=None)
        self.memory = Gauge(
            "amun_job_peak_memory_bytes",
            "Peak of memory of the last job: of the GPU, or of the process.",
            ["kind", "model", "of"],
            registry=None,
        )
        for reason in (*REASONS.values(), OTHER):
            self.requeued.labels(reason)  # from 0 on: a counter that appears with its first event shows no increase

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            if time.monotonic() - self._looked_at >= CACHE_SECONDS:
                try:
                    with self._database.read() as session:
                        self.look(session)
                except SQLAlchemyError as error:
                    log.error("metrics.database_unavailable", error=type(error).__name__)
                self._looked_at = time.monotonic()
            for metric in (self.phases, self.requeued, self.memory):
                yield from metric.collect()

    def look(self, session: Session) -> None:
        """Count what has happened since the last look; the first one only begins."""
        at = current_time(session)
        if self._from is None:
            self._from = at
        query = select(Event).where(Event.at >= self._from, Event.name.in_(NAMES)).order_by(Event.at)
        found = [event for event in session.scalars(query) if event.id not in self._known]
        for event in found:
            if event.name == "job.requeued":
                self.requeued.labels(REASONS.get(str(event.data.get("reason")), OTHER)).inc()
        ended = [uuid.UUID(event.record_id) for event in found if event.name != "job.requeued"]
        for start in range(0, len(ended), JOBS_AT_ONCE):
            self._count(session, ended[start : start + JOBS_AT_ONCE])
        self._from = max(self._from, at - LOOK_BACK)
        self._known |= {event.id: event.at for event in found}
        self._known = {event: when for event, when in self._known.items() if when >= self._from}

    def _count(self, session: Session, jobs: list[uuid.UUID]) -> None:
        query = select(Job, Model.name).outerjoin(Model, Model.id == Job.model_id).where(Job.id.in_(jobs))
        for job, model in session.execute(query.order_by(Job.finished_at)):
            for phase, seconds in (job.seconds or {}).items():
                self.phases.labels(job.kind.value, phase).observe(seconds)
            for of in ("gpu", "process"):
                if (peak := (job.measured or {}).get(f"peak_{of}_bytes")) is not None:
                    self.memory.labels(job.kind.value, model or "", of).set(peak)

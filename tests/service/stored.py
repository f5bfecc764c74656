"""Many requests, jobs, reports and events, stored past the service: what lists are read from."""

from __future__ import annotations

import hashlib
import random
import uuid
from datetime import timedelta
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from models.base import new_id, now
from models.evidence import GENESIS
from models.records import (
    Application,
    AuditReport,
    DeletionRequest,
    Erasure,
    ErasureStatus,
    Event,
    EventSeal,
    Job,
    JobKind,
    JobStatus,
    Model,
    ModelVersion,
    RequestSample,
    RequestStatus,
    Sample,
    Split,
    TrainingSet,
    VersionStatus,
)

ROWS_AT_ONCE = 5000
# Of a service that was in use for years: nearly everything is done.
MIX = {
    RequestStatus.COMPLETED: 0.968,
    RequestStatus.QUEUED: 0.01,
    RequestStatus.RUNNING: 0.002,
    RequestStatus.AWAITING_APPROVAL: 0.001,
    RequestStatus.AWAITING_RELEASE: 0.001,
    RequestStatus.ON_HOLD: 0.001,
    RequestStatus.PARTIALLY_COMPLETED: 0.005,
    RequestStatus.CANCELLED: 0.008,
    RequestStatus.REJECTED: 0.003,
}
OPEN = {
    RequestStatus.QUEUED: ErasureStatus.OPEN,
    RequestStatus.RUNNING: ErasureStatus.RUNNING,
    RequestStatus.AWAITING_APPROVAL: ErasureStatus.OPEN,
    RequestStatus.AWAITING_RELEASE: ErasureStatus.AWAITING_RELEASE,
    RequestStatus.ON_HOLD: ErasureStatus.ON_HOLD,
    RequestStatus.CANCELLED: ErasureStatus.CANCELLED,
    RequestStatus.FAILED: ErasureStatus.FAILED,
}


def store_requests(
    session: Session, number: int, training_set: str, models: list[str], applications: list[str], *, seed: int = 0
) -> None:
    """``number`` requests, the oldest two years old, among them a single failed one, in the middle, and one of LGPD."""
    draw = random.Random(seed)
    set_id = session.scalars(select(TrainingSet.id).where(TrainingSet.name == training_set)).one()
    model_ids = list(session.scalars(select(Model.id).where(Model.name.in_(models)).order_by(Model.name)))
    owners = list(session.scalars(select(Application.id).where(Application.name.in_(applications))))
    statuses = draw.choices(list(MIX), list(MIX.values()), k=number)
    statuses[number // 2] = RequestStatus.FAILED
    begun = now() - timedelta(days=730)
    requests: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    erasures: list[dict[str, Any]] = []
    for place, status in enumerate(statuses):
        request, received = new_id(), begun + timedelta(days=730) * (place / number)
        live = status in OPEN and status is not RequestStatus.CANCELLED and status is not RequestStatus.FAILED
        requests.append(
            {
                "id": request,
                "application_id": draw.choice(owners),
                "training_set_id": set_id,
                "status": status,
                "submitted_by": "key",
                "external_id": f"crm-{place}",
                "regulation": "LGPD" if place == number // 3 else draw.choice(["GDPR", "GDPR", "CCPA"]),
                "received_at": received,
                "due_at": (now() + timedelta(minutes=draw.randrange(-2000, 40_000))) if live else received,
                "fingerprint": b"",
                "approval_required": False,
                "has_controls": False,
            }
        )
        samples += [
            {"request_id": request, "training_set_id": set_id, "sample_index": 10 * place + n} for n in range(2)
        ]
        erasures += [
            {
                "id": new_id(),
                "request_id": request,
                "model_id": model,
                "status": OPEN.get(status, ErasureStatus.DONE),
                "created_at": received,
            }
            for model in model_ids
        ]
    _insert(session, DeletionRequest, requests)
    _insert(session, RequestSample, samples)
    _insert(session, Erasure, erasures)


def store_jobs(session: Session, number: int, model: str, *, seed: int = 0) -> None:
    """Succeeded jobs with a version and a report each, and as many that certified; one that failed, one that waits."""
    draw = random.Random(seed)
    found = session.scalars(select(Model).where(Model.name == model)).one()
    about = {"model_id": found.id, "training_set_id": found.training_set_id}
    nothing = {"model_id": None, "training_set_id": None}
    jobs: list[dict[str, Any]] = []
    versions: list[dict[str, Any]] = []
    reports: list[dict[str, Any]] = []
    for place in range(number):
        job, version = new_id(), new_id()
        status = {number // 2: JobStatus.FAILED, number // 3: JobStatus.QUEUED}.get(place, JobStatus.SUCCEEDED)
        jobs.append({"id": job, "kind": JobKind.UNLEARN, "status": status, "seed": place, **about})
        jobs.append({"id": new_id(), "kind": JobKind.CERTIFY, "status": JobStatus.SUCCEEDED, "seed": place, **nothing})
        versions.append(
            {
                "id": version,
                "model_id": found.id,
                "number": place + 10,
                "job_id": job,
                "status": VersionStatus.SUPERSEDED,
                "path": "p",
                "sha256": "0" * 64,
                "size": 1,
            }
        )
        verdict = "under_unlearned" if place == number // 2 else draw.choice(["pass", "pass", "inconclusive"])
        files = dict.fromkeys(("json_path", "json_sha256", "pdf_path", "pdf_sha256"), "x")
        reports.append({"job_id": job, "model_id": found.id, "version_id": version, "verdict": verdict, **files})
    _insert(session, Job, jobs)
    _insert(session, ModelVersion, versions)
    _insert(session, AuditReport, reports)


def store_events(session: Session, number: int, job: uuid.UUID) -> None:
    """Sealed events of many requests, with three of one job among the first; their hashes are not a chain."""
    events, seals = [], []
    for position in range(1, number + 1):
        of_job = position in (5, 10, 15)
        record, record_id = ("job", str(job)) if of_job else ("deletion_request", str(new_id()))
        event = new_id()
        events.append({"id": event, "name": "x", "record": record, "record_id": record_id, "actor": "test", "data": {}})
        seals.append(
            {"position": position, "event_id": event, "hash": GENESIS, "record": record, "record_id": record_id}
        )
    _insert(session, Event, events)
    _insert(session, EventSeal, seals)


def store_samples(session: Session, training_set: uuid.UUID, number: int, *, start: int = 100) -> None:
    """Training images from row ``start`` on: three of each person, the last third without a person."""
    _insert(
        session,
        Sample,
        [
            {
                "training_set_id": training_set,
                "index": index,
                "key": f"train/{index:06d}",
                "sha256": hashlib.sha256(b"%d" % index).hexdigest(),
                "file_sha256": hashlib.sha256(b"file %d" % index).hexdigest(),
                "label": index % 4,
                "split": Split.TRAIN,
                "subject": f"person-{index // 3}" if index < start + 2 * number // 3 else None,
            }
            for index in range(start, start + number)
        ],
    )


def _insert(session: Session, record: type[Any], rows: list[dict[str, Any]]) -> None:
    for start in range(0, len(rows), ROWS_AT_ONCE):
        session.execute(insert(record), rows[start : start + ROWS_AT_ONCE])

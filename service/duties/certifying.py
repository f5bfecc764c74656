"""CERTIFY: jobs that write signed documents, for requests that ended and for reports that a decision has overtaken."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, exists, func, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased

from models.crashes import crash_point
from models.deletion_request import IS_UNCERTIFIED
from models.records import (
    MAX_ATTEMPTS,
    AuditReport,
    DeletionRequest,
    Erasure,
    ErasureStatus,
    Job,
    JobKind,
    JobStatus,
    Model,
    ModelStatus,
    ModelVersion,
    RequestSample,
    RequestStatus,
    Sample,
    Split,
    VersionStatus,
    record_event,
)
from models.seeds import new_seed
from models.session import Database, current_time
from models.settings import Settings

ACTOR = "dispatcher"
ENDED_WELL = (ErasureStatus.DONE, ErasureStatus.NOT_APPLICABLE)
MOST_A_ROUND = 100
AFTER_A_FAILURE = timedelta(minutes=1)


def _live(about_id: Any) -> ColumnElement[bool]:
    return exists().where(
        Job.kind == JobKind.CERTIFY, Job.about_id == about_id, Job.status.in_([JobStatus.QUEUED, JobStatus.RUNNING])
    )


def _has_later_edition() -> ColumnElement[bool]:
    later = aliased(AuditReport)
    return exists().where(later.supersedes_id == AuditReport.id)


def _is_settled() -> ColumnElement[bool]:
    """Of a completed request: everything is gone that must go, and the newest reports tell of every decision."""
    has_erasure = Erasure.request_id == DeletionRequest.id
    report = aliased(AuditReport)
    superseded = exists().where(
        has_erasure, ModelVersion.model_id == Erasure.model_id, ModelVersion.status == VersionStatus.SUPERSEDED
    )
    retired_waits = exists().where(  # files of a retired model are still there
        has_erasure,
        Model.id == Erasure.model_id,
        Model.status == ModelStatus.RETIRED,
        or_(
            Model.folder.is_not(None),
            Model.id.in_(select(ModelVersion.model_id).where(ModelVersion.status != VersionStatus.DESTROYED)),
        ),
    )
    signals_wait = exists().where(
        has_erasure, Erasure.status == ErasureStatus.DONE, Erasure.signals_erased_at.is_(None)
    )
    overtaken = exists().where(
        has_erasure,
        ModelVersion.id == Erasure.version_id,
        report.version_id == ModelVersion.id,
        report.envelope_path.is_not(None),
        ModelVersion.decided_at
        > select(func.max(AuditReport.created_at))
        .where(AuditReport.version_id == ModelVersion.id)
        .correlate(ModelVersion)
        .scalar_subquery(),
    )
    training_samples = exists().where(
        RequestSample.request_id == DeletionRequest.id,
        Sample.training_set_id == RequestSample.training_set_id,
        Sample.index == RequestSample.sample_index,
        Sample.split == Split.TRAIN,
    )
    samples_settled = or_(
        DeletionRequest.samples_erased_at.is_not(None), DeletionRequest.samples_kept.is_not(None), ~training_samples
    )
    return and_(samples_settled, ~superseded, ~retired_waits, ~signals_wait, ~overtaken)


# Built once, as in service.claims: they run every second, whether there is anything to do or not.
# Newest editions of reports whose version a person has decided about since.
_OVERTAKEN_REPORTS = (
    select(AuditReport.id)
    .join(ModelVersion, ModelVersion.id == AuditReport.version_id)
    .where(
        AuditReport.kind == "audit_report",
        AuditReport.envelope_path.is_not(None),
        ~_has_later_edition(),
        ModelVersion.decided_at > AuditReport.created_at,
        ~_live(AuditReport.id),
    )
)
# Requests that were rejected, or completed with everything gone that must go, and not certified since.
_UNCERTIFIED_REQUESTS = (
    select(DeletionRequest.id)
    .where(
        IS_UNCERTIFIED,
        or_(
            DeletionRequest.rejected_at.is_not(None),
            and_(DeletionRequest.status == RequestStatus.COMPLETED, _is_settled()),
        ),
        ~_live(DeletionRequest.id),
    )
    .limit(MOST_A_ROUND)
)


def plan_documents(database: Database, settings: Settings) -> int:
    """Queue a certify job for every document that is due; returns how many. Each is one transaction of its own."""
    planned = 0
    with database.read() as session:
        due = [("audit_report", each) for each in session.scalars(_OVERTAKEN_REPORTS)]
        due += [("deletion_request", each) for each in session.scalars(_UNCERTIFIED_REQUESTS)]
    for about, about_id in due:
        try:
            with database.write() as session:
                planned += _queue(session, settings, about, about_id)
            crash_point("certify.planned")
        except IntegrityError:  # the partial unique index: there is a live one already
            continue
    return planned


def _queue(session: Session, settings: Settings, about: str, about_id: uuid.UUID) -> bool:
    if _failing(session, about_id):
        return False
    job = Job(kind=JobKind.CERTIFY, about=about, about_id=about_id, seed=new_seed(settings, "certify", str(about_id)))
    session.add(job)
    session.flush()
    record_event(session, "job.planned", "job", job.id, ACTOR, kind="certify", about=about, about_id=str(about_id))
    return True


def _failing(session: Session, about_id: uuid.UUID) -> bool:
    """After a failure a pause, and after three a person."""
    failed = session.scalars(
        select(Job.finished_at).where(
            Job.kind == JobKind.CERTIFY, Job.about_id == about_id, Job.status == JobStatus.FAILED
        )
    ).all()
    recent = current_time(session) - AFTER_A_FAILURE
    return len(failed) >= MAX_ATTEMPTS or any(at is not None and at > recent for at in failed)

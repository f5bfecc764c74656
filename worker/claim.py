"""Claim a job: one conditional UPDATE that takes a lease, raises the token and fixes the version's number."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import and_, func, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from models.crashes import crash_point
from models.moves import advance
from models.records import (
    Erasure,
    ErasureStatus,
    Job,
    JobKind,
    JobStatus,
    Model,
    ModelStatus,
    ModelVersion,
    record_event,
)
from models.session import Database, current_time
from models.settings import Settings


@dataclass(frozen=True)
class Claim:
    """A running job and the token that fences every write of this attempt."""

    job: Job
    token: int
    worker: str

    @property
    def actor(self) -> str:
        return f"worker:{self.worker}"


def claim(database: Database, settings: Settings, job_id: uuid.UUID, worker: str) -> Claim | None:
    """Take the job, or None: it is unknown, not due, taken, ended, or its model is busy with another one."""
    try:
        with database.write() as session:
            taken = _claim(session, settings, job_id, worker)
            crash_point("claim.before_commit")
            return taken
    except IntegrityError:  # the partial unique index: another job of this model is running
        return None


def _claim(session: Session, settings: Settings, job_id: uuid.UUID, worker: str) -> Claim | None:
    at = current_time(session)
    job = session.get(Job, job_id)
    if job is None:
        return None
    if job.kind is JobKind.UNLEARN and not _attached(session, job_id):
        if advance(session, Job, Job.id == job_id, JobStatus.CANCELLED, only_from=[JobStatus.QUEUED], finished_at=at):
            record_event(session, "job.cancelled", "job", job_id, f"worker:{worker}", reason="no erasure is left in it")
        return None
    if job.kind is JobKind.UNLEARN and session.get_one(Model, job.model_id).status is not ModelStatus.READY:
        return None  # withdrawn since it was planned: it runs once a person has released a version
    taken = advance(
        session,
        Job,
        and_(Job.id == job_id, or_(Job.not_before.is_(None), Job.not_before <= at)),
        JobStatus.RUNNING,
        token=Job.token + 1,
        attempts=Job.attempts + 1,
        lease_expires_at=at + timedelta(seconds=settings.lease_seconds),
        worker=worker,
        version_number=_next_number(session, job),
        started_at=at,
        error=None,
    )
    if not taken:
        return None
    session.refresh(job)
    advance(session, Erasure, Erasure.job_id == job_id, ErasureStatus.RUNNING, only_from=[ErasureStatus.OPEN])
    record_event(session, "job.started", "job", job_id, f"worker:{worker}", attempt=job.attempts, token=job.token)
    return Claim(job, job.token, worker)


def _attached(session: Session, job_id: uuid.UUID) -> bool:
    return session.scalar(select(func.count()).select_from(Erasure).where(Erasure.job_id == job_id)) != 0


def _next_number(session: Session, job: Job) -> int | None:
    if job.model_id is None or job.kind not in (JobKind.TRAIN, JobKind.UNLEARN):
        return None
    last = session.scalar(select(func.max(ModelVersion.number)).where(ModelVersion.model_id == job.model_id))
    return (last or 0) + 1

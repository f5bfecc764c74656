"""How a job ends other than well: given back to the queue, failed, or cancelled, with all that hangs on it.

The worker does it when it can, the dispatcher's sweep when the worker is gone, the service when a person decides: they
must do the same. Each function is fenced by the token and returns False, changing nothing, where the attempt is no longer
the current one.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import and_, select
from sqlalchemy.orm import Session

from models.base import now
from models.erasure import Erasure, ErasureStatus
from models.event import record_event
from models.job import Job, JobKind, JobStatus
from models.model import Model, ModelStatus
from models.moves import advance
from models.training_set import TrainingSet, TrainingSetStatus


def requeue(
    session: Session,
    job: Job,
    token: int,
    *,
    actor: str,
    reason: str,
    counted: bool,
    not_before: datetime | None = None,
) -> bool:
    """Give a running job back to the queue. An attempt that is not ``counted`` was stopped for no fault of the job.

    A job that somebody asked to cancel is cancelled instead.
    """
    if session.scalar(select(Job.cancel_requested_at).where(Job.id == job.id)) is not None:
        return cancel(session, job, token, actor=actor)
    moved = advance(
        session,
        Job,
        and_(Job.id == job.id, Job.token == token),
        JobStatus.QUEUED,
        attempts=Job.attempts if counted else Job.attempts - 1,
        lease_expires_at=None,
        worker=None,
        not_before=not_before,
        hinted_at=None,
        hints=0,
        phase=None,
        step=None,
        progress=0.0,
        eta_seconds=None,
    )
    if not moved:
        return False
    advance(session, Erasure, Erasure.job_id == job.id, ErasureStatus.OPEN, only_from=[ErasureStatus.RUNNING])
    record_event(session, "job.requeued", "job", job.id, actor, reason=reason, attempt_counted=counted, token=token)
    return True


def fail(session: Session, job: Job, token: int, *, actor: str, code: str, detail: str) -> bool:
    """Fail a running job, its erasures, and the training set or model it was to make."""
    error: dict[str, Any] = {"code": code, "detail": detail}
    if not _end(session, job, token, [JobStatus.RUNNING], JobStatus.FAILED, error):
        return False
    advance(
        session,
        Erasure,
        Erasure.job_id == job.id,
        ErasureStatus.FAILED,
        only_from=[ErasureStatus.RUNNING],
        reason=code,
    )
    _fail_owner(session, job, error)
    record_event(session, "job.failed", "job", job.id, actor, code=code, token=token)
    return True


def cancel(
    session: Session,
    job: Job,
    token: int,
    *,
    actor: str,
    reason: str | None = None,
    start: JobStatus = JobStatus.RUNNING,
) -> bool:
    """Cancel a job at a person's wish, from the state ``start``; its erasures go on hold."""
    error: dict[str, Any] = {"code": "cancelled", "detail": "cancelled at the operator's request"}
    if not _end(session, job, token, [start], JobStatus.CANCELLED, error):
        return False
    _hold_erasures(session, job.id)
    _fail_owner(session, job, error)
    record_event(session, "job.cancelled", "job", job.id, actor, token=token, reason=reason)
    return True


def call_off(session: Session, job: Job, token: int, *, actor: str, reason: str) -> bool:
    """Cancel a queued or running job that has nothing left to do; erasures that were running are open again."""
    error: dict[str, Any] = {"code": "cancelled", "detail": reason}
    if not _end(session, job, token, [JobStatus.QUEUED, JobStatus.RUNNING], JobStatus.CANCELLED, error):
        return False
    advance(session, Erasure, Erasure.job_id == job.id, ErasureStatus.OPEN, only_from=[ErasureStatus.RUNNING])
    record_event(session, "job.cancelled", "job", job.id, actor, token=token, reason=reason)
    return True


def _hold_erasures(session: Session, job_id: uuid.UUID) -> None:
    """They keep the cancelled job's id until they are resumed: it tells what waits for a person."""
    attached = Erasure.job_id == job_id
    advance(session, Erasure, attached, ErasureStatus.OPEN, only_from=[ErasureStatus.RUNNING])
    advance(
        session,
        Erasure,
        attached,
        ErasureStatus.ON_HOLD,
        only_from=[ErasureStatus.OPEN],
        reason="its job was cancelled",
    )


def _end(
    session: Session, job: Job, token: int, starts: list[JobStatus], target: JobStatus, error: dict[str, Any]
) -> bool:
    return bool(
        advance(
            session,
            Job,
            and_(Job.id == job.id, Job.token == token),
            target,
            only_from=starts,
            error=error,
            lease_expires_at=None,
            finished_at=now(),
            eta_seconds=None,
        )
    )


def _fail_owner(session: Session, job: Job, error: dict[str, Any]) -> None:
    if job.kind is JobKind.REGISTER:
        advance(session, TrainingSet, TrainingSet.id == job.training_set_id, TrainingSetStatus.FAILED, error=error)
    elif job.kind is JobKind.TRAIN:
        advance(session, Model, Model.id == job.model_id, ModelStatus.FAILED, error=error)

"""How a running job ends other than well: given back to the queue, failed, or cancelled, with all that hangs on it.

The worker does it when it can, the dispatcher's sweep when the worker is gone: the two must do the same. Each function is
fenced by the token and returns False, changing nothing, where the attempt is no longer the current one.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import and_, update
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
    """Give a running job back to the queue. An attempt that is not ``counted`` was stopped for no fault of the job."""
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
    if not _end(session, job, token, JobStatus.FAILED, error):
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


def cancel(session: Session, job: Job, token: int, *, actor: str) -> bool:
    """Cancel a running job at a person's wish; its erasures go on hold."""
    error: dict[str, Any] = {"code": "cancelled", "detail": "cancelled at the operator's request"}
    if not _end(session, job, token, JobStatus.CANCELLED, error):
        return False
    hold_erasures(session, job.id)
    _fail_owner(session, job, error)
    record_event(session, "job.cancelled", "job", job.id, actor, token=token)
    return True


def hold_erasures(session: Session, job_id: uuid.UUID) -> None:
    """Detach a job's erasures and put them on hold, whether it had started or not."""
    attached = Erasure.job_id == job_id
    advance(session, Erasure, attached, ErasureStatus.OPEN, only_from=[ErasureStatus.RUNNING])
    advance(session, Erasure, attached, ErasureStatus.ON_HOLD, only_from=[ErasureStatus.OPEN])
    session.execute(
        update(Erasure)
        .where(attached, Erasure.status == ErasureStatus.ON_HOLD)
        .values(job_id=None, reason="its job was cancelled")
    )


def _end(session: Session, job: Job, token: int, target: JobStatus, error: dict[str, Any]) -> bool:
    return bool(
        advance(
            session,
            Job,
            and_(Job.id == job.id, Job.token == token),
            target,
            only_from=[JobStatus.RUNNING],
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

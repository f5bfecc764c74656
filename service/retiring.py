"""Retire a model: it is served no more, forgets nothing more, and its files go."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from models import lifecycle
from models.base import now
from models.moves import advance
from models.records import (
    Erasure,
    ErasureStatus,
    Job,
    JobStatus,
    Model,
    ModelStatus,
    ModelVersion,
    VersionStatus,
    record_event,
)
from service.errors import Conflict
from service.security import Principal

CALLED_OFF = "its model was retired"


def retire(session: Session, model: Model, principal: Principal, reason: str) -> None:
    """For good. What waits for it is not applicable any more; the dispatcher destroys checkpoints and signals.

    Jobs are locked before the model, as a finishing job does: whoever commits first has decided. Raises Conflict.
    """
    _stop_jobs(session, model, principal)
    session.refresh(model, with_for_update={"of": Model})
    if not advance(session, Model, Model.id == model.id, ModelStatus.RETIRED, released_number=None):
        raise Conflict(f"Model {model.name} is {model.status.value}: {_instead(model.status)}")
    _stop_jobs(session, model, principal)  # planned since the first look, and not begun
    spared = advance(
        session,
        Erasure,
        Erasure.model_id == model.id,
        ErasureStatus.NOT_APPLICABLE,
        job_id=None,
        version_id=None,
        reason=reason,
        finished_at=now(),
    )
    of_model = ModelVersion.model_id == model.id
    advance(session, ModelVersion, of_model, VersionStatus.SUPERSEDED, only_from=[VersionStatus.RELEASED])
    record_event(session, "model.retired", "model", model.id, principal.actor, reason=reason, erasures=spared)
    session.flush()


def _stop_jobs(session: Session, model: Model, principal: Principal) -> None:
    live = (
        select(Job)
        .where(Job.model_id == model.id, Job.status.in_([JobStatus.QUEUED, JobStatus.RUNNING]))
        .order_by(Job.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    for job in session.scalars(live).all():
        lifecycle.call_off(session, job, job.token, actor=principal.actor, reason=CALLED_OFF)


def _instead(status: ModelStatus) -> str:
    return {
        ModelStatus.TRAINING: "cancel its job first, or wait until it is ready.",
        ModelStatus.FAILED: "nothing of it was ever served.",
    }.get(status, "that was decided before.")

"""What an operator decides about a job: cancel it, or try again what it failed at."""

from __future__ import annotations

import uuid
from collections.abc import Callable

from sqlalchemy import ColumnElement, and_, func, select
from sqlalchemy.orm import Session

from models import holdings, lifecycle
from models.base import now
from models.moves import advance
from models.records import (
    DeletionRequest,
    Erasure,
    ErasureStatus,
    Job,
    JobKind,
    JobStatus,
    Model,
    ModelStatus,
    TrainingSet,
    TrainingSetStatus,
    record_event,
)
from models.release import released_version
from models.seeds import new_seed
from models.settings import Settings
from service.duties import planning
from service.errors import Conflict
from service.security import Principal

LIVE = (JobStatus.QUEUED, JobStatus.RUNNING)
FORGOTTEN = "the released version has forgotten all of its samples already"
MOST_NAMED = 20  # requests in a detail

Make = Callable[[Session, Settings, Job], Job]


def cancel(session: Session, job: Job, principal: Principal, reason: str | None) -> None:
    """A queued job ends at once, a running one as soon as its worker has stopped it. Raises Conflict.

    Its requests go on hold; the training set or model that it was to make has failed. The caller holds the job's row.
    """
    if job.kind is JobKind.CERTIFY:
        raise Conflict("A certify job cannot be cancelled: what ended or was decided is always documented.")
    if job.status is JobStatus.QUEUED:
        lifecycle.cancel(session, job, job.token, actor=principal.actor, reason=reason, start=JobStatus.QUEUED)
    elif job.status is not JobStatus.RUNNING:
        raise Conflict(f"The job has {job.status.value} already: there is nothing to cancel.")
    elif job.cancel_requested_at is None:
        job.cancel_requested_at = now()
        record_event(session, "job.cancel_requested", "job", job.id, principal.actor, reason=reason)
    session.flush()


def retry(session: Session, settings: Settings, principal: Principal, job: Job) -> Job:
    """A new job, with a new seed, for what the job did not bring about. The caller holds the job's row.

    Raises Conflict where it did not fail, was retried before, or its work is done or under way by now.
    """
    again = session.scalars(select(Job.id).where(Job.retry_of_id == job.id)).first()
    if again is not None:
        raise Conflict(f"The job was retried before: follow job {again}, and retry that one if it failed too.")
    if job.status is JobStatus.CANCELLED and job.kind is JobKind.UNLEARN:
        raise Conflict(_what_to_resume(session, job))
    if job.status not in (JobStatus.FAILED, JobStatus.CANCELLED):
        raise Conflict(f"The job is {job.status.value}: only one that failed or was cancelled can be retried.")
    made = MAKE[job.kind](session, settings, job)
    record_event(
        session,
        "job.queued",
        "job",
        made.id,
        principal.actor,
        kind=made.kind.value,
        retry_of=str(job.id),
    )
    session.flush()
    return made


def _what_to_resume(session: Session, job: Job) -> str:
    held = session.scalars(
        select(Erasure.request_id)
        .where(Erasure.job_id == job.id, Erasure.status == ErasureStatus.ON_HOLD)
        .order_by(Erasure.request_id)
    ).all()
    if not held:
        return "The job was cancelled, and none of its requests waits on hold: there is nothing to retry."
    named = ", ".join(map(str, held[:MOST_NAMED]))
    more = f" and {len(held) - MOST_NAMED} more" if len(held) > MOST_NAMED else ""
    return f"The job was cancelled: resume its requests, and a new job follows by itself: {named}{more}."


def _register(session: Session, settings: Settings, job: Job) -> Job:
    training_set = session.get_one(TrainingSet, job.training_set_id)
    if not advance(session, TrainingSet, TrainingSet.id == training_set.id, TrainingSetStatus.REGISTERING, error=None):
        raise Conflict(f"Training set {training_set.name} is {training_set.status.value}: nothing is left to do.")
    return _again(session, settings, job, training_set.name, Job.training_set_id == training_set.id)


def _train(session: Session, settings: Settings, job: Job) -> Job:
    model = session.get_one(Model, job.model_id)
    if not advance(session, Model, Model.id == model.id, ModelStatus.TRAINING, error=None):
        raise Conflict(f"Model {model.name} is {model.status.value}: nothing is left to do.")
    return _again(session, settings, job, model.name, Job.model_id == model.id)


def _unlearn(session: Session, settings: Settings, job: Job) -> Job:
    """Its failed erasures are open again, and the new job serves them and whatever else waits for the model."""
    model = session.get_one(Model, job.model_id, with_for_update={"of": Model}, populate_existing=True)
    if model.status is not ModelStatus.READY:
        raise Conflict(f"Model {model.name} is {model.status.value}: only a model with a released version can forget.")
    _none_live(session, job, Job.model_id == model.id)
    failed = Erasure.job_id == job.id
    reopened = advance(
        session, Erasure, failed, ErasureStatus.OPEN, only_from=[ErasureStatus.FAILED], job_id=None, reason=None
    )
    if not reopened:
        raise Conflict("None of the job's requests waits for it any more: there is nothing to retry.")
    _keep_held(session, model)
    wanted = planning.open_erasures(session, model)
    if not wanted:
        raise Conflict("The job's requests are on hold: resume one of them first.")
    made = planning.unlearn_job(session, settings, model, retry_of=job.id)
    version = released_version(session, model)
    gone: set[uuid.UUID] = set()
    if version is not None:
        gone = planning.already_forgotten(session, holdings.forgotten(session, version), wanted)
        planning.finish_forgotten(session, version, gone)
    if not planning.attach(session, made, set(wanted) - gone):
        lifecycle.call_off(session, made, made.token, actor=planning.ACTOR, reason=FORGOTTEN)
    return made


def _keep_held(session: Session, model: Model) -> None:
    """An erasure that had failed when its request was held waits with the others of it."""
    held = select(DeletionRequest.id).where(DeletionRequest.held_at.is_not(None))
    advance(
        session,
        Erasure,
        and_(Erasure.model_id == model.id, Erasure.request_id.in_(held)),
        ErasureStatus.ON_HOLD,
        only_from=[ErasureStatus.OPEN],
        reason="its request is on hold",
    )


def _audit(session: Session, settings: Settings, job: Job) -> Job:
    model = session.get_one(Model, job.model_id, with_for_update={"of": Model}, populate_existing=True)
    if released_version(session, model) is None:
        raise Conflict(f"Model {model.name} is {model.status.value}: there is no released version to audit.")
    _none_live(session, job, Job.model_id == model.id)
    return _again(session, settings, job, model.name, Job.model_id == model.id)


def _certify(session: Session, settings: Settings, job: Job) -> Job:
    about = and_(Job.about == job.about, Job.about_id == job.about_id)
    _none_live(session, job, about)
    since = select(Job.id).where(Job.kind == job.kind, about, Job.status == JobStatus.SUCCEEDED, Job.id > job.id)
    written = session.scalars(since).first()
    if written is not None:
        raise Conflict(f"Job {written} has written the document since: there is nothing to retry.")
    return _again(session, settings, job, str(job.about_id), about)


def _none_live(session: Session, job: Job, where: ColumnElement[bool]) -> None:
    live = session.scalars(select(Job.id).where(Job.kind == job.kind, where, Job.status.in_(LIVE))).first()
    if live is not None:
        raise Conflict(f"Job {live} is at it already: follow that one.")


def _again(session: Session, settings: Settings, job: Job, name: str, owner: ColumnElement[bool]) -> Job:
    """A job like it. Each attempt has a seed of its own, so that one that diverged is not repeated to the letter."""
    attempts = session.scalar(select(func.count()).where(Job.kind == job.kind, owner)) or 0
    made = Job(
        kind=job.kind,
        training_set_id=job.training_set_id,
        model_id=job.model_id,
        about=job.about,
        about_id=job.about_id,
        retry_of_id=job.id,
        seed=new_seed(settings, job.kind.value, name, str(attempts)),
    )
    session.add(made)
    session.flush()
    return made


MAKE: dict[JobKind, Make] = {
    JobKind.REGISTER: _register,
    JobKind.TRAIN: _train,
    JobKind.UNLEARN: _unlearn,
    JobKind.AUDIT: _audit,
    JobKind.CERTIFY: _certify,
}

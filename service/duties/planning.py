"""PLAN: open erasures of a model without a live unlearn job become one job."""

from __future__ import annotations

import uuid

from sqlalchemy import ColumnElement, and_, exists, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from models.base import now
from models.crashes import crash_point
from models.holdings import forgotten, samples_of
from models.moves import advance
from models.parameters import BATCH_MARGIN
from models.records import (
    DeletionRequest,
    Erasure,
    ErasureStatus,
    Job,
    JobKind,
    JobStatus,
    Model,
    ModelStatus,
    ModelVersion,
    VersionStatus,
    record_event,
)
from models.release import released_version
from models.seeds import new_seed
from models.session import Database, current_time
from models.settings import Settings
from service.duties import batching

ACTOR = "dispatcher"
GONE = {ModelStatus.RETIRED: "the model was retired", ModelStatus.FAILED: "the model's training failed"}


def plan(database: Database, settings: Settings) -> int:
    """Make the unlearn jobs that are due; returns how many. One transaction a model."""
    _end_waiting_for_a_batch(database)
    _excuse_gone(database)
    with database.read() as session:
        models = list(session.scalars(select(Erasure.model_id).join(Model).where(_plannable()).distinct()))
    planned = 0
    for model_id in models:
        try:
            with database.write() as session:
                planned += _plan_model(session, settings, model_id)
            crash_point("plan.after_model")
        except IntegrityError:  # the partial unique index: another dispatcher planned this model
            continue
    return planned


def _end_waiting_for_a_batch(database: Database) -> None:
    """Erasures whose version was too small to tell about, and which are nearly due, get a job of their own: it retrains."""
    with database.read() as session:
        late = current_time(session) + BATCH_MARGIN
        rows = session.execute(
            select(Erasure.id, Model.policy, DeletionRequest.due_at, ModelVersion.created_at)
            .join(Model, Model.id == Erasure.model_id)
            .join(DeletionRequest, DeletionRequest.id == Erasure.request_id)
            .join(ModelVersion, ModelVersion.id == Erasure.version_id)
            .where(
                Erasure.status == ErasureStatus.AWAITING_RELEASE,
                ModelVersion.status == VersionStatus.QUARANTINED,
                ModelVersion.verdict == "inconclusive",
                DeletionRequest.due_at <= late,
            )
        ).all()
    # A version made so late was followed by retraining already: what is left is for a person.
    nearly_due = [
        erasure
        for erasure, policy, due_at, made_at in rows
        if policy.get("inconclusive") == "wait_for_batch" and made_at < due_at - BATCH_MARGIN
    ]
    if not nearly_due:
        return
    with database.write() as session:
        for erasure in nearly_due:
            if advance(
                session,
                Erasure,
                Erasure.id == erasure,
                ErasureStatus.OPEN,
                only_from=[ErasureStatus.AWAITING_RELEASE],
                job_id=None,
                version_id=None,
                reason="no batch came before it is due",
            ):
                record_event(session, "erasure.waited_long_enough", "erasure", erasure, ACTOR)


def _excuse_gone(database: Database) -> None:
    """What waits for a model that was retired meanwhile, or that was never made, would wait for ever.

    Where the training is retried, the new model is not taught what was asked to be forgotten.
    """
    with database.read() as session:
        late = session.execute(
            select(Erasure.id, Model.status)
            .join(Model)
            .where(Model.status.in_(list(GONE)), Erasure.status.in_([ErasureStatus.OPEN, ErasureStatus.ON_HOLD]))
            .order_by(Erasure.id)
        ).all()
    if not late:
        return
    with database.write() as session:
        for erasure, model in late:
            if advance(
                session,
                Erasure,
                and_(Erasure.id == erasure, Erasure.model_id.in_(select(Model.id).where(Model.status == model))),
                ErasureStatus.NOT_APPLICABLE,
                only_from=[ErasureStatus.OPEN, ErasureStatus.ON_HOLD],
                reason=GONE[model],
                finished_at=now(),
            ):
                record_event(session, "erasure.not_applicable", "erasure", erasure, ACTOR, reason=model.value)


def _plannable() -> ColumnElement[bool]:
    return and_(
        batching.waiting(),
        ~exists().where(
            Job.model_id == Erasure.model_id,
            Job.kind == JobKind.UNLEARN,
            Job.status.in_([JobStatus.QUEUED, JobStatus.RUNNING]),
        ),
    )


def _plan_model(session: Session, settings: Settings, model_id: uuid.UUID) -> int:
    model = session.scalars(select(Model).where(Model.id == model_id).with_for_update()).one()
    remaining = finish_forgotten(session, model, open_erasures(session, model))
    gathering = batching.gatherings(session, [model.id]).get(model.id)
    if not remaining or gathering is None:
        return 0
    if not batching.is_over(batching.of_model(model), gathering, current_time(session)):
        return 0
    job = unlearn_job(session, settings, model)
    attach(session, job, remaining)
    record_event(session, "job.planned", "job", job.id, ACTOR, kind="unlearn", erasures=len(remaining))
    return 1


def open_erasures(session: Session, model: Model) -> list[uuid.UUID]:
    """Those that a new job of the model would serve; none while it has a live one."""
    query = select(Erasure.id).join(Model).where(Erasure.model_id == model.id, _plannable()).order_by(Erasure.id)
    return list(session.scalars(query))


def unlearn_job(session: Session, settings: Settings, model: Model, retry_of: uuid.UUID | None = None) -> Job:
    """A queued job without erasures yet. Each of a model's has a seed of its own, a fixed AMUN_SEED or not."""
    earlier = select(func.count()).where(Job.model_id == model.id, Job.kind == JobKind.UNLEARN)
    job = Job(
        kind=JobKind.UNLEARN,
        model_id=model.id,
        training_set_id=model.training_set_id,
        seed=new_seed(settings, "unlearn", model.name, str(session.scalar(earlier) or 0)),
        retry_of_id=retry_of,
    )
    session.add(job)
    session.flush()
    return job


def attach(session: Session, job: Job, erasures: list[uuid.UUID]) -> None:
    """Erasures that are still open and in no job become the job's."""
    session.execute(
        update(Erasure)
        .where(Erasure.id.in_(erasures), Erasure.status == ErasureStatus.OPEN, Erasure.job_id.is_(None))
        .values(job_id=job.id)
    )


def finish_forgotten(session: Session, model: Model, erasures: list[uuid.UUID]) -> list[uuid.UUID]:
    """Erasures whose samples the released version has forgotten already are done with it as evidence; returns the rest."""
    version = released_version(session, model)
    if version is None:
        return erasures
    known_gone = forgotten(session, version)
    rest = []
    for erasure in erasures:
        if samples_of(session, [erasure]) <= known_gone:
            advance(
                session, Erasure, Erasure.id == erasure, ErasureStatus.DONE, version_id=version.id, finished_at=now()
            )
            record_event(session, "erasure.already_forgotten", "erasure", erasure, ACTOR, version=version.number)
        else:
            rest.append(erasure)
    return rest

"""PLAN: open erasures of a model without a live unlearn job become one job."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, bindparam, exists, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import InstrumentedAttribute, Session

from models.among import among
from models.base import now
from models.crashes import crash_point
from models.holdings import forgotten, samples_of_each
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
AT_ONCE = 500  # erasures whose samples are read in one transaction
GONE = {ModelStatus.RETIRED: "the model was retired", ModelStatus.FAILED: "the model's training failed"}


def _served(model: InstrumentedAttribute[Any]) -> ColumnElement[bool]:
    return exists().where(
        Job.model_id == model,
        Job.kind == JobKind.UNLEARN,
        Job.status.in_([JobStatus.QUEUED, JobStatus.RUNNING]),
    )


# Built once, as in service.claims: they run every second, whether there is anything to do or not.
_IDLE_MODELS = select(Model).where(Model.status == ModelStatus.READY, ~_served(Model.id))
_PLANNABLE = (
    select(Erasure.id)
    .join(Model)
    .where(Erasure.model_id == bindparam("model"), batching.WAITING, ~_served(Erasure.model_id))
)
_FIRST_PLANNABLE = _PLANNABLE.limit(1)
_ALL_PLANNABLE = _PLANNABLE.order_by(Erasure.id)
_KEPT_BACK = and_(ModelVersion.status == VersionStatus.QUARANTINED, ModelVersion.verdict == "inconclusive")
_KEEPING_BACK = select(Model.id, Model.policy).join(ModelVersion, ModelVersion.model_id == Model.id).where(_KEPT_BACK)
_WAITING_FOR_GONE = (
    select(Erasure.id, Model.status)
    .join(Model)
    .where(Model.status.in_(list(GONE)), Erasure.status.in_([ErasureStatus.OPEN, ErasureStatus.ON_HOLD]))
    .order_by(Erasure.id)
)


def plan(database: Database, settings: Settings, *, gathering: bool = True) -> int:
    """Make the unlearn jobs that are due; returns how many. One transaction a model.

    Without ``gathering``, models that gather requests are left alone: what waits for them is counted at each look.
    """
    _end_waiting_for_a_batch(database)
    _excuse_gone(database)
    planned = 0
    for model_id in _wanted(database, gathering):
        try:
            planned += _plan_model(database, settings, model_id)
            crash_point("plan.after_model")
        except IntegrityError:  # the partial unique index: another dispatcher planned this model
            continue
    return planned


def _wanted(database: Database, gathering: bool) -> list[uuid.UUID]:
    """Models for which something waits. A look at each, which ends with the first erasure that does."""
    with database.read() as session:
        return [
            model.id
            for model in session.scalars(_IDLE_MODELS).all()
            if (gathering or batching.of_model(model).mode == "at_once")
            and session.scalar(_FIRST_PLANNABLE, {"model": model.id}) is not None
        ]


def _end_waiting_for_a_batch(database: Database) -> None:
    """Erasures whose version was too small to tell about, and which are nearly due, get a job of their own: it retrains."""
    with database.read() as session:
        policies = {model: policy for model, policy in session.execute(_KEEPING_BACK)}  # noqa: C416 - rows
        late = current_time(session) + BATCH_MARGIN
        nearly_due = {
            model: _nearly_due(session, and_(Erasure.model_id == model, _KEPT_BACK), late)
            for model, policy in policies.items()
            if policy.get("inconclusive") == "wait_for_batch"
        }
    for model, erasures in nearly_due.items():
        if erasures:
            with database.write() as session:
                # As a release does, and a job that finishes: the model before its erasures, and no other model's beside.
                session.execute(select(Model.id).where(Model.id == model).with_for_update())
                _open_again(session, erasures)


def _nearly_due(session: Session, waiting: ColumnElement[bool], late: datetime) -> list[uuid.UUID]:
    """A version made so late was followed by retraining already: what is left is for a person."""
    rows = session.execute(
        select(Erasure.id, DeletionRequest.due_at, ModelVersion.created_at)
        .join(DeletionRequest, DeletionRequest.id == Erasure.request_id)
        .join(ModelVersion, ModelVersion.id == Erasure.version_id)
        .where(waiting, Erasure.status == ErasureStatus.AWAITING_RELEASE, DeletionRequest.due_at <= late)
        .order_by(Erasure.id)
    )
    return [erasure for erasure, due_at, made_at in rows if made_at < due_at - BATCH_MARGIN]


def _open_again(session: Session, erasures: list[uuid.UUID]) -> None:
    for erasure in erasures:
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
        late = session.execute(_WAITING_FOR_GONE).all()
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


def _plan_model(database: Database, settings: Settings, model_id: uuid.UUID) -> int:
    """Nothing is locked while what waits is looked through: requests go on coming in meanwhile."""
    with database.read() as session:
        model = session.get_one(Model, model_id)
        waiting = open_erasures(session, model)
        version = released_version(session, model)
        due = _is_due(session, model)
    gone = _gone(database, version, waiting)
    if not gone and not due:
        return 0
    with database.write() as session:
        model = session.scalars(select(Model).where(Model.id == model_id).with_for_update()).one()
        served = released_version(session, model)
        if (served and served.id) != (version and version.id):
            return 0  # another one was released meanwhile: the next round looks again
        if version is not None:
            finish_forgotten(session, version, gone)
        remaining = [erasure for erasure in waiting if erasure not in gone]
        if not remaining or not due:
            return 0
        job = unlearn_job(session, settings, model)
        attached = attach(session, job, remaining)
        if not attached:  # all were held, cancelled or planned meanwhile
            session.delete(job)
            return 0
        record_event(session, "job.planned", "job", job.id, ACTOR, kind="unlearn", erasures=attached)
    return 1


def _gone(database: Database, version: ModelVersion | None, waiting: list[uuid.UUID]) -> set[uuid.UUID]:
    """`already_forgotten`, some at a time: on SQLite nobody commits while somebody reads."""
    found: set[uuid.UUID] = set()
    if version is None:
        return found
    with database.read() as session:
        known_gone = forgotten(session, version)
    for start in range(0, len(waiting), AT_ONCE):
        with database.read() as session:
            found |= already_forgotten(session, known_gone, waiting[start : start + AT_ONCE])
    return found


def _is_due(session: Session, model: Model) -> bool:
    rule = batching.of_model(model)
    if rule.mode == "at_once":
        return True
    gathering = batching.gatherings(session, [model.id]).get(model.id)
    return gathering is not None and batching.is_over(rule, gathering, current_time(session))


def open_erasures(session: Session, model: Model) -> list[uuid.UUID]:
    """Those that a new job of the model would serve; none while it has a live one."""
    return list(session.scalars(_ALL_PLANNABLE, {"model": model.id}))


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


def attach(session: Session, job: Job, erasures: Collection[uuid.UUID]) -> int:
    """Erasures that are still open and in no job become the job's; returns how many."""
    attached = session.execute(
        update(Erasure)
        .where(among(Erasure.id, erasures), Erasure.status == ErasureStatus.OPEN, Erasure.job_id.is_(None))
        .values(job_id=job.id)
    )
    return attached.rowcount  # type: ignore[attr-defined, no-any-return]


def already_forgotten(session: Session, known_gone: set[int], erasures: Collection[uuid.UUID]) -> set[uuid.UUID]:
    """Those of the erasures whose training samples are all among the ``known_gone`` ones."""
    each = samples_of_each(session, erasures)
    return {erasure for erasure, samples in each.items() if samples <= known_gone}


def finish_forgotten(session: Session, version: ModelVersion, erasures: Collection[uuid.UUID]) -> None:
    """Erasures that are `already_forgotten` are done, with the version as evidence."""
    for erasure in sorted(erasures):
        if advance(
            session,
            Erasure,
            Erasure.id == erasure,
            ErasureStatus.DONE,
            only_from=[ErasureStatus.OPEN],
            version_id=version.id,
            finished_at=now(),
        ):
            record_event(session, "erasure.already_forgotten", "erasure", erasure, ACTOR, version=version.number)

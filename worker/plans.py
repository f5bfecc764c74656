"""Rows in, plan out: every value a job needs is copied into it, and what the pixels must hash to."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from models import holdings, rehearsals
from models.among import among
from models.parameters import BATCH_MARGIN, Policy
from models.records import (
    DeletionRequest,
    Erasure,
    ErasureStatus,
    Job,
    JobKind,
    Model,
    ModelVersion,
    Sample,
    Split,
    TrainingSet,
    Upload,
)
from models.rehearsals import nearest_strength
from models.session import current_time
from models.settings import Settings
from worker import plan
from worker.materials import (
    CannotPlan,
    array_files,
    checkpoint,
    controls,
    data,
    live_samples,
    need_space,
    network,
    recipe,
    served,
    signals,
    size,
    trained_on,
    unlearn_spec,
)


def make_plan(session: Session, settings: Settings, job: Job, folder: Path) -> plan.Plan:
    """The plan of a claimed job. Digests of live rows are written into ``folder``. Raises CannotPlan."""
    if job.kind is JobKind.REGISTER:
        return _register(session, settings, job)
    if job.kind is JobKind.TRAIN:
        return _train(session, settings, job, folder)
    if job.kind is JobKind.UNLEARN:
        return _unlearn(session, settings, job, folder)
    if job.kind is JobKind.AUDIT:
        return _audit(session, settings, job, folder)
    raise CannotPlan("plan_invalid", f"this worker cannot run a job of kind {job.kind.value}")


def _register(session: Session, settings: Settings, job: Job) -> plan.RegisterPlan:
    training_set = session.get_one(TrainingSet, job.training_set_id)
    source = training_set.source
    path = source["path"]
    if source["kind"] != "builtin":
        if settings.import_root is None:
            raise CannotPlan("plan_invalid", "no files can be imported: this worker has no AMUN_IMPORT_ROOT")
        path = str(settings.import_root.resolve() / path)
    return plan.RegisterPlan(
        source=plan.Source(**source | {"path": path}),
        controls=plan.Controls(**training_set.controls),
        seed=job.seed,
    )


def _train(session: Session, settings: Settings, job: Job, folder: Path) -> plan.TrainPlan:
    model = session.get_one(Model, job.model_id)
    samples = live_samples(session, settings, model)
    policy = Policy.model_validate(model.policy)
    rehearsal = policy.rehearsal
    live = trained_on(samples)
    # A new model never learns what somebody asked any model of this set to forget.
    train = live - holdings.asked_to_forget(session, model.training_set_id)
    need_space(settings, 3 * sum(map(size, array_files(settings, model.training_set))))
    uploaded = None if model.checkpoint is None else _upload(session, settings, model.checkpoint, samples, model)
    return plan.TrainPlan(
        data=data(settings, model.training_set, samples, folder),
        network=network(model),
        recipe=recipe(model),
        train=sorted(train),
        controls=[sample.index for sample in samples if sample.split is Split.CONTROL],
        references=policy.references,
        rehearsal=plan.RehearsalSpec(**rehearsal.model_dump()),
        attack=plan.AttackSpec(**policy.attack.model_dump()),
        unlearn=unlearn_spec(policy, rehearsal.learning_rates[0], rehearsal.weight_scales[0]),
        audit=plan.AuditSpec(**policy.audit.model_dump()),
        seed=job.seed,
        threads=settings.threads,
        checkpoint=uploaded,
    )


def _upload(
    session: Session, settings: Settings, sha256: str, samples: list[Sample], model: Model
) -> plan.CheckpointFile:
    """The uploaded checkpoint, which must know nothing that was to be forgotten. Raises CannotPlan."""
    upload = session.get(Upload, sha256)
    if upload is None or not (settings.data_dir / upload.path).is_file():
        raise CannotPlan(
            "checkpoint_invalid", "the uploaded checkpoint is gone: upload it again, and register the model anew"
        )
    every_row = set(session.scalars(select(Sample.index).where(Sample.training_set_id == model.training_set_id)))
    wanted = holdings.named_for_erasure(session, model.training_set_id)
    if wanted or every_row != {sample.index for sample in samples}:
        raise CannotPlan(
            "checkpoint_invalid",
            "images of the training set were erased, refused or asked to be forgotten: the uploaded checkpoint may know "
            "them, so it cannot become a model of this set. Train one here, which learns from the others alone",
        )
    return plan.CheckpointFile(path=str(settings.data_dir / upload.path), sha256=upload.sha256)


def _unlearn(session: Session, settings: Settings, job: Job, folder: Path) -> plan.UnlearnPlan:
    model = session.get_one(Model, job.model_id)
    samples = live_samples(session, settings, model)
    policy = Policy.model_validate(model.policy)
    base, training = served(session, model)
    need_space(settings, 3 * base.size)
    erasures = forgetting(session, job)
    gone, live = holdings.forgotten(session, base), trained_on(samples)
    forget = sorted((holdings.samples_of(session, erasures) & live) - gone)
    if not forget:
        raise CannotPlan(
            "plan_invalid",
            "the released version was never trained on the requested samples, or has forgotten them",
        )
    strength = nearest_strength(training["rehearsal"], len(forget))
    calibration, audit_controls = controls(samples)
    return plan.UnlearnPlan(
        data=data(settings, model.training_set, samples, folder),
        network=network(model),
        recipe=recipe(model),
        base=checkpoint(settings, base),
        signals=signals(settings, model, training),
        forget=forget,
        retain=sorted(live - holdings.asked_to_forget(session, model.training_set_id)),
        calibration=calibration,
        audit_controls=audit_controls,
        requests=[rows for _, rows in slices(session, erasures, forget)],
        attack=plan.AttackSpec(**policy.attack.model_dump()),
        unlearn=unlearn_spec(policy, strength["learning_rate"], strength["weight_scale"]),
        audit=plan.AuditSpec(**policy.audit.model_dump()),
        utility=plan.UtilitySpec(**policy.utility.model_dump()),
        ladder=plan.LadderSpec(
            **policy.ladder.model_dump(),
            retrain_inconclusive=_retrain_inconclusive(session, policy, erasures),
            straight_to_retraining=_too_large_a_share(session, model, policy, base, forget),
        ),
        compare_retrained=policy.compare_retrained,
        seed=job.seed,
        threads=settings.threads,
    )


def _audit(session: Session, settings: Settings, job: Job, folder: Path) -> plan.AuditPlan:
    """Forget set: what unfinished erasures name and the released version knows. What was erased cannot be looked at."""
    model = session.get_one(Model, job.model_id)
    samples = live_samples(session, settings, model)
    policy = Policy.model_validate(model.policy)
    base, training = served(session, model)
    need_space(settings, 3 * base.size)  # as before any job of the model: on a disk so full no report is certain either
    unfinished = list(
        session.scalars(select(Erasure.id).where(Erasure.model_id == model.id, Erasure.status.in_(holdings.UNFINISHED)))
    )
    live = trained_on(samples)
    forget = sorted((holdings.samples_of(session, unfinished) & live) - holdings.forgotten(session, base))
    calibration, audit_controls = controls(samples)
    return plan.AuditPlan(
        data=data(settings, model.training_set, samples, folder),
        network=network(model),
        base=checkpoint(settings, base),
        signals=signals(settings, model, training),
        forget=forget,
        retain=sorted(live - holdings.asked_to_forget(session, model.training_set_id)),
        calibration=calibration,
        audit_controls=audit_controls,
        requests=[rows for _, rows in slices(session, unfinished, forget)],
        attack=plan.AttackSpec(**policy.attack.model_dump()),
        audit=plan.AuditSpec(**policy.audit.model_dump()),
        seed=job.seed,
        threads=settings.threads,
    )


def slices(session: Session, erasures: list[Any], forget: list[int]) -> list[tuple[uuid.UUID, list[int]]]:
    """Rows of the forget set by request, in the order of the requests' ids; requests without any are left out."""
    wanted = set(forget)
    named = holdings.samples_of_each(session, erasures)
    of_requests = session.execute(
        select(Erasure.request_id, Erasure.id).where(among(Erasure.id, erasures)).order_by(Erasure.request_id)
    )
    found = [(request, sorted(named[erasure] & wanted)) for request, erasure in of_requests]
    return [(request, rows) for request, rows in found if rows]


def _retrain_inconclusive(session: Session, policy: Policy, erasures: list[Any]) -> bool:
    """By policy always, or where a request that waited for a batch is nearly due."""
    if policy.inconclusive != "wait_for_batch":
        return policy.inconclusive == "retrain"
    first_due = select(func.min(DeletionRequest.due_at)).join(Erasure)
    due = session.scalar(first_due.where(among(Erasure.id, erasures)))
    return due is not None and due - BATCH_MARGIN <= current_time(session)


def _too_large_a_share(session: Session, model: Model, policy: Policy, base: ModelVersion, forget: list[int]) -> bool:
    """Whether this and all that was approximated since the last (re)training exceeds the policy's share."""
    never = (model.training or {}).get(holdings.NEVER_TRAINED, [])
    trained = len(holdings.train_rows(session, model.training_set_id) - set(never))
    since = holdings.forgotten_since_retraining(session, base) | set(forget)
    return policy.ladder.retrain and len(since) > policy.retrain_share * trained


def forgetting(session: Session, job: Job) -> list[Any]:
    """Erasures that a job serves: its own, and those whose quarantined version it may replace."""
    own = session.scalars(select(Erasure.id).where(Erasure.job_id == job.id, Erasure.status == ErasureStatus.RUNNING))
    waiting = session.scalars(
        select(Erasure.id).where(Erasure.model_id == job.model_id, Erasure.status == ErasureStatus.AWAITING_RELEASE)
    )
    return [*own, *waiting]


def rehearsed(model: Model, size: int) -> dict[str, Any] | None:
    """`nearest_strength` of a model, or None where nothing was rehearsed or there is nothing to forget."""
    return rehearsals.rehearsed(model.training, size)

"""Rows in, plan out: every value a job needs is copied into it, and what the pixels must hash to."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from models import artifacts, holdings
from models.parameters import Network, Policy, Recipe
from models.records import (
    DeletionRequest,
    Erasure,
    ErasureStatus,
    Job,
    JobKind,
    Model,
    RequestSample,
    Sample,
    Split,
    TrainingSet,
)
from models.release import released_version
from models.settings import Settings
from worker import plan


class CannotPlan(ValueError):
    """The rows ask for something that cannot be done; `code` is one of worker.plan.ERROR_CODES."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


def make_plan(session: Session, settings: Settings, job: Job, folder: Path) -> plan.Plan:
    """The plan of a claimed job. Digests of live rows are written into ``folder``. Raises CannotPlan."""
    if job.kind is JobKind.REGISTER:
        return _register(session, settings, job)
    if job.kind is JobKind.TRAIN:
        return _train(session, settings, job, folder)
    if job.kind is JobKind.UNLEARN:
        return _unlearn(session, settings, job, folder)
    raise CannotPlan("plan_invalid", f"this worker cannot run a job of kind {job.kind.value}")


def _register(session: Session, settings: Settings, job: Job) -> plan.RegisterPlan:
    training_set = session.get_one(TrainingSet, job.training_set_id)
    source = training_set.source
    path = source["path"]
    if source["kind"] == "folder":
        if settings.import_root is None:
            raise CannotPlan("plan_invalid", "folders cannot be read: this worker has no AMUN_IMPORT_ROOT")
        path = str(settings.import_root.resolve() / path)
    return plan.RegisterPlan(
        source=plan.Source(kind=source["kind"], path=path),
        controls=plan.Controls(**training_set.controls),
        seed=job.seed,
    )


def _train(session: Session, settings: Settings, job: Job, folder: Path) -> plan.TrainPlan:
    model = session.get_one(Model, job.model_id)
    samples = _live_samples(session, model)
    policy = Policy.model_validate(model.policy)
    rehearsal = policy.rehearsal
    live = {sample.index for sample in samples if sample.split is Split.TRAIN}
    # A new model never learns what somebody asked any model of this set to forget.
    train = live - holdings.asked_to_forget(session, model.training_set_id)
    _need_space(settings, 3 * sum(map(_size, _array_files(settings, model.training_set))))
    return plan.TrainPlan(
        data=_data(settings, model.training_set, samples, folder),
        network=_network(model),
        recipe=_recipe(model),
        train=sorted(train),
        controls=[sample.index for sample in samples if sample.split is Split.CONTROL],
        references=policy.references,
        rehearsal=plan.RehearsalSpec(**rehearsal.model_dump()),
        attack=plan.AttackSpec(**policy.attack.model_dump()),
        unlearn=_unlearn_spec(policy, rehearsal.learning_rates[0], rehearsal.weight_scales[0]),
        audit=plan.AuditSpec(**policy.audit.model_dump()),
        seed=job.seed,
        threads=settings.threads,
    )


def _unlearn(session: Session, settings: Settings, job: Job, folder: Path) -> plan.UnlearnPlan:
    model = session.get_one(Model, job.model_id)
    samples = _live_samples(session, model)
    policy = Policy.model_validate(model.policy)
    base = released_version(session, model)
    if base is None or model.training is None or model.folder is None:
        raise CannotPlan("plan_invalid", f"model {model.name} has no released version to start from")
    _need_space(settings, 3 * base.size)
    named = holdings.samples_of(session, forgetting(session, job))
    live = {sample.index for sample in samples if sample.split is Split.TRAIN}
    forget = sorted((named & live) - holdings.forgotten(session, base))
    if not forget:
        raise CannotPlan(
            "plan_invalid",
            "the released version was never trained on the requested samples, or has forgotten them",
        )
    retain = sorted(live - holdings.asked_to_forget(session, model.training_set_id))
    controls = [sample.index for sample in samples if sample.split is Split.CONTROL]
    strength = nearest_strength(model.training["rehearsal"], len(forget))
    signals = settings.data_dir / model.folder
    return plan.UnlearnPlan(
        data=_data(settings, model.training_set, samples, folder),
        network=_network(model),
        recipe=_recipe(model),
        base=plan.CheckpointFile(path=str(settings.data_dir / base.path), sha256=base.sha256),
        signals=plan.SignalFiles(
            phi=str(signals / "phi.f32"),
            members=str(signals / "members.u8"),
            references=int(model.training["references"]),
        ),
        forget=forget,
        retain=retain,
        # Even rows fit the curves of difficulty, odd rows are judged against: fixed before any request exists.
        calibration=[index for index in controls if index % 2 == 0],
        audit_controls=[index for index in controls if index % 2 == 1],
        attack=plan.AttackSpec(**policy.attack.model_dump()),
        unlearn=_unlearn_spec(policy, strength["learning_rate"], strength["weight_scale"]),
        audit=plan.AuditSpec(**policy.audit.model_dump()),
        compare_retrained=policy.compare_retrained,
        seed=job.seed,
        threads=settings.threads,
    )


def forgetting(session: Session, job: Job) -> list[Any]:
    """Erasures that a job serves: its own, and those whose quarantined version it may replace."""
    own = session.scalars(select(Erasure.id).where(Erasure.job_id == job.id, Erasure.status == ErasureStatus.RUNNING))
    waiting = session.scalars(
        select(Erasure.id).where(Erasure.model_id == job.model_id, Erasure.status == ErasureStatus.AWAITING_RELEASE)
    )
    return [*own, *waiting]


def _need_space(settings: Settings, wanted: int) -> None:
    """Better refused at the start than failed at the end of hours. Raises CannotPlan."""
    free = artifacts.free_bytes(settings.data_dir)
    if free < wanted:
        detail = f"{wanted - free} bytes more are needed in the data folder: {wanted} for this job, {free} are free"
        raise CannotPlan("disk_full", detail)


def _array_files(settings: Settings, training_set: TrainingSet) -> list[Path]:
    return list((settings.data_dir / training_set.folder).iterdir()) if training_set.folder else []


def _size(path: Path) -> int:
    return path.stat().st_size


def nearest_strength(rehearsal: list[dict[str, Any]], size: int) -> dict[str, Any]:
    """What was rehearsed at the size nearest to the request's, by ratio."""
    return min(rehearsal, key=lambda strength: abs(math.log(strength["size"] / size)))


def _live_samples(session: Session, model: Model) -> list[Sample]:
    """Samples that are not erased, nor controls that a request has already asked to erase."""
    asked = (
        select(RequestSample.sample_index)
        .join(DeletionRequest, DeletionRequest.id == RequestSample.request_id)
        .where(
            RequestSample.training_set_id == model.training_set_id,
            DeletionRequest.has_controls,
            DeletionRequest.rejected_at.is_(None),
        )
    )
    asked_controls = set(session.scalars(asked))
    rows = session.scalars(
        select(Sample)
        .where(Sample.training_set_id == model.training_set_id, Sample.erased_at.is_(None))
        .order_by(Sample.index)
    )
    return [row for row in rows if row.split is Split.TRAIN or row.index not in asked_controls]


def _data(settings: Settings, training_set: TrainingSet, samples: list[Sample], folder: Path) -> plan.DataFiles:
    if training_set.folder is None or training_set.shape is None or training_set.rows is None:
        raise CannotPlan("plan_invalid", f"training set {training_set.name} is not ready")
    digests = bytearray(32 * training_set.rows)
    for sample in samples:
        if sample.sha256 is not None:
            digests[32 * sample.index : 32 * (sample.index + 1)] = bytes.fromhex(sample.sha256)
    expected = folder / "expected-digests.bin"
    expected.write_bytes(digests)
    files = settings.data_dir / training_set.folder
    channels, height, width = training_set.shape
    return plan.DataFiles(
        pixels=str(files / "pixels.u8"),
        labels=str(files / "labels.i32"),
        digests=str(expected),
        rows=training_set.rows,
        shape=(channels, height, width),
        classes=list(training_set.classes or []),
    )


def _network(model: Model) -> plan.NetworkSpec:
    network = Network.model_validate(model.network)
    return plan.NetworkSpec(name=network.name, width=network.width)


def _recipe(model: Model) -> plan.RecipeSpec:
    return plan.RecipeSpec(**Recipe.model_validate(model.recipe).model_dump())


def _unlearn_spec(policy: Policy, learning_rate: float, weight_scale: float) -> plan.UnlearnSpec:
    return plan.UnlearnSpec(learning_rate=learning_rate, weight_scale=weight_scale, **policy.finetuning.model_dump())

"""What plans are made of: live samples and what their pixels must hash to, files, signals, parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from models import artifacts, holdings
from models.parameters import Network, Policy, Recipe
from models.records import DeletionRequest, Model, ModelVersion, RequestSample, Sample, Split, TrainingSet
from models.release import released_version
from models.secrets import SUPPRESSION, load_or_create
from models.settings import Settings
from models.suppression import suppressed
from worker import plan


class CannotPlan(ValueError):
    """The rows ask for something that cannot be done; `code` is one of worker.plan.ERROR_CODES."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


def served(session: Session, model: Model) -> tuple[ModelVersion, dict[str, Any]]:
    base = released_version(session, model)
    if base is None or model.training is None or model.folder is None:
        raise CannotPlan("plan_invalid", f"model {model.name} has no released version to start from")
    return base, model.training


def trained_on(samples: list[Sample]) -> set[int]:
    return {sample.index for sample in samples if sample.split is Split.TRAIN}


def controls(samples: list[Sample]) -> tuple[list[int], list[int]]:
    """Even rows fit the curves of difficulty, odd rows are judged against: fixed before any request exists."""
    controls = [sample.index for sample in samples if sample.split is Split.CONTROL]
    return [index for index in controls if index % 2 == 0], [index for index in controls if index % 2 == 1]


def checkpoint(settings: Settings, version: ModelVersion) -> plan.CheckpointFile:
    return plan.CheckpointFile(path=str(settings.data_dir / version.path), sha256=version.sha256)


def signals(settings: Settings, model: Model, training: dict[str, Any]) -> plan.SignalFiles:
    folder = settings.data_dir / (model.folder or "")
    return plan.SignalFiles(
        phi=str(folder / "phi.f32"), members=str(folder / "members.u8"), references=int(training["references"])
    )


def need_space(settings: Settings, wanted: int) -> None:
    """Better refused at the start than failed at the end of hours. Raises CannotPlan."""
    free = artifacts.free_bytes(settings.data_dir)
    if free < wanted:
        detail = f"{wanted - free} bytes more are needed in the data folder: {wanted} for this job, {free} are free"
        raise CannotPlan("disk_full", detail)


def array_files(settings: Settings, training_set: TrainingSet) -> list[Path]:
    return list((settings.data_dir / training_set.folder).iterdir()) if training_set.folder else []


def size(path: Path) -> int:
    return path.stat().st_size


def live_samples(session: Session, settings: Settings, model: Model) -> list[Sample]:
    """Samples that are not erased, nor copies of what was, nor controls that a request has already asked to erase."""
    asked = (
        select(RequestSample.sample_index)
        .join(DeletionRequest, DeletionRequest.id == RequestSample.request_id)
        .where(
            RequestSample.training_set_id == model.training_set_id,
            DeletionRequest.has_controls,
            DeletionRequest.rejected_at.is_(None),
            DeletionRequest.cancelled_at.is_(None),
        )
    )
    asked_controls = set(session.scalars(asked))
    rows = list(
        session.scalars(
            select(Sample)
            .where(Sample.training_set_id == model.training_set_id, Sample.erased_at.is_(None))
            .order_by(Sample.index)
        )
    )
    # What is to be forgotten stays, copy or not: else it never would be.
    asked_rows = holdings.asked_to_forget(session, model.training_set_id)
    refused = suppressed(session, load_or_create(settings.secrets, SUPPRESSION), rows) - asked_rows
    return [
        row
        for row in rows
        if row.index not in refused and (row.split is Split.TRAIN or row.index not in asked_controls)
    ]


def data(settings: Settings, training_set: TrainingSet, samples: list[Sample], folder: Path) -> plan.DataFiles:
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


def network(model: Model) -> plan.NetworkSpec:
    network = Network.model_validate(model.network)
    return plan.NetworkSpec(name=network.name, width=network.width)


def recipe(model: Model) -> plan.RecipeSpec:
    return plan.RecipeSpec(**Recipe.model_validate(model.recipe).model_dump())


def unlearn_spec(policy: Policy, learning_rate: float, weight_scale: float) -> plan.UnlearnSpec:
    return plan.UnlearnSpec(learning_rate=learning_rate, weight_scale=weight_scale, **policy.finetuning.model_dump())

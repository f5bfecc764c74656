"""SWEEP: jobs whose worker is gone, control samples that must go, files that no row names."""

from __future__ import annotations

import uuid
from pathlib import Path

import structlog
from sqlalchemy import exists, select, update
from sqlalchemy.orm import Session

from models import artifacts, lifecycle
from models.evidence import suppression_digests
from models.records import (
    MAX_ATTEMPTS,
    AuditReport,
    DeletionRequest,
    Job,
    JobStatus,
    Model,
    ModelVersion,
    RequestSample,
    Sample,
    Split,
    Suppression,
    TrainingSet,
    record_event,
)
from models.secrets import SUPPRESSION, load_or_create
from models.session import Database, current_time
from models.settings import Settings

ACTOR = "dispatcher"

log = structlog.get_logger(__name__)


def expired_leases(database: Database) -> int:
    """Give jobs whose lease ran out back to the queue, or fail them at the third attempt; returns how many."""
    with database.read() as session:
        at = current_time(session)
        lost = list(session.scalars(select(Job).where(Job.status == JobStatus.RUNNING, Job.lease_expires_at < at)))
    swept = 0
    for job in lost:
        with database.write() as session:
            # A heartbeat may have come since: the row decides, not what was read before.
            fresh = session.scalars(select(Job).where(Job.id == job.id).with_for_update()).one()
            if fresh.lease_expires_at is None or fresh.lease_expires_at >= current_time(session):
                continue
            if fresh.attempts >= MAX_ATTEMPTS:
                detail = f"its worker was lost {fresh.attempts} times; the last was {fresh.worker}"
                swept += lifecycle.fail(session, fresh, job.token, actor=ACTOR, code="worker_lost", detail=detail)
            else:
                swept += lifecycle.requeue(session, fresh, job.token, actor=ACTOR, reason="lease expired", counted=True)
    return swept


def erase_controls(database: Database, settings: Settings) -> int:
    """Erase control samples that requests name: no model was trained on them, so no job is needed.

    First the rows become tombstones, so that no later plan uses them; once no running job can hold an older plan, pixels,
    digests and reference signals are overwritten and read back, and only then is the request told so. A crash in between
    repeats the rest. Returns how many requests had their last control erased.
    """
    with database.read() as session:
        waiting = list(
            session.scalars(
                select(DeletionRequest).where(
                    DeletionRequest.has_controls,
                    DeletionRequest.controls_erased_at.is_(None),
                    DeletionRequest.rejected_at.is_(None),
                )
            )
        )
    done = 0
    for request in waiting:
        if request.approval_required and request.approved_at is None:
            continue
        with database.write() as session:
            indices = _bury_controls(session, settings, request)
        with database.read() as session:
            if _set_is_in_use(session, request.training_set_id):
                continue
            training_set = session.get_one(TrainingSet, request.training_set_id)
            models = list(session.scalars(select(Model).where(Model.training_set_id == training_set.id)))
        overwrite_rows(settings.data_dir, training_set, models, indices)
        with database.write() as session:
            session.execute(
                update(DeletionRequest)
                .where(DeletionRequest.id == request.id)
                .values(controls_erased_at=current_time(session))
            )
            record_event(session, "controls.erased", "deletion_request", request.id, ACTOR, samples=len(indices))
        done += 1
    return done


def _bury_controls(session: Session, settings: Settings, request: DeletionRequest) -> list[int]:
    """Tombstones for the request's controls; what named them stays as keyed hashes only. Returns all their rows."""
    controls = list(
        session.scalars(
            select(Sample)
            .join(
                RequestSample,
                (RequestSample.training_set_id == Sample.training_set_id)
                & (RequestSample.sample_index == Sample.index),
            )
            .where(RequestSample.request_id == request.id, Sample.split == Split.CONTROL)
        )
    )
    key = load_or_create(settings.secrets, SUPPRESSION)
    at = current_time(session)
    for sample in controls:
        if sample.erased_at is not None:
            continue
        for digest in suppression_digests(key, sample):
            session.merge(Suppression(training_set_id=sample.training_set_id, digest=digest, sample_index=sample.index))
        sample.key = sample.sha256 = sample.file_sha256 = sample.subject = None
        sample.erased_at = at
    return [sample.index for sample in controls]


def _set_is_in_use(session: Session, training_set_id: uuid.UUID) -> bool:
    return bool(
        session.scalar(select(exists().where(Job.training_set_id == training_set_id, Job.status == JobStatus.RUNNING)))
    )


def overwrite_rows(data_dir: Path, training_set: TrainingSet, models: list[Model], indices: list[int]) -> None:
    """Zeros over the samples' pixels, and over their signals in every model. Raises artifacts.NotErased."""
    if training_set.folder is None or training_set.shape is None:
        raise ValueError(f"training set {training_set.id} has no files yet")
    channels, height, width = training_set.shape
    folder = data_dir / training_set.folder
    artifacts.erase_rows(folder / "pixels.u8", channels * height * width, indices)
    artifacts.erase_rows(folder / "digests.bin", 32, indices)
    for model in models:
        if model.folder is None or model.training is None:
            continue
        references = int(model.training["references"])
        artifacts.erase_rows(data_dir / model.folder / "phi.f32", 4 * references, indices)
        artifacts.erase_rows(data_dir / model.folder / "members.u8", references, indices)


def orphaned_files(database: Database, settings: Settings) -> int:
    """Remove staging and store folders that neither a row nor a running attempt names; returns how many."""
    staging, store = settings.data_dir / "staging", settings.data_dir / "store"
    found = [*_folders(staging, 1), *_folders(store, 2)]
    if not found:
        return 0
    with database.read() as session:  # after listing: a folder that appears later is not judged by older rows
        running = session.execute(select(Job.id, Job.token).where(Job.status == JobStatus.RUNNING))
        attempts = {f"{row.id}.{row.token}" for row in running}
        named = _named_folders(session)
    removed = 0
    for folder in found:
        relative = folder.relative_to(settings.data_dir).as_posix()
        if folder.name in attempts or relative in named:
            continue
        artifacts.remove_folder(folder)
        removed += 1
        log.info("sweep.orphan_removed", folder=relative)
    return removed


def _folders(root: Path, depth: int) -> list[Path]:
    if not root.is_dir():
        return []
    if depth == 1:
        return [child for child in root.iterdir() if child.is_dir()]
    return [found for child in root.iterdir() if child.is_dir() for found in _folders(child, depth - 1)]


def _named_folders(session: Session) -> set[str]:
    folders: set[str] = set()
    for column in (TrainingSet.folder, Model.folder):
        folders.update(name for name in session.scalars(select(column)) if name)
    for column in (ModelVersion.path, AuditReport.json_path, AuditReport.pdf_path):
        folders.update(Path(path).parent.as_posix() for path in session.scalars(select(column)))
    return folders

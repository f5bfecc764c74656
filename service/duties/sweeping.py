"""SWEEP: jobs whose worker is gone, files that no row names."""

from __future__ import annotations

from pathlib import Path

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from models import artifacts, lifecycle
from models.crashes import crash_point
from models.records import (
    MAX_ATTEMPTS,
    AuditReport,
    Certificate,
    Job,
    JobStatus,
    Model,
    ModelVersion,
    TrainingSet,
)
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
        crash_point("sweep.after_commit")
    return swept


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
        crash_point("orphans.removed")
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
    for column in (ModelVersion.path, AuditReport.json_path, AuditReport.pdf_path, Certificate.json_path):
        folders.update(Path(path).parent.as_posix() for path in session.scalars(select(column)))
    return folders

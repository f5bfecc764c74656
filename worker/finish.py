"""Finish a job: its files to their place, then one transaction, checked by the token, with everything that follows."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from sqlalchemy import and_
from sqlalchemy.orm import Session

from models import artifacts, lifecycle
from models.base import now
from models.crashes import crash_point
from models.moves import advance
from models.records import Job, JobKind, JobStatus, record_event
from models.session import Database, current_time
from models.settings import Settings
from worker import commits
from worker.claim import Claim
from worker.commits import Finished, Overtaken
from worker.plan import OutputFile, Result
from worker.reporting import Written, write_certificate, write_edition, write_report

CHECKPOINT = "checkpoint.safetensors"
PUBLISHED: dict[JobKind, tuple[str, ...]] = {
    JobKind.REGISTER: ("pixels.u8", "labels.i32", "digests.bin"),
    JobKind.TRAIN: (CHECKPOINT, "phi.f32", "members.u8"),
    JobKind.UNLEARN: (CHECKPOINT,),
    JobKind.AUDIT: (),
}
OVERTAKEN = "the version that it started from is not served any more"

log = structlog.get_logger(__name__)


class BadOutput(RuntimeError):
    """A file of the pipeline is missing or has another hash than its result says."""


class Fenced(RuntimeError):
    """The job belongs to another attempt by now, or somebody asked to cancel it: nothing of this one may be written."""


def finish(database: Database, settings: Settings, taken: Claim, folder: Path, result: Result) -> None:
    """Publish what the pipeline made and commit it. Raises BadOutput; a fenced attempt leaves no trace."""
    files = {file.name: file for file in result.files}
    _check(folder, files)
    if result.outcome is None:
        raise BadOutput("the pipeline says that it succeeded but gives no outcome")
    job, written = taken.job, None
    if job.kind in (JobKind.UNLEARN, JobKind.AUDIT):
        written = write_report(database, settings, taken, folder, result)
        crash_point("report.written")
        files |= written.files
    if job.kind is JobKind.REGISTER:
        commits.suppress(database, settings, job, folder, result.outcome)
        crash_point("register.refused")
    finished = Finished(taken, folder, _place(job, taken.token), files, result.outcome, written)
    commit = {
        JobKind.REGISTER: commits.register,
        JobKind.TRAIN: commits.train,
        JobKind.UNLEARN: commits.unlearn,
        JobKind.AUDIT: commits.audit,
    }[job.kind]
    names = (*PUBLISHED[job.kind], *(written.files if written else ()))
    _publish_and_commit(
        database, settings, finished, names, dict(result.seconds), lambda session: commit(session, finished)
    )


def certify(database: Database, settings: Settings, taken: Claim, folder: Path) -> None:
    """Write and sign what a certify job is about, and commit it. There is no pipeline: nothing is computed anew."""
    started = now()
    written = _documents(database, settings, taken, folder)
    crash_point("certificate.written")
    finished = Finished(taken, folder, _place(taken.job, taken.token), written.files, {}, written)
    commit = commits.edition if taken.job.about == "audit_report" else commits.certificate
    seconds = {"certify": (now() - started).total_seconds()}
    _publish_and_commit(
        database, settings, finished, tuple(written.files), seconds, lambda session: commit(session, finished)
    )


def seconds_from_now(session: Session, seconds: float) -> datetime:
    return current_time(session) + timedelta(seconds=seconds)


def _documents(database: Database, settings: Settings, taken: Claim, folder: Path) -> Written:
    write = write_edition if taken.job.about == "audit_report" else write_certificate
    return write(database, settings, taken, folder)


def _publish_and_commit(
    database: Database,
    settings: Settings,
    finished: Finished,
    names: tuple[str, ...],
    seconds: dict[str, float],
    commit: Callable[[Session], None],
) -> None:
    taken, relative = finished.taken, finished.relative
    _publish(finished.folder, settings.data_dir, relative, names)
    crash_point("finish.published")
    try:
        with database.write() as session:
            _succeed(session, taken, seconds)
            commit(session)
            crash_point("finish.before_commit")
        crash_point("finish.after_commit")
    except Fenced:
        artifacts.remove_folder(settings.data_dir / relative)
        crash_point("finish.taken_back")
        with database.write() as session:
            # Running as this attempt even now: then somebody asked to cancel it, and came first.
            cancelled = lifecycle.cancel(session, taken.job, taken.token, actor=taken.actor)
        log.warning("job.cancelled" if cancelled else "job.fenced", job=str(taken.job.id), token=taken.token)
    except Overtaken:
        artifacts.remove_folder(settings.data_dir / relative)
        crash_point("finish.taken_back")
        with database.write() as session:
            lifecycle.requeue(session, taken.job, taken.token, actor=taken.actor, reason=OVERTAKEN, counted=False)
        log.warning("job.overtaken", job=str(taken.job.id), token=taken.token)
    except Exception:
        # The commit may have happened although it was reported failed: only the row can tell.
        if not _committed(database, taken):
            artifacts.remove_folder(settings.data_dir / relative)
            raise


def _check(folder: Path, files: dict[str, OutputFile]) -> None:
    for file in files.values():
        path = folder / file.name
        if not path.is_file() or artifacts.sha256_of(path) != file.sha256:
            raise BadOutput(f"{file.name} is missing or not what the pipeline wrote")


def _place(job: Job, token: int) -> str:
    owner: uuid.UUID | None = {
        JobKind.REGISTER: job.training_set_id,
        JobKind.CERTIFY: job.about_id,
    }.get(job.kind, job.model_id)
    if owner is None:
        raise ValueError(f"job {job.id} of kind {job.kind.value} has no owner")
    return artifacts.store(owner, job.id, token)


def _publish(folder: Path, data_dir: Path, relative: str, names: tuple[str, ...]) -> None:
    """Only what rows will name leaves the staging folder; plan, log and manifest are removed with it."""
    outgoing = folder / "outgoing"
    outgoing.mkdir()
    for name in names:
        os.rename(folder / name, outgoing / name)
    crash_point("publish.collected")
    artifacts.publish(outgoing, data_dir, relative)


def _succeed(session: Session, taken: Claim, seconds: dict[str, float]) -> None:
    """The first write of the transaction: whoever ends the job row first has decided."""
    moved = advance(
        session,
        Job,
        and_(Job.id == taken.job.id, Job.token == taken.token, Job.cancel_requested_at.is_(None)),
        JobStatus.SUCCEEDED,
        only_from=[JobStatus.RUNNING],
        lease_expires_at=None,
        finished_at=now(),
        phase="done",
        step=None,
        progress=1.0,
        eta_seconds=0.0,
        seconds=seconds,
    )
    if not moved:
        raise Fenced
    record_event(session, "job.succeeded", "job", taken.job.id, taken.actor, token=taken.token)


def _committed(database: Database, taken: Claim) -> bool:
    with database.read() as session:
        job = session.get_one(Job, taken.job.id)
        return job.status is JobStatus.SUCCEEDED and job.token == taken.token

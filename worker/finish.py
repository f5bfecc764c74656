"""Finish a job: its files to their place, then one transaction, checked by the token, with everything that follows."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import and_, insert
from sqlalchemy.orm import Session

from models import artifacts, holdings
from models.base import now
from models.moves import advance
from models.records import (
    AuditReport,
    Erasure,
    ErasureStatus,
    Job,
    JobKind,
    JobStatus,
    Model,
    ModelStatus,
    ModelVersion,
    Sample,
    Split,
    TrainingSet,
    TrainingSetStatus,
    VersionStatus,
    record_event,
)
from models.release import release, released_version
from models.session import Database, current_time
from models.settings import Settings
from worker import plans
from worker.claim import Claim
from worker.plan import PLAN_FILE, OutputFile, Result, TrainPlan, load_plan
from worker.reporting import REPORT_JSON, REPORT_PDF, write_report

CHECKPOINT = "checkpoint.safetensors"
PUBLISHED = {
    JobKind.REGISTER: ("pixels.u8", "labels.i32", "digests.bin"),
    JobKind.TRAIN: (CHECKPOINT, "phi.f32", "members.u8"),
    JobKind.UNLEARN: (CHECKPOINT, REPORT_JSON, REPORT_PDF),
}
ROWS_AT_ONCE = 5000

log = structlog.get_logger(__name__)


class BadOutput(RuntimeError):
    """A file of the pipeline is missing or has another hash than its result says."""


class Fenced(RuntimeError):
    """The job belongs to another attempt by now: nothing of this one may be written."""


def finish(database: Database, settings: Settings, taken: Claim, folder: Path, result: Result) -> None:
    """Publish what the pipeline made and commit it. Raises BadOutput; a fenced attempt leaves no trace."""
    files = {file.name: file for file in result.files}
    _check(folder, files)
    job = taken.job
    if job.kind is JobKind.UNLEARN:
        files |= write_report(database, settings, taken, folder, result)
    relative = artifacts.store(_owner(job), job.id, taken.token)
    _publish(folder, settings.data_dir, relative, PUBLISHED[job.kind])
    commit: Callable[[Session], None] = {
        JobKind.REGISTER: lambda session: _register(session, taken, relative, folder, result),
        JobKind.TRAIN: lambda session: _train(session, taken, relative, folder, files, result),
        JobKind.UNLEARN: lambda session: _unlearn(session, taken, relative, files, result),
    }[job.kind]
    try:
        with database.write() as session:
            _succeed(session, taken, result)
            commit(session)
    except Fenced:
        artifacts.remove_folder(settings.data_dir / relative)
        log.warning("job.fenced", job=str(job.id), token=taken.token)
    except Exception:
        # The commit may have happened although it was reported failed: only the row can tell.
        if not _committed(database, taken):
            artifacts.remove_folder(settings.data_dir / relative)
            raise


def seconds_from_now(session: Session, seconds: float) -> datetime:
    return current_time(session) + timedelta(seconds=seconds)


def _check(folder: Path, files: dict[str, OutputFile]) -> None:
    for file in files.values():
        path = folder / file.name
        if not path.is_file() or artifacts.sha256_of(path) != file.sha256:
            raise BadOutput(f"{file.name} is missing or not what the pipeline wrote")


def _owner(job: Job) -> uuid.UUID:
    owner = job.training_set_id if job.kind is JobKind.REGISTER else job.model_id
    if owner is None:
        raise ValueError(f"job {job.id} of kind {job.kind.value} has no owner")
    return owner


def _publish(folder: Path, data_dir: Path, relative: str, names: tuple[str, ...]) -> None:
    """Only what rows will name leaves the staging folder; plan, log and manifest are removed with it."""
    outgoing = folder / "outgoing"
    outgoing.mkdir()
    for name in names:
        os.rename(folder / name, outgoing / name)
    artifacts.publish(outgoing, data_dir, relative)


def _succeed(session: Session, taken: Claim, result: Result) -> None:
    """The first write of the transaction: whoever ends the job row first has decided."""
    moved = advance(
        session,
        Job,
        and_(Job.id == taken.job.id, Job.token == taken.token),
        JobStatus.SUCCEEDED,
        only_from=[JobStatus.RUNNING],
        lease_expires_at=None,
        finished_at=now(),
        phase="done",
        step=None,
        progress=1.0,
        eta_seconds=0.0,
        seconds=dict(result.seconds),
    )
    if not moved:
        raise Fenced
    record_event(session, "job.succeeded", "job", taken.job.id, taken.actor, token=taken.token)


def _committed(database: Database, taken: Claim) -> bool:
    with database.read() as session:
        job = session.get_one(Job, taken.job.id)
        return job.status is JobStatus.SUCCEEDED and job.token == taken.token


def _register(session: Session, taken: Claim, relative: str, folder: Path, result: Result) -> None:
    outcome = _outcome(result)
    training_set_id = _owner(taken.job)
    with (folder / "manifest.jsonl").open(encoding="utf-8") as manifest:
        samples = _sample_rows(training_set_id, manifest)
        while rows := list(islice(samples, ROWS_AT_ONCE)):
            session.execute(insert(Sample), rows)
    advance(
        session,
        TrainingSet,
        TrainingSet.id == training_set_id,
        TrainingSetStatus.READY,
        shape=list(outcome["shape"]),
        classes=list(outcome["classes"]),
        rows=outcome["rows"],
        manifest_sha256=outcome["manifest_sha256"],
        folder=relative,
    )
    record_event(
        session,
        "training_set.ready",
        "training_set",
        training_set_id,
        taken.actor,
        rows=outcome["rows"],
        manifest_sha256=outcome["manifest_sha256"],
    )


def _sample_rows(training_set_id: uuid.UUID, lines: Any) -> Iterator[dict[str, Any]]:
    for line in lines:
        entry = json.loads(line)
        yield {
            "training_set_id": training_set_id,
            "index": entry["index"],
            "key": entry["key"],
            "sha256": entry["sha256"],
            "file_sha256": entry["file_sha256"],
            "label": entry["label"],
            "split": Split(entry["split"]),
        }


def _train(
    session: Session, taken: Claim, relative: str, folder: Path, files: dict[str, OutputFile], result: Result
) -> None:
    model = session.get_one(Model, taken.job.model_id)
    plan = load_plan(folder / PLAN_FILE)
    if not isinstance(plan, TrainPlan):
        raise TypeError(f"a model is made of a train job, not of kind {plan.kind}")
    never_trained = holdings.train_rows(session, model.training_set_id) - set(plan.train)
    version = _version(taken, relative, files[CHECKPOINT], parent=None, verdict=None)
    session.add(version)
    session.flush()
    release(session, model, version, actor=taken.actor, reason=None)
    advance(
        session,
        Model,
        Model.id == model.id,
        ModelStatus.READY,
        training=_outcome(result) | {holdings.NEVER_TRAINED: sorted(never_trained)},
        folder=relative,
    )


def _unlearn(session: Session, taken: Claim, relative: str, files: dict[str, OutputFile], result: Result) -> None:
    model = session.get_one(Model, taken.job.model_id)
    verdict = _outcome(result)["after"]["audit"]["verdict"]
    parent = released_version(session, model)
    served = plans.forgetting(session, taken.job)
    version = _version(taken, relative, files[CHECKPOINT], parent=parent.id if parent else None, verdict=verdict)
    session.add(version)
    session.flush()
    session.add(_audit_report(taken, version, relative, files, verdict))
    if verdict == "pass":
        release(session, model, version, actor=taken.actor, reason=None)
        target = ErasureStatus.DONE
    else:
        advance(
            session,
            ModelVersion,
            ModelVersion.id == version.id,
            VersionStatus.QUARANTINED,
            reason=f"audit verdict: {verdict}",
        )
        record_event(
            session,
            "version.quarantined",
            "model",
            model.id,
            taken.actor,
            version=version.number,
            sha256=version.sha256,
            verdict=verdict,
        )
        target = ErasureStatus.AWAITING_RELEASE
    finished = now() if target is ErasureStatus.DONE else None
    # Those that waited for an earlier version to be released were forgotten by this one too.
    starts = [ErasureStatus.RUNNING, ErasureStatus.AWAITING_RELEASE] if finished else [ErasureStatus.RUNNING]
    moved = advance(
        session,
        Erasure,
        Erasure.id.in_(served),
        target,
        only_from=starts,
        version_id=version.id,
        finished_at=finished,
    )
    record_event(
        session, f"erasures.{target.value}", "job", taken.job.id, taken.actor, erasures=moved, version=version.number
    )


def _version(
    taken: Claim, relative: str, file: OutputFile, *, parent: uuid.UUID | None, verdict: str | None
) -> ModelVersion:
    if taken.job.model_id is None or taken.job.version_number is None:
        raise ValueError(f"job {taken.job.id} was claimed without a version number")
    return ModelVersion(
        model_id=taken.job.model_id,
        number=taken.job.version_number,
        parent_id=parent,
        job_id=taken.job.id,
        path=f"{relative}/{file.name}",
        sha256=file.sha256,
        size=file.size,
        verdict=verdict,
        status=VersionStatus.CANDIDATE,
    )


def _audit_report(
    taken: Claim, version: ModelVersion, relative: str, files: dict[str, OutputFile], verdict: str
) -> AuditReport:
    return AuditReport(
        job_id=taken.job.id,
        model_id=version.model_id,
        version_id=version.id,
        verdict=verdict,
        json_path=f"{relative}/{REPORT_JSON}",
        json_sha256=files[REPORT_JSON].sha256,
        pdf_path=f"{relative}/{REPORT_PDF}",
        pdf_sha256=files[REPORT_PDF].sha256,
    )


def _outcome(result: Result) -> dict[str, Any]:
    if result.outcome is None:
        raise BadOutput("the pipeline says that it succeeded but gives no outcome")
    return result.outcome

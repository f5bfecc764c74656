"""What must hold among rows: nothing lost, nothing twice, nothing that waits for nobody."""

from __future__ import annotations

import uuid
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from models import holdings
from models.records import (
    MAX_ATTEMPTS,
    AuditReport,
    Certificate,
    DeletionRequest,
    Erasure,
    ErasureStatus,
    Event,
    Job,
    JobKind,
    JobStatus,
    Model,
    ModelStatus,
    ModelVersion,
    RequestStatus,
    TrainingSet,
    TrainingSetStatus,
    VersionStatus,
)
from models.session import current_time
from models.settling import derived_status

LIVE_JOBS = (JobStatus.QUEUED, JobStatus.RUNNING)
MAKES_A_VERSION = (JobKind.TRAIN, JobKind.UNLEARN)
MOVING = (RequestStatus.QUEUED, RequestStatus.RUNNING)  # every other status is an end, or says what a person must do


def missing(session: Session, accepted: Collection[uuid.UUID]) -> Iterator[str]:
    stored = set(session.scalars(select(DeletionRequest.id)))
    for lost in sorted(set(accepted) - stored):
        yield f"request {lost} was accepted and is gone"


def stuck(session: Session) -> Iterator[str]:
    """What is not at its end, and that neither a worker, the dispatcher nor a person is led to."""
    jobs = {job.id: job for job in session.scalars(select(Job))}
    models = {model.id: model for model in session.scalars(select(Model))}
    versions = {version.id: version for version in session.scalars(select(ModelVersion))}
    live = {(job.kind, job.model_id, job.training_set_id) for job in jobs.values() if job.status in LIVE_JOBS}
    trained = {model for kind, model, _ in live if kind is JobKind.TRAIN}
    registered = {made for kind, _, made in live if kind is JobKind.REGISTER}
    for erasure in session.scalars(select(Erasure)):
        why = _stuck(
            erasure,
            jobs.get(erasure.job_id) if erasure.job_id else None,
            models[erasure.model_id],
            versions.get(erasure.version_id) if erasure.version_id else None,
        )
        if why is not None:
            yield f"erasure {erasure.id} of request {erasure.request_id} {why}"
    for model in models.values():
        if model.status is ModelStatus.TRAINING and model.id not in trained:
            yield f"model {model.name} is training without a live job"
    for made in session.scalars(select(TrainingSet)):
        if made.status is TrainingSetStatus.REGISTERING and made.id not in registered:
            yield f"training set {made.name} is registering without a live job"
    yield from _requests_without_work(session)


def _stuck(erasure: Erasure, job: Job | None, model: Model, version: ModelVersion | None) -> str | None:
    if erasure.status is ErasureStatus.RUNNING and (job is None or job.status is not JobStatus.RUNNING):
        return "is running in a job that is not"
    if erasure.status is ErasureStatus.OPEN and job is not None and job.status not in LIVE_JOBS:
        return f"is open in job {job.id}, which is {job.status.value}: nobody plans it again"
    if erasure.status is ErasureStatus.OPEN and job is not None and job.kind is not JobKind.UNLEARN:
        return f"is attached to a job of kind {job.kind.value}"
    if erasure.status is ErasureStatus.AWAITING_RELEASE and (
        version is None or version.status is not VersionStatus.QUARANTINED
    ):
        return "awaits the release of a version that is not quarantined"
    if erasure.status is ErasureStatus.DONE and (version is None or version.model_id != model.id):
        return "is done without a version as evidence"
    return None


def _requests_without_work(session: Session) -> Iterator[str]:
    """Queued or running by its status, and no erasure is, nor are there controls left to erase."""
    unfinished = select(Erasure.request_id).where(Erasure.status.in_([ErasureStatus.OPEN, ErasureStatus.RUNNING]))
    working = set(session.scalars(unfinished))
    for request in session.scalars(select(DeletionRequest).where(DeletionRequest.status.in_(MOVING))):
        controls_wait = request.has_controls and request.controls_erased_at is None
        if request.id not in working and not controls_wait:
            yield f"request {request.id} is {request.status.value}, and nothing of it is left to do"


def wrong_status(session: Session) -> Iterator[str]:
    for request, right in session.execute(select(DeletionRequest, derived_status())):
        if request.status.value != right:
            yield f"request {request.id} is stored as {request.status.value}, but its erasures say {right}"


def jobs(session: Session) -> Iterator[str]:
    rows = list(session.scalars(select(Job)))
    running = Counter(job.model_id for job in rows if job.model_id and job.status is JobStatus.RUNNING)
    unlearning = Counter(job.model_id for job in rows if job.kind is JobKind.UNLEARN and job.status in LIVE_JOBS)
    for model, number in running.items():
        if number > 1:
            yield f"model {model} has {number} running jobs"
    for model, number in unlearning.items():
        if number > 1:
            yield f"model {model} has {number} live unlearn jobs"
    ended = select(Event.record_id, Event.name).where(Event.name.in_(["job.succeeded", "job.failed"]))
    told = Counter(tuple(row) for row in session.execute(ended))
    for job in rows:
        if job.attempts > MAX_ATTEMPTS or job.attempts < 0:
            yield f"job {job.id} counts {job.attempts} attempts"
        if (job.lease_expires_at is not None) != (job.status is JobStatus.RUNNING):
            yield f"job {job.id} is {job.status.value}, and its lease says otherwise"
        if (job.finished_at is None) != (job.status in LIVE_JOBS):
            yield f"job {job.id} is {job.status.value}, and its end says otherwise"
        for status in (JobStatus.SUCCEEDED, JobStatus.FAILED):
            number = told[str(job.id), f"job.{status.value}"]
            if number != (job.status is status):
                yield f"job {job.id} is {job.status.value}, and the log has it {status.value} {number} times"


def expired(session: Session) -> Iterator[str]:
    at = current_time(session)
    for job in session.scalars(select(Job).where(Job.status == JobStatus.RUNNING, Job.lease_expires_at < at)):
        yield f"job {job.id} is running although its lease expired"


def versions(session: Session) -> Iterator[str]:
    """One version for each job that makes one and succeeded, one report for each job that writes one; no gaps."""
    made: defaultdict[uuid.UUID, list[int]] = defaultdict(list)
    of_job: Counter[uuid.UUID] = Counter()
    for version in session.scalars(select(ModelVersion)):
        made[version.model_id].append(version.number)
        of_job[version.job_id] += 1
    for model, numbers in made.items():
        if sorted(numbers) != list(range(1, len(numbers) + 1)):
            yield f"model {model} has versions {sorted(numbers)}"
    first = AuditReport.edition == 1
    reports = Counter(session.scalars(select(AuditReport.job_id).where(first)))
    certificates = Counter(session.scalars(select(Certificate.job_id)))
    for job in session.scalars(select(Job)):
        done = job.status is JobStatus.SUCCEEDED
        if of_job.pop(job.id, 0) != (done and job.kind in MAKES_A_VERSION):
            yield f"{job.kind.value} job {job.id} is {job.status.value}, and its versions do not agree"
        if reports.pop(job.id, 0) != (done and job.kind in (JobKind.UNLEARN, JobKind.AUDIT)):
            yield f"{job.kind.value} job {job.id} is {job.status.value}, and its reports do not agree"
        if certificates.pop(job.id, 0) != (done and job.about == "deletion_request"):
            yield f"{job.kind.value} job {job.id} is {job.status.value}, and its certificates do not agree"
    for left in [*of_job, *reports, *certificates]:
        yield f"what job {left} made is there, and the job is not"


def served(session: Session) -> Iterator[str]:
    """A model that is ready serves one version, which knows nothing that the model has erased; no other serves any."""
    released: defaultdict[uuid.UUID, list[ModelVersion]] = defaultdict(list)
    for version in session.scalars(select(ModelVersion).where(ModelVersion.status == VersionStatus.RELEASED)):
        released[version.model_id].append(version)
    for model in session.scalars(select(Model)):
        numbers = [version.number for version in released[model.id]]
        if numbers != ([model.released_number] if model.status is ModelStatus.READY else []) and not (
            model.status is ModelStatus.RETIRED and len(numbers) <= 1
        ):
            yield f"model {model.name} is {model.status.value}, says {model.released_number} and serves {numbers}"
        for version in released[model.id]:
            if known := holdings.still_known(session, version):
                yield f"model {model.name} serves version {version.number}, which knows {len(known)} erased samples"
    candidates = select(func.count()).select_from(ModelVersion).where(ModelVersion.status == VersionStatus.CANDIDATE)
    if number := session.scalar(candidates):
        yield f"{number} versions have not passed their gate"

"""The row of a new version, a candidate until the gate has decided."""

from __future__ import annotations

import uuid

from models.records import ModelVersion, VersionStatus
from worker.commits.finished import Finished

CHECKPOINT = "checkpoint.safetensors"


def new_version(finished: Finished, *, parent: uuid.UUID | None, verdict: str | None) -> ModelVersion:
    job, file = finished.taken.job, finished.files[CHECKPOINT]
    if job.model_id is None or job.version_number is None:
        raise ValueError(f"job {job.id} was claimed without a version number")
    return ModelVersion(
        model_id=job.model_id,
        number=job.version_number,
        parent_id=parent,
        job_id=job.id,
        path=finished.path(file.name),
        sha256=file.sha256,
        size=file.size,
        verdict=verdict,
        status=VersionStatus.CANDIDATE,
    )

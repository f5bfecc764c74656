"""Jobs."""

from __future__ import annotations

import uuid
from datetime import datetime

from pydantic import Field

from models.job import JobKind, JobStatus
from service.schemas.common import Answer, Details, Links


class JobAnswer(Answer):
    id: uuid.UUID
    kind: JobKind
    status: JobStatus
    training_set: str | None
    model: str | None
    version: int | None = Field(description="Number of the version it makes.")
    phase: str | None
    step: str | None
    progress: float = Field(description="0 to 1.")
    eta_seconds: float | None = Field(description="Null until it can be estimated from what was measured.")
    attempts: int
    requests: list[uuid.UUID] = Field(description="Deletion requests that an unlearn job serves.")
    due_at: datetime | None = Field(description="Of the request in it that is due first, among those not ended.")
    days_left: int | None = Field(description="Calendar days until then; negative when overdue.")
    retry_of: uuid.UUID | None = Field(description="The job that this one tries again.")
    cancel_requested_at: datetime | None = Field(description="Its worker stops it soon after.")
    worker: str | None
    error: Details | None
    seconds: Details | None = Field(description="By phase.")
    created_at: datetime
    not_before: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    links: Links


class JobProgress(Answer):
    status: JobStatus
    phase: str | None
    step: str | None
    progress: float = Field(description="0 to 1.")
    eta_seconds: float | None

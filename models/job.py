"""One run of the worker. The row is the truth; a message is a hint with its id."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import BigInteger, ForeignKey, Index, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, new_id, now, status_type
from models.moves import Moves

MAX_ATTEMPTS = 3  # a worker lost this often fails the job


class JobKind(StrEnum):
    REGISTER = "register"
    TRAIN = "train"
    UNLEARN = "unlearn"
    AUDIT = "audit"
    CERTIFY = "certify"


class JobStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"  # claimed: a lease and a token
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # error says why; retry makes a new job
    CANCELLED = "cancelled"


class Job(Base):
    __tablename__ = "jobs"
    __table_args__ = (
        Index(
            "uq_jobs_one_running_a_model",
            "model_id",
            unique=True,
            sqlite_where=text("status = 'running'"),
            postgresql_where=text("status = 'running'"),
        ),
        Index(
            "uq_jobs_one_live_unlearn_a_model",
            "model_id",
            unique=True,
            sqlite_where=text("kind = 'unlearn' AND status IN ('queued', 'running')"),
            postgresql_where=text("kind = 'unlearn' AND status IN ('queued', 'running')"),
        ),
        Index(
            "uq_jobs_one_live_certify",
            "about_id",
            unique=True,
            sqlite_where=text("kind = 'certify' AND status IN ('queued', 'running')"),
            postgresql_where=text("kind = 'certify' AND status IN ('queued', 'running')"),
        ),
        Index("ix_jobs_status_lease", "status", "lease_expires_at"),
        # Lists are ranges of these, one for each kind and status that is asked for.
        Index("ix_jobs_kind_status", "kind", "status", "id"),
        Index("ix_jobs_model_kind_status", "model_id", "kind", "status", "id"),
    )
    MOVES: ClassVar[Moves] = {
        JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.CANCELLED}),
        JobStatus.RUNNING: frozenset({JobStatus.QUEUED, JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED}),
        JobStatus.SUCCEEDED: frozenset(),
        JobStatus.FAILED: frozenset(),
        JobStatus.CANCELLED: frozenset(),
    }

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    kind: Mapped[JobKind] = mapped_column(status_type(JobKind, "kind"))
    status: Mapped[JobStatus] = mapped_column(status_type(JobStatus, "status"), default=JobStatus.QUEUED)
    training_set_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("training_sets.id"))
    model_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("models.id"))
    about: Mapped[str | None] = mapped_column(String(32))  # certify: deletion_request | audit_report
    about_id: Mapped[uuid.UUID | None]  # its id; an audit report: of its newest edition when the job was made
    retry_of_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("jobs.id"))
    seed: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(default=now)
    not_before: Mapped[datetime | None]

    hinted_at: Mapped[datetime | None]  # last message
    hints: Mapped[int] = mapped_column(default=0)

    attempts: Mapped[int] = mapped_column(default=0)  # that were counted: claims less releases
    token: Mapped[int] = mapped_column(default=0)  # fences every write of an attempt
    lease_expires_at: Mapped[datetime | None]
    worker: Mapped[str | None] = mapped_column(String(255))
    version_number: Mapped[int | None]  # fixed at the claim
    cancel_requested_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    phase: Mapped[str | None] = mapped_column(String(32))
    step: Mapped[str | None] = mapped_column(Text)
    progress: Mapped[float] = mapped_column(default=0.0)  # 0..1
    eta_seconds: Mapped[float | None]
    error: Mapped[dict[str, Any] | None]  # {"code", "detail"}
    seconds: Mapped[dict[str, Any] | None]  # by phase
    measured: Mapped[dict[str, Any] | None]  # {"peak_process_bytes", "peak_gpu_bytes"} where it ran a pipeline, and
    # of an unlearn job, for estimates, {"forget", "accuracy_before", "accuracy_after"}

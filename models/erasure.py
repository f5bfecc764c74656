"""One deletion request in one model: the unit of work."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum
from typing import ClassVar

from sqlalchemy import ForeignKey, Index, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, new_id, now, status_type
from models.moves import Moves


class ErasureStatus(StrEnum):
    OPEN = "open"  # waits for a job, or is attached to a queued one
    RUNNING = "running"
    AWAITING_RELEASE = "awaiting_release"  # its version is quarantined: a person decides
    DONE = "done"  # a released version has forgotten its samples
    FAILED = "failed"
    ON_HOLD = "on_hold"
    CANCELLED = "cancelled"
    NOT_APPLICABLE = "not_applicable"  # the model was retired, or its training failed


class Erasure(Base):
    __tablename__ = "erasures"
    __table_args__ = (
        UniqueConstraint("request_id", "model_id"),
        Index("ix_erasures_model_status", "model_id", "status"),
        Index("ix_erasures_model_request", "model_id", "request_id"),
        Index(
            "ix_erasures_signals",
            "id",
            sqlite_where=text("status = 'done' AND signals_erased_at IS NULL"),
            postgresql_where=text("status = 'done' AND signals_erased_at IS NULL"),
        ),
    )
    SETTLES: ClassVar[str] = "request_id"  # whose status follows from this one
    MOVES: ClassVar[Moves] = {
        ErasureStatus.OPEN: frozenset(
            {
                ErasureStatus.RUNNING,
                ErasureStatus.ON_HOLD,
                ErasureStatus.DONE,  # already forgotten by the released version
                ErasureStatus.CANCELLED,
                ErasureStatus.NOT_APPLICABLE,
            }
        ),
        ErasureStatus.RUNNING: frozenset(
            {ErasureStatus.DONE, ErasureStatus.OPEN, ErasureStatus.AWAITING_RELEASE, ErasureStatus.FAILED}
        ),
        ErasureStatus.AWAITING_RELEASE: frozenset(
            {ErasureStatus.DONE, ErasureStatus.OPEN, ErasureStatus.NOT_APPLICABLE}
        ),
        ErasureStatus.FAILED: frozenset({ErasureStatus.OPEN, ErasureStatus.NOT_APPLICABLE}),
        ErasureStatus.ON_HOLD: frozenset({ErasureStatus.OPEN, ErasureStatus.CANCELLED, ErasureStatus.NOT_APPLICABLE}),
        ErasureStatus.DONE: frozenset(),
        ErasureStatus.CANCELLED: frozenset(),
        ErasureStatus.NOT_APPLICABLE: frozenset(),
    }

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    request_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("deletion_requests.id"))
    model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("models.id"))
    status: Mapped[ErasureStatus] = mapped_column(status_type(ErasureStatus, "status"), default=ErasureStatus.OPEN)
    job_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("jobs.id"), index=True)
    version_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("model_versions.id"))  # its evidence
    reason: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=now)
    finished_at: Mapped[datetime | None]
    signals_erased_at: Mapped[datetime | None]  # the model's reference signals of its samples read back as zeros

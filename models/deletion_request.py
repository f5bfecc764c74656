"""Deletion requests, the samples they name, and their status computed from their erasures."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    ColumnElement,
    ForeignKey,
    Index,
    LargeBinary,
    String,
    UniqueConstraint,
    and_,
    case,
    exists,
    literal,
    text,
)
from sqlalchemy.orm import Mapped, column_property, mapped_column

from models.base import Base, new_id, now
from models.erasure import Erasure, ErasureStatus


class RequestStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    AWAITING_APPROVAL = "awaiting_approval"
    AWAITING_RELEASE = "awaiting_release"  # a version was made, its audit did not release it
    ON_HOLD = "on_hold"
    COMPLETED = "completed"
    PARTIALLY_COMPLETED = "partially_completed"  # done in some models, failed or cancelled in others
    FAILED = "failed"
    CANCELLED = "cancelled"
    REJECTED = "rejected"


class DeletionRequest(Base):
    __tablename__ = "deletion_requests"
    __table_args__ = (
        UniqueConstraint("application_id", "idempotency_key"),
        Index("ix_deletion_requests_due_at", "due_at"),
        # What the dispatcher looks for in every round, among however many requests are stored.
        Index(
            "ix_deletion_requests_uncertified",
            "id",
            sqlite_where=text("certified_at IS NULL"),
            postgresql_where=text("certified_at IS NULL"),
        ),
        Index(
            "ix_deletion_requests_unerased",
            "id",
            sqlite_where=text("samples_erased_at IS NULL"),
            postgresql_where=text("samples_erased_at IS NULL"),
        ),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    application_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("applications.id"), index=True)
    training_set_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("training_sets.id"))
    submitted_by: Mapped[str] = mapped_column(String(64))  # id of the API key
    external_id: Mapped[str | None] = mapped_column(String(255))
    regulation: Mapped[str] = mapped_column(String(32))
    ground: Mapped[str | None] = mapped_column(String(64))
    submitted_at: Mapped[datetime | None]  # as the application says
    received_at: Mapped[datetime] = mapped_column(default=now)
    due_at: Mapped[datetime]
    idempotency_key: Mapped[str | None] = mapped_column(String(255))
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary(32))  # HMAC-SHA-256 of the body
    selectors: Mapped[list[Any] | None]  # as answered at receipt: selector, outcome, indices; None once certified
    resolution: Mapped[dict[str, Any] | None]  # {"outcomes": {outcome: n}, "identified_by": {kind: n}}, kept
    approval_required: Mapped[bool] = mapped_column(default=False)
    approved_at: Mapped[datetime | None]
    rejected_at: Mapped[datetime | None]
    has_controls: Mapped[bool] = mapped_column(default=False)
    controls_erased_at: Mapped[datetime | None]
    samples_erased_at: Mapped[datetime | None]  # pixels and names of its training samples are gone
    certified_at: Mapped[datetime | None]  # None again once a later fact asks for a new edition
    samples_kept: Mapped[dict[str, Any] | None]  # {"samples", "models", "reason"}: why they are not


class RequestSample(Base):
    """A sample that a request erases: those named and their exact copies."""

    __tablename__ = "request_samples"
    __table_args__ = (Index("ix_request_samples_sample", "training_set_id", "sample_index"),)

    request_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("deletion_requests.id"), primary_key=True)
    sample_index: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    training_set_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("training_sets.id"))


def _status() -> ColumnElement[str]:
    """First rule that holds: what a person must do, then what still moves, then how it ended."""
    request = DeletionRequest

    def some(*states: ErasureStatus) -> ColumnElement[bool]:
        return exists().where(Erasure.request_id == request.id, Erasure.status.in_(states)).correlate(request)

    ended_well = some(ErasureStatus.DONE, ErasureStatus.NOT_APPLICABLE)
    controls_wait = and_(request.has_controls, request.controls_erased_at.is_(None))
    return case(
        (request.rejected_at.is_not(None), RequestStatus.REJECTED.value),
        (some(ErasureStatus.ON_HOLD), RequestStatus.ON_HOLD.value),
        (some(ErasureStatus.RUNNING), RequestStatus.RUNNING.value),
        (
            and_(some(ErasureStatus.OPEN), request.approval_required, request.approved_at.is_(None)),
            RequestStatus.AWAITING_APPROVAL.value,
        ),
        (some(ErasureStatus.OPEN), RequestStatus.QUEUED.value),
        (some(ErasureStatus.AWAITING_RELEASE), RequestStatus.AWAITING_RELEASE.value),
        (
            and_(some(ErasureStatus.FAILED, ErasureStatus.CANCELLED), ended_well),
            RequestStatus.PARTIALLY_COMPLETED.value,
        ),
        (some(ErasureStatus.FAILED), RequestStatus.FAILED.value),
        (some(ErasureStatus.CANCELLED), RequestStatus.CANCELLED.value),
        (controls_wait, RequestStatus.QUEUED.value),
        else_=literal(RequestStatus.COMPLETED.value),
    )


DeletionRequest.status = column_property(_status(), deferred=False)

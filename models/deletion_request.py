"""Deletion requests and the samples they name. Their status follows from their erasures: see models.settling."""

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
    Text,
    UniqueConstraint,
    literal_column,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, new_id, now, status_type


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


LIVE = (
    RequestStatus.QUEUED,
    RequestStatus.RUNNING,
    RequestStatus.AWAITING_APPROVAL,
    RequestStatus.AWAITING_RELEASE,
    RequestStatus.ON_HOLD,
)  # still due: something has to be done about them
# Written out, for a partial index serves a query only where the planner finds these very words in it.
# Without a type: of a boolean, SQLite would be asked whether it is = 1, which are other words.
IS_LIVE: ColumnElement[Any] = literal_column("status IN ({})".format(", ".join(f"'{status.value}'" for status in LIVE)))
IS_UNCERTIFIED: ColumnElement[Any] = literal_column("certified_at IS NULL AND status IN ('completed', 'rejected')")
IS_UNERASED: ColumnElement[Any] = literal_column("samples_erased_at IS NULL AND status = 'completed'")


def _live(name: str, *columns: str) -> Index:
    return Index(name, *columns, sqlite_where=IS_LIVE, postgresql_where=IS_LIVE)


class DeletionRequest(Base):
    __tablename__ = "deletion_requests"
    __table_args__ = (
        UniqueConstraint("application_id", "idempotency_key"),
        # Lists go by id within what they are filtered by, or by due date: however many are stored, a page is the end of
        # a few ranges (service.lists.listing), one for each status and regulation that is asked for.
        Index("ix_deletion_requests_application", "application_id", "id"),
        Index("ix_deletion_requests_status", "status", "regulation", "id"),
        Index("ix_deletion_requests_application_status", "application_id", "status", "regulation", "id"),
        Index("ix_deletion_requests_set_status", "training_set_id", "status", "regulation", "id"),
        Index(
            "ix_deletion_requests_application_set_status",
            "application_id",
            "training_set_id",
            "status",
            "regulation",
            "id",
        ),
        _live("ix_deletion_requests_live_due", "due_at", "id"),
        _live("ix_deletion_requests_live_status", "status", "regulation", "due_at", "id"),
        _live("ix_deletion_requests_live_application", "application_id", "status", "regulation", "due_at", "id"),
        _live("ix_deletion_requests_live_set", "training_set_id", "status", "regulation", "due_at", "id"),
        _live(
            "ix_deletion_requests_live_application_set",
            "application_id",
            "training_set_id",
            "status",
            "regulation",
            "due_at",
            "id",
        ),
        Index("ix_deletion_requests_external", "external_id", "id"),
        # What the dispatcher looks for in every round, among however many requests are stored and however many wait.
        Index(
            "ix_deletion_requests_uncertified",
            "status",
            "id",
            sqlite_where=IS_UNCERTIFIED,
            postgresql_where=IS_UNCERTIFIED,
        ),
        Index("ix_deletion_requests_unerased", "status", "id", sqlite_where=IS_UNERASED, postgresql_where=IS_UNERASED),
        Index(
            "ix_deletion_requests_controls",
            "id",
            sqlite_where=text("has_controls = 1 AND controls_erased_at IS NULL"),
            postgresql_where=text("has_controls AND controls_erased_at IS NULL"),
        ),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    application_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("applications.id"))
    training_set_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("training_sets.id"))
    status: Mapped[RequestStatus] = mapped_column(
        status_type(RequestStatus, "status"), default=RequestStatus.QUEUED
    )  # stored by models.settling, in the transaction that changes what it follows from
    submitted_by: Mapped[str] = mapped_column(String(64))  # id of the API key
    external_id: Mapped[str | None] = mapped_column(String(255))
    regulation: Mapped[str] = mapped_column(String(32))
    ground: Mapped[str | None] = mapped_column(String(64))
    submitted_at: Mapped[datetime | None]  # as the application says
    received_at: Mapped[datetime] = mapped_column(default=now)
    due_at: Mapped[datetime]
    original_due_at: Mapped[datetime | None]  # before the one extension
    extended_at: Mapped[datetime | None]
    extension_reason: Mapped[str | None] = mapped_column(Text)
    due_soon_told_at: Mapped[datetime | None]  # events that the dispatcher records once for each due date
    overdue_told_at: Mapped[datetime | None]
    idempotency_key: Mapped[str | None] = mapped_column(String(255))
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary(32))  # HMAC-SHA-256 of the body
    selectors: Mapped[list[Any] | None]  # as answered at receipt: selector, outcome, indices; None once certified
    resolution: Mapped[dict[str, Any] | None]  # {"outcomes": {outcome: n}, "identified_by": {kind: n}}, kept
    approval_required: Mapped[bool] = mapped_column(default=False)
    approved_at: Mapped[datetime | None]
    rejected_at: Mapped[datetime | None]
    held_at: Mapped[datetime | None]  # holds back the controls; its erasures are on hold themselves
    cancelled_at: Mapped[datetime | None]
    decision_reason: Mapped[str | None] = mapped_column(Text)  # of the last decision but for an extension
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

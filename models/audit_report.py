"""Audit reports: one a job, later facts make a new edition."""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, new_id, now


class AuditReport(Base):
    __tablename__ = "audit_reports"
    __table_args__ = (
        UniqueConstraint("job_id", "edition"),
        Index("ix_audit_reports_version", "version_id", "edition"),
        Index("ix_audit_reports_made", "created_at", "id"),
        Index("ix_audit_reports_verdict", "verdict", "created_at", "id"),
        Index("ix_audit_reports_model_made", "model_id", "created_at", "id"),
        Index("ix_audit_reports_model_verdict", "model_id", "verdict", "created_at", "id"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    job_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("jobs.id"))
    model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("models.id"))
    version_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("model_versions.id"))
    edition: Mapped[int] = mapped_column(default=1)
    supersedes_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("audit_reports.id"))
    kind: Mapped[str] = mapped_column(
        String(32), default="audit_report", server_default="audit_report"
    )  # audit_report | re_audit
    verdict: Mapped[str] = mapped_column(String(32))  # not_audited: a re-audit without a forget set
    json_path: Mapped[str] = mapped_column(String(255))  # relative to the data folder
    json_sha256: Mapped[str] = mapped_column(String(64))
    pdf_path: Mapped[str] = mapped_column(String(255))
    pdf_sha256: Mapped[str] = mapped_column(String(64))
    csv_path: Mapped[str | None] = mapped_column(String(255))  # None, and so below: made before reports were signed
    csv_sha256: Mapped[str | None] = mapped_column(String(64))
    envelope_path: Mapped[str | None] = mapped_column(String(255))
    envelope_sha256: Mapped[str | None] = mapped_column(String(64))
    key_id: Mapped[str | None] = mapped_column(ForeignKey("signing_keys.key_id"))
    created_at: Mapped[datetime] = mapped_column(default=now)

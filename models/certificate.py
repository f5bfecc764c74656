"""Erasure certificates: one a request over all its models, later facts make a new edition."""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, new_id, now


class Certificate(Base):
    __tablename__ = "certificates"
    __table_args__ = (UniqueConstraint("request_id", "edition"),)

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    request_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("deletion_requests.id"))
    job_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("jobs.id"))
    edition: Mapped[int] = mapped_column(default=1)
    supersedes_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("certificates.id"))
    outcome: Mapped[str] = mapped_column(String(32))  # completed | rejected
    json_path: Mapped[str] = mapped_column(String(255))  # relative to the data folder
    json_sha256: Mapped[str] = mapped_column(String(64))
    pdf_path: Mapped[str] = mapped_column(String(255))
    pdf_sha256: Mapped[str] = mapped_column(String(64))
    csv_path: Mapped[str] = mapped_column(String(255))
    csv_sha256: Mapped[str] = mapped_column(String(64))
    envelope_path: Mapped[str] = mapped_column(String(255))
    envelope_sha256: Mapped[str] = mapped_column(String(64))
    key_id: Mapped[str] = mapped_column(ForeignKey("signing_keys.key_id"))
    created_at: Mapped[datetime] = mapped_column(default=now)

"""Who may call the service: applications and their API keys."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum

from sqlalchemy import CheckConstraint, ForeignKey, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.base import Base, new_id, now, status_type


class Role(StrEnum):
    APPLICATION = "application"  # posts deletion requests, sees its own
    OPERATOR = "operator"  # registers sets and models, watches jobs, releases versions
    COMPLIANCE = "compliance"  # reads requests, reports and events


class Application(Base):
    __tablename__ = "applications"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(128), unique=True)
    created_at: Mapped[datetime] = mapped_column(default=now)


class ApiKey(Base):
    """``unl_<id>_<secret>``; only an HMAC of the secret is kept."""

    __tablename__ = "api_keys"
    __table_args__ = (
        CheckConstraint("(role = 'application') = (application_id IS NOT NULL)", name="application_role_names_one"),
    )

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    role: Mapped[Role] = mapped_column(status_type(Role, "role"))
    application_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("applications.id"))
    secret_hmac: Mapped[bytes] = mapped_column(LargeBinary(32))
    label: Mapped[str] = mapped_column(String(128), default="")
    created_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]

    application: Mapped[Application | None] = relationship()

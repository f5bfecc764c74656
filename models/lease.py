"""The dispatcher's lease: whichever API process holds it plans, hints and sweeps."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base

DISPATCHER = "dispatcher"
DISPATCHER_SECONDS = 15.0


class Lease(Base):
    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    holder: Mapped[str] = mapped_column(String(128))
    expires_at: Mapped[datetime]

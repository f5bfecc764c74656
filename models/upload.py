"""Checkpoints that were uploaded and wait to become a model's first version."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, now


class Upload(Base):
    """A file that is there under its sha256. It knows training images: it goes once a model was made of it, or unused."""

    __tablename__ = "uploads"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    path: Mapped[str] = mapped_column(String(255))  # relative to the data folder
    submitted_by: Mapped[str] = mapped_column(String(64))  # id of the API key
    created_at: Mapped[datetime] = mapped_column(default=now)

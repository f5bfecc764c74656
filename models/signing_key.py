"""Public halves of the keys that sign evidence; what was signed stays verifiable after a rotation."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, now


class SigningKey(Base):
    """An Ed25519 key. The private half is a file that only the worker reads; a retired key signs no more."""

    __tablename__ = "signing_keys"

    key_id: Mapped[str] = mapped_column(String(64), primary_key=True)  # RFC 7638 thumbprint, base64url
    public_key: Mapped[str] = mapped_column(String(64))  # 32 bytes in hex
    created_at: Mapped[datetime] = mapped_column(default=now)
    retired_at: Mapped[datetime | None]

"""Uploaded checkpoints."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from service.schemas.common import Answer


class UploadAnswer(Answer):
    sha256: str
    size: int = Field(description="Bytes.")
    created_at: datetime
    expires_at: datetime = Field(description="When it is destroyed, unless a model is made of it before.")

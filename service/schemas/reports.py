"""Audit reports in lists; the reports themselves are files."""

from __future__ import annotations

import uuid
from datetime import datetime

from pydantic import Field

from service.schemas.common import Answer, Links


class ReportAnswer(Answer):
    id: uuid.UUID
    model: str
    version: int
    job: uuid.UUID
    edition: int
    supersedes: uuid.UUID | None
    verdict: str = Field(description="pass, over_unlearned, under_unlearned or inconclusive.")
    json_sha256: str
    pdf_sha256: str
    created_at: datetime
    links: Links

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
    kind: str = Field(description="audit_report or re_audit.")
    verdict: str = Field(
        description="exact, pass, over_unlearned, under_unlearned, inconclusive, or, of a re-audit, not_audited."
    )
    json_sha256: str
    pdf_sha256: str
    csv_sha256: str | None = Field(description="Null for a report that was made before reports were signed.")
    key_id: str | None = Field(description="Key of /.well-known/jwks.json that signed it; null as above.")
    created_at: datetime
    links: Links

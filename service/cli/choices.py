"""Values that the service knows, as command-line choices. A test holds each equal to its enum, whose import costs more
than everything else that `amun --help` does."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal


class RequestStatus(StrEnum):  # no Literal: Typer takes no list of those
    QUEUED = "queued"
    RUNNING = "running"
    AWAITING_APPROVAL = "awaiting_approval"
    AWAITING_RELEASE = "awaiting_release"
    ON_HOLD = "on_hold"
    COMPLETED = "completed"
    PARTIALLY_COMPLETED = "partially_completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REJECTED = "rejected"


JobStatus = Literal["queued", "running", "succeeded", "failed", "cancelled"]
JobKind = Literal["register", "train", "unlearn", "audit", "certify"]
Verdict = Literal["exact", "pass", "over_unlearned", "under_unlearned", "inconclusive", "not_audited"]
Regulation = Literal["GDPR", "UK-GDPR", "CCPA", "LGPD"]
KeyRole = Literal["application", "operator", "compliance"]

WAITING = (RequestStatus.AWAITING_APPROVAL, RequestStatus.AWAITING_RELEASE, RequestStatus.ON_HOLD)  # for a person
LIVE = (RequestStatus.QUEUED, RequestStatus.RUNNING, *WAITING)  # of a request: not ended
JOB_ENDED = ("succeeded", "failed", "cancelled")

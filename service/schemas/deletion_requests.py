"""Deletion requests."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Annotated, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from models.deletion_request import RequestStatus
from models.erasure import ErasureStatus
from service.due import PERIODS
from service.lists.cursors import LONGEST
from service.lists.paging import DEFAULT_ON_A_PAGE, MOST_ON_A_PAGE
from service.schemas.common import Answer, Body, Details, Links, Name, ShortText, Storable, Time, no_nul
from service.schemas.selectors import Selector, SelectorOutcome


def _known(regulation: str) -> str:
    if regulation not in PERIODS:
        raise ValueError("must be one of " + ", ".join(PERIODS))
    return regulation


Regulation = Annotated[str, AfterValidator(_known)]


class NewDeletionRequest(Body):
    training_set: Name
    samples: list[Selector] = Field(min_length=1, max_length=10_000)
    models: list[Name] | None = Field(
        default=None, min_length=1, max_length=1000, description="Default: every model trained on the set."
    )
    external_id: ShortText | None = Field(default=None, description="The caller's own number of the case.")
    regulation: Regulation = Field(
        default="GDPR", description="Its period makes the due date.", json_schema_extra={"enum": list(PERIODS)}
    )
    ground: Annotated[str, StringConstraints(min_length=1, max_length=64), AfterValidator(no_nul), Storable] | None = (
        Field(default=None, description="Such as `17(1)(b)`.")
    )
    submitted_at: Time | None = Field(default=None, description="When the person asked; the period runs from then.")
    partial: bool = Field(default=False, description="Accept the request although some selectors are not found.")


class RequestSearch(Body):
    """By the caller's number or by the person; where both are given, both must fit."""

    external_id: ShortText | None = Field(default=None, description="The caller's own number of the case.")
    subject: ShortText | None = Field(default=None, description="Person whose samples a request names, or named.")
    training_set: Name | None = None
    status: list[RequestStatus] | RequestStatus | None = None
    limit: int = Field(default=DEFAULT_ON_A_PAGE, ge=1, le=MOST_ON_A_PAGE)
    cursor: str | None = Field(default=None, max_length=LONGEST, description="`next_cursor` of the page before.")

    @model_validator(mode="after")
    def somebody_is_searched_for(self) -> Self:
        if self.external_id is None and self.subject is None:
            raise ValueError("give external_id, subject or both")
        return self

    @property
    def statuses(self) -> list[RequestStatus]:
        return self.status if isinstance(self.status, list) else [self.status] if self.status is not None else []


class ErasureAnswer(Answer):
    """The request in one model."""

    id: uuid.UUID
    model: str
    status: ErasureStatus
    job: uuid.UUID | None
    version: int | None = Field(description="Number of the version that has forgotten the samples.")
    report: uuid.UUID | None = Field(description="Newest audit report of that version.")
    reason: str | None
    starts_by: datetime | None = Field(
        description="Where the model gathers requests and this one waits: when they become a job at the latest."
    )
    finished_at: datetime | None


class RequestSummary(Answer):
    id: uuid.UUID
    status: RequestStatus
    application: str
    training_set: str
    external_id: str | None
    regulation: str
    ground: str | None
    submitted_at: datetime | None
    received_at: datetime
    due_at: datetime
    days_left: int | None = Field(
        description="Calendar days until it is due; negative when overdue, null once it ended."
    )
    due_soon: bool = Field(description="Due within seven days, and not ended.")
    overdue: bool = Field(description="Past its due date, and not ended.")
    original_due_at: datetime | None = Field(description="Before the period was extended.")
    extended_at: datetime | None
    extension_reason: str | None
    approval_required: bool
    approved_at: datetime | None
    rejected_at: datetime | None
    cancelled_at: datetime | None
    held_at: datetime | None
    decision_reason: str | None = Field(
        description="Of the last hold, resumption, cancellation, approval or rejection."
    )
    erasures: list[ErasureAnswer]
    links: Links


class RequestAnswer(RequestSummary):
    samples: list[SelectorOutcome] = Field(
        description="Each selector as it was answered at receipt; empty once the samples' names were erased."
    )
    near_duplicates: int | None = Field(
        description="Rows of the set that look nearly like its samples, are not part of it and are still there; null where "
        "the set was not searched for them."
    )
    resolution: Details | None = Field(description="How many selectors of each kind, and what became of them; stays.")
    controls_erased_at: datetime | None = Field(
        description="When the controls that it names were read back as gone: at once, for no model knows them."
    )
    samples_erased_at: datetime | None = Field(description="When pixels and names were read back as gone.")
    samples_kept: Details | None = Field(description="Why pixels and names are still there, and which models use them.")
    certificate: uuid.UUID | None = Field(description="Newest edition of the erasure certificate.")


class RequestReceipt(Answer):
    """The answer to the POST: it stays the same however often the request is sent again with its Idempotency-Key."""

    id: uuid.UUID
    status: RequestStatus = Field(description="At receipt; GET tells how far it is now.")
    training_set: str
    models: list[str]
    external_id: str | None
    regulation: str
    ground: str | None
    submitted_at: datetime | None
    received_at: datetime
    due_at: datetime
    approval_required: bool
    samples: list[SelectorOutcome]
    links: Links

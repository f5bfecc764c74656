"""Forms that several resources share."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
MOST_ROWS = 2**31 - 1  # what a database integer holds


def no_nul(text: str) -> str:
    if "\0" in text:  # PostgreSQL cannot store it
        raise ValueError("must not contain the NUL character")
    return text


def _storable(at: datetime) -> datetime:
    try:
        at = at.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be a time between the years 1900 and 2999") from None
    if not 1900 <= at.year <= 2999:
        raise ValueError("must be a time between the years 1900 and 2999")
    return at


Name = Annotated[str, StringConstraints(pattern=NAME)]
ShortText = Annotated[str, StringConstraints(min_length=1, max_length=255), AfterValidator(no_nul)]
LongText = Annotated[str, StringConstraints(min_length=1, max_length=2000), AfterValidator(no_nul)]
Time = Annotated[AwareDatetime, AfterValidator(_storable)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{64}$", to_lower=True)]


class Body(BaseModel):
    """What a caller sends. An unknown field is an error, so that a misspelt one is never ignored."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Answer(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class Reason(Body):
    reason: LongText = Field(description="Why; it stays in the event log. Name no person in it.")


class OptionalReason(Body):
    reason: LongText | None = Field(default=None, description="Why; it stays in the event log. Name no person in it.")


class Accepted(Answer):
    """A job that was queued with the record."""

    id: uuid.UUID
    kind: str
    status: str
    created_at: datetime


Details = dict[str, Any]
Links = dict[str, str]  # paths of what belongs to a record

"""Forms that several resources share."""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
MOST_ROWS = 2**31 - 1  # what a database integer holds


def no_nul(text: str) -> str:
    if "\0" in text:  # PostgreSQL cannot store it
        raise ValueError("must not contain the NUL character")
    return text


def _written_out(value: Any) -> Any:
    """pydantic would take a number for seconds since 1970, and a day for its midnight."""
    if isinstance(value, str) and RFC_3339.fullmatch(value) is None:
        raise ValueError("must be a time as RFC 3339 writes it, with its zone, such as 2026-11-20T09:00:00Z")
    return value


def _storable(at: datetime) -> datetime:
    try:
        at = at.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be a time between the years 1900 and 2999") from None
    if not 1900 <= at.year <= 2999:
        raise ValueError("must be a time between the years 1900 and 2999")
    return at


Name = Annotated[str, StringConstraints(pattern=NAME)]
Storable = Field(json_schema_extra={"pattern": r"^[^\u0000]*$"})  # what `no_nul` checks, for who reads the schema
ShortText = Annotated[str, StringConstraints(min_length=1, max_length=255), AfterValidator(no_nul), Storable]
LongText = Annotated[str, StringConstraints(min_length=1, max_length=2000), AfterValidator(no_nul), Storable]
Time = Annotated[AwareDatetime, BeforeValidator(_written_out), AfterValidator(_storable)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{64}$", to_lower=True)]


def exactly_one(schema: dict[str, Any]) -> None:
    """For a body with one of several fields, in the words of JSON Schema: one property, and it is not null."""
    schema["minProperties"] = schema["maxProperties"] = 1
    for prop in schema["properties"].values():
        (kind,) = (option for option in prop.pop("anyOf") if option.get("type") != "null")
        prop.pop("default")
        prop.update(kind)


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

"""How a caller names samples, and what became of each name."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from service.schemas.common import MOST_ROWS, Answer, Body, Digest, ShortText, Storable, exactly_one, no_nul

FIELDS = ("key", "index", "sha256", "file_sha256", "subject")


def _a_number(value: Any) -> Any:
    """pydantic would take text and truth for numbers; 7.0 is an integer in JSON Schema, and here."""
    if isinstance(value, str | bool):
        raise ValueError("must be an integer")
    return value


class Selector(Body):
    """Names samples in exactly one way."""

    model_config = ConfigDict(frozen=True, json_schema_extra=exactly_one)

    key: Annotated[str, StringConstraints(min_length=1, max_length=1024), AfterValidator(no_nul), Storable] | None = (
        Field(default=None, description="Key in the training set, such as `train/00017`.")
    )
    index: Annotated[int, Field(ge=0, le=MOST_ROWS), BeforeValidator(_a_number)] | None = Field(
        default=None, description="Row of the training set."
    )
    sha256: Digest | None = Field(default=None, description="Of the pixels: stands for every image with them.")
    file_sha256: Digest | None = Field(default=None, description="Of the file that was registered.")
    subject: ShortText | None = Field(default=None, description="Person whose images they are: stands for all of them.")

    @model_validator(mode="after")
    def exactly_one(self) -> Self:
        if len(self.model_fields_set) != 1 or all(getattr(self, field) is None for field in self.model_fields_set):
            raise ValueError("name the sample by exactly one of " + ", ".join(FIELDS))
        return self

    @property
    def name(self) -> tuple[str, str | int]:
        """The field that is given, and its value."""
        for field in FIELDS:
            value: str | int | None = getattr(self, field)
            if value is not None:
                return field, value
        raise AssertionError("validation lets no selector without a name pass")


class Outcome(StrEnum):
    MATCHED = "matched"
    PENDING = "pending"  # also in another open request; it is part of this one all the same
    CONTROL = "control"  # never trained on: pixels, signals and row are erased, the models are unaffected
    ALREADY_ERASED = "already_erased"
    DUPLICATE = "duplicate"  # everything it stands for was named earlier in this request
    NOT_FOUND = "not_found"


class SelectorOutcome(Answer):
    """What a selector stands for. A sample is listed once a request, at the first selector that stands for it."""

    selector: dict[str, str | int]
    outcome: Outcome
    count: int = Field(description="Samples listed in indices and copies.")
    indices: list[int] = Field(description="Rows that the selector names.")
    copies: list[int] = Field(description="Rows with exactly the same pixels, which go along.")

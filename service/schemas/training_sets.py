"""Training sets: registration, state, and search for samples."""

from __future__ import annotations

import uuid
from datetime import datetime
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, model_validator

from models.training_set import Split, TrainingSetStatus
from service.schemas.common import Accepted, Answer, Body, Details, Name, exactly_one
from service.schemas.selectors import Selector, SelectorOutcome


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if path.startswith("/") or ".." in parts or not parts or "\0" in path or "\\" in path:
        raise ValueError("must be a path relative to the import root, without `..`")
    return path


def _a_name(name: str) -> str:
    if name in (".", "..") or not name.isprintable() or "/" in name or "\\" in name:
        raise ValueError("must be the name of a file in the source folder itself")
    return name


FileName = Annotated[str, StringConstraints(min_length=1, max_length=255), AfterValidator(_a_name)]
RelativePath = Annotated[str, StringConstraints(min_length=1, max_length=1024), AfterValidator(_inside)]


class BuiltinSource(Body):
    kind: Literal["builtin"]
    path: Literal["digits"] = Field(description="scikit-learn's handwritten digits: 1,797 images of 8 x 8 pixels.")


class FolderSource(Body):
    kind: Literal["folder"]
    path: RelativePath = Field(
        description="Folder of class folders with PNG or JPEG files, relative to AMUN_IMPORT_ROOT."
    )
    subjects: FileName | None = Field(
        default=None,
        description="CSV file directly in the folder, in UTF-8, with the columns `key` and `subject`: whom images show.",
        examples=["subjects.csv"],
    )


class ArraysSource(Body):
    kind: Literal["arrays"]
    path: RelativePath = Field(
        description="An npz file, relative to AMUN_IMPORT_ROOT: `images` (uint8, N x H x W, N x H x W x C or N x C x H x W, "
        "C 1 or 3) and `labels` (integers), and where they are there `classes` (names), `keys` (each once), `subjects` "
        "(empty: none) and `splits`, as text.",
        examples=["faces.npz"],
    )


class TorchvisionSource(Body):
    kind: Literal["torchvision"]
    path: RelativePath = Field(
        description="Folder that holds `cifar-10-batches-py` or `FashionMNIST`, as torchvision's download leaves them, "
        "relative to AMUN_IMPORT_ROOT. Nothing is downloaded."
    )
    dataset: Literal["CIFAR10", "FashionMNIST"] = Field(
        description="Its images are named `train/00000` and so on, and `test/00000` and so on."
    )


class Controls(Body):
    """Images that no model is ever trained on: an audit compares forgotten images with them. Exactly one of the two."""

    model_config = ConfigDict(json_schema_extra=exactly_one)

    share: float | None = Field(default=None, gt=0, lt=1, description="Of all images, drawn at random.")
    folder: Name | None = Field(
        default=None,
        description="Top folder that holds them, or split of the arrays or of torchvision's files, such as `test`.",
    )

    @model_validator(mode="after")
    def exactly_one(self) -> Self:
        if len(self.model_fields_set) != 1 or (self.share is None and self.folder is None):
            raise ValueError("give either share or folder")
        return self


class NewTrainingSet(Body):
    name: Name
    applications: list[Name] = Field(
        max_length=1000, description="Applications that may erase from it; made where they do not exist yet."
    )
    source: Annotated[BuiltinSource | FolderSource | ArraysSource | TorchvisionSource, Field(discriminator="kind")]
    controls: Controls

    @model_validator(mode="after")
    def controls_fit_the_source(self) -> Self:
        if self.controls.folder is not None and self.source.kind == "builtin":
            raise ValueError("controls.folder does not go with a source of kind builtin: give controls.share")
        if self.source.kind == "torchvision" and self.controls.folder not in (None, "test"):
            raise ValueError("controls.folder of torchvision's files is test, which no model is then trained on")
        return self


class TrainingSetAnswer(Answer):
    id: uuid.UUID
    name: str
    status: TrainingSetStatus
    applications: list[str]
    source: Details
    controls: Details
    shape: list[int] | None = Field(description="Channels, height, width.")
    classes: list[str] | None
    rows: int | None
    manifest_sha256: str | None
    near_duplicates: Details | None = Field(
        description="How pairs of nearly the same image were searched for, and how many there are; null: they were not."
    )
    error: Details | None = Field(description="Why it failed: code and detail.")
    created_at: datetime


class TrainingSetAccepted(Answer):
    training_set: TrainingSetAnswer
    job: Accepted


class SampleSearch(Body):
    samples: list[Selector] = Field(min_length=1, max_length=10_000)


class SampleAnswer(Answer):
    index: int
    key: str | None
    sha256: str | None
    file_sha256: str | None
    label: int
    split: Split
    subject: str | None
    erased_at: datetime | None


class SampleSearchAnswer(Answer):
    samples: list[SelectorOutcome]
    data: list[SampleAnswer] = Field(description="Every row that a selector or one of its copies stands for, by index.")

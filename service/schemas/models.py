"""Models and their versions."""

from __future__ import annotations

import uuid
from datetime import datetime

from pydantic import Field

from models.model import ModelStatus
from models.model_version import VersionStatus
from models.parameters import Network, Policy, Recipe
from service.schemas.common import Accepted, Answer, Body, Details, Digest, Name


class NewModel(Body):
    name: Name
    training_set: Name
    network: Network
    recipe: Recipe = Field(description="Compulsory: reference models and retraining repeat it.")
    policy: Policy = Field(
        default_factory=Policy, description="How it is unlearned and audited; what is left out has its default."
    )
    checkpoint: Digest | None = Field(
        default=None,
        description="sha256 of an upload: the model, trained elsewhere by the recipe on the set's training images and on "
        "no control. It is checked instead of trained; its reference models are trained here. Only while no image of the "
        "set was erased or is to be.",
    )


class ModelAnswer(Answer):
    id: uuid.UUID
    name: str
    status: ModelStatus
    training_set: str
    network: Details
    recipe: Details
    policy: Details
    checkpoint: str | None = Field(description="sha256 of the upload that its first version was made of, if any.")
    released_version: int | None = Field(description="Number of the version that is served.")
    training: Details | None = Field(description="What the train job measured.")
    error: Details | None
    created_at: datetime


class ModelAccepted(Answer):
    model: ModelAnswer
    job: Accepted


class VersionAnswer(Answer):
    id: uuid.UUID
    model: str
    number: int
    status: VersionStatus
    parent: int | None = Field(description="Number of the version it was made from.")
    job: uuid.UUID
    sha256: str
    size: int = Field(description="Bytes.")
    verdict: str | None = Field(description="Of its audit, or exact (retrained); null for the first version.")
    reason: str | None
    created_at: datetime
    released_at: datetime | None
    destroyed_at: datetime | None = Field(description="When its file was seen to be gone.")

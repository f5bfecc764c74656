"""Registered models."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.base import Base, new_id, now, status_type
from models.moves import Moves
from models.training_set import TrainingSet


class ModelStatus(StrEnum):
    TRAINING = "training"  # its train job has not finished
    READY = "ready"  # has a released version
    WITHDRAWN = "withdrawn"  # no version may be served now
    RETIRED = "retired"  # for good
    FAILED = "failed"  # training failed; error says why


class Model(Base):
    __tablename__ = "models"
    __table_args__ = (Index("ix_models_status", "status", "id"),)
    MOVES: ClassVar[Moves] = {
        ModelStatus.TRAINING: frozenset({ModelStatus.READY, ModelStatus.FAILED}),
        ModelStatus.READY: frozenset({ModelStatus.WITHDRAWN, ModelStatus.RETIRED}),
        ModelStatus.WITHDRAWN: frozenset({ModelStatus.READY, ModelStatus.RETIRED}),
        ModelStatus.RETIRED: frozenset(),
        ModelStatus.FAILED: frozenset({ModelStatus.TRAINING}),  # its job is retried
    }

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(128), unique=True)
    status: Mapped[ModelStatus] = mapped_column(status_type(ModelStatus, "status"), default=ModelStatus.TRAINING)
    training_set_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("training_sets.id"), index=True)
    network: Mapped[dict[str, Any]]  # parameters.Network
    preprocessing: Mapped[dict[str, Any] | None]  # how a pixel array becomes the network's input
    recipe: Mapped[dict[str, Any]]  # parameters.Recipe
    policy: Mapped[dict[str, Any]]  # parameters.Policy
    checkpoint: Mapped[str | None] = mapped_column(
        String(64)
    )  # sha256 of the upload it was made of; None: trained here
    released_number: Mapped[int | None]  # the version that is served
    training: Mapped[dict[str, Any] | None]  # worker.plan.TrainResult: accuracies, references, rehearsal
    folder: Mapped[str | None] = mapped_column(String(255))  # reference signals, relative to the data folder
    error: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(default=now)

    training_set: Mapped[TrainingSet] = relationship()

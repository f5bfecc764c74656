"""Registered training sets and their samples."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, new_id, now, status_type
from models.moves import Moves


class TrainingSetStatus(StrEnum):
    REGISTERING = "registering"  # its register job has not finished
    READY = "ready"
    FAILED = "failed"  # the source could not be used; error says why


class TrainingSet(Base):
    __tablename__ = "training_sets"
    __table_args__ = (Index("ix_training_sets_status", "status", "id"),)
    MOVES: ClassVar[Moves] = {
        TrainingSetStatus.REGISTERING: frozenset({TrainingSetStatus.READY, TrainingSetStatus.FAILED}),
        TrainingSetStatus.READY: frozenset(),
        TrainingSetStatus.FAILED: frozenset({TrainingSetStatus.REGISTERING}),  # its job is retried
    }

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(128), unique=True)
    status: Mapped[TrainingSetStatus] = mapped_column(
        status_type(TrainingSetStatus, "status"), default=TrainingSetStatus.REGISTERING
    )
    source: Mapped[dict[str, Any]]  # {"kind", "path"} as asked for
    controls: Mapped[dict[str, Any]]  # {"share"} or {"folder"} as asked for
    shape: Mapped[list[Any] | None]  # [channels, height, width]
    classes: Mapped[list[Any] | None]
    rows: Mapped[int | None]
    manifest_sha256: Mapped[str | None] = mapped_column(String(64))
    folder: Mapped[str | None] = mapped_column(String(255))  # relative to the data folder
    suppressed: Mapped[int | None]  # rows left out at registration: their content was erased from another set before
    near_duplicates: Mapped[dict[str, Any] | None]  # worker.plan.NearDuplicates: how pairs were found, and how many
    error: Mapped[dict[str, Any] | None]  # {"code", "detail"}
    created_at: Mapped[datetime] = mapped_column(default=now)


class TrainingSetApplication(Base):
    """An application that may erase from a training set."""

    __tablename__ = "training_set_applications"

    training_set_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("training_sets.id"), primary_key=True)
    application_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("applications.id"), primary_key=True)


class Split(StrEnum):
    TRAIN = "train"
    CONTROL = "control"  # never trained on by any model of the set


class Sample(Base):
    """Row ``index`` of the set's arrays. Key, digests and subject are nulled once the row is overwritten."""

    __tablename__ = "samples"
    __table_args__ = (
        UniqueConstraint("training_set_id", "key"),
        Index("ix_samples_sha256", "training_set_id", "sha256"),
        Index("ix_samples_file_sha256", "training_set_id", "file_sha256"),
        Index("ix_samples_subject", "training_set_id", "subject"),
    )

    training_set_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("training_sets.id"), primary_key=True)
    index: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    key: Mapped[str | None] = mapped_column(Text)
    sha256: Mapped[str | None] = mapped_column(String(64))  # of the pixels
    file_sha256: Mapped[str | None] = mapped_column(String(64))
    label: Mapped[int]
    split: Mapped[Split] = mapped_column(status_type(Split, "split"))
    subject: Mapped[str | None] = mapped_column(String(255))
    erased_at: Mapped[datetime | None]


class Suppression(Base):
    """Keyed hash of what named an erased sample: it answers "already erased" without keeping the name."""

    __tablename__ = "suppressions"

    training_set_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("training_sets.id"), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)  # HMAC-SHA-256 of "<field>:<value>"
    sample_index: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    created_at: Mapped[datetime] = mapped_column(default=now)

"""Immutable checkpoints of a model."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import BigInteger, ForeignKey, Index, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, new_id, now, status_type
from models.moves import Moves


class VersionStatus(StrEnum):
    CANDIDATE = "candidate"  # made, gate not yet passed
    RELEASED = "released"  # what GET /v1/models/{name}/checkpoint serves
    QUARANTINED = "quarantined"  # kept back; a person may release it
    SUPERSEDED = "superseded"  # a later version was released
    DESTROYED = "destroyed"  # its file is gone


class ModelVersion(Base):
    __tablename__ = "model_versions"
    __table_args__ = (
        UniqueConstraint("model_id", "number"),
        UniqueConstraint("job_id"),
        Index(
            "uq_model_versions_one_released",
            "model_id",
            unique=True,
            sqlite_where=text("status = 'released'"),
            postgresql_where=text("status = 'released'"),
        ),
    )
    MOVES: ClassVar[Moves] = {
        VersionStatus.CANDIDATE: frozenset({VersionStatus.RELEASED, VersionStatus.QUARANTINED}),
        VersionStatus.RELEASED: frozenset({VersionStatus.SUPERSEDED, VersionStatus.QUARANTINED}),
        VersionStatus.QUARANTINED: frozenset({VersionStatus.RELEASED, VersionStatus.DESTROYED}),
        VersionStatus.SUPERSEDED: frozenset({VersionStatus.DESTROYED}),
        VersionStatus.DESTROYED: frozenset(),
    }

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("models.id"))
    number: Mapped[int]
    parent_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("model_versions.id"))
    job_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("jobs.id"))
    status: Mapped[VersionStatus] = mapped_column(status_type(VersionStatus, "status"), default=VersionStatus.CANDIDATE)
    path: Mapped[str] = mapped_column(String(255))  # relative to the data folder
    sha256: Mapped[str] = mapped_column(String(64))
    size: Mapped[int] = mapped_column(BigInteger)
    verdict: Mapped[str | None] = mapped_column(String(32))  # of the audit, or exact; None for the first version
    reason: Mapped[str | None] = mapped_column(Text)  # why it was quarantined or released by a person
    created_at: Mapped[datetime] = mapped_column(default=now)
    released_at: Mapped[datetime | None]
    decided_at: Mapped[datetime | None]  # last release or quarantine by a person: a report made before lacks it
    destroyed_at: Mapped[datetime | None]
    never_trained: Mapped[list[Any] | None]  # retrained: rows of the training set that it was not trained on

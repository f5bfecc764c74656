"""Pairs of nearly the same image in one training set, found when it was registered."""

from __future__ import annotations

import uuid

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base


class NearDuplicate(Base):
    """Rows ``first`` < ``second`` that are closer than the set's threshold, and no exact copies.

    Holds row numbers alone, so it stays when the samples are erased: a certificate names what was left beside them.
    """

    __tablename__ = "near_duplicates"
    __table_args__ = (Index("ix_near_duplicates_second", "training_set_id", "second"),)

    training_set_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("training_sets.id"), primary_key=True)
    first: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    second: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    distance: Mapped[float]  # as worker.unlearning.near_duplicates measures it

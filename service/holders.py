"""Which live models still need samples of a training set that a request has had forgotten."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.orm import Session

from models import holdings
from models.records import Erasure, Model, ModelStatus, ModelVersion, VersionStatus

LIVE = (ModelStatus.TRAINING, ModelStatus.READY, ModelStatus.WITHDRAWN)


@dataclass(frozen=True)
class Holder:
    """A live model: rows that it is still asked to forget, and what each of its versions has forgotten."""

    model: str
    unfinished: set[int]
    served: list[set[int]] = field(default_factory=list)
    kept_back: list[set[int]] = field(default_factory=list)


def holders_of(session: Session, training_set_id: uuid.UUID) -> list[Holder] | None:
    """What each live model of the set is still at, and what it knows; None: one is being trained."""
    found = []
    models = session.scalars(
        select(Model).where(Model.training_set_id == training_set_id, Model.status.in_(LIVE)).order_by(Model.name)
    ).all()
    if any(model.status is ModelStatus.TRAINING for model in models):
        return None
    for model in models:
        unfinished = select(Erasure.id).where(Erasure.model_id == model.id, Erasure.status.in_(holdings.UNFINISHED))
        holder = Holder(model.name, holdings.samples_of(session, unfinished))
        for version in session.scalars(
            select(ModelVersion).where(
                ModelVersion.model_id == model.id, ModelVersion.status != VersionStatus.DESTROYED
            )
        ):
            forgotten = holdings.forgotten(session, version)
            (holder.served if version.status is VersionStatus.RELEASED else holder.kept_back).append(forgotten)
        found.append(holder)
    return found


def models_knowing(holders: list[Holder] | None, rows: set[int]) -> list[str] | None:
    """Names of live models that know some of the rows and are not asked to forget them; None: some are still at it."""
    if holders is None:
        return None
    for holder in holders:
        # About to be destroyed, or to be decided by a person: what knows a row and is not served.
        if holder.unfinished & rows or any(rows - forgotten for forgotten in holder.kept_back):
            return None
    return [holder.model for holder in holders if any(rows - forgotten for forgotten in holder.served)]
